"""One self-contained HTML page out of tables, figures and texts; it opens from disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from finetune.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS = 150  # an inch; twice as many as shown, for sharp screens
_SHOWN = 96


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one below the other."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Text:
    """As it is, in a monospaced font. folded: what it hides behind, or empty."""

    kind: ClassVar[str] = "text"
    text: str
    folded: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """data: a PNG file in base64. width: pixels. wide: scrolled on a phone, not shrunk."""

    kind: ClassVar[str] = "figure"
    data: str
    width: int
    alt: str
    wide: bool

    @classmethod
    def of(cls, figure: Figure, alt: str, file: Path | None = None) -> Drawing:
        """file: where the PNG goes, too."""
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DOTS, facecolor=figure.get_facecolor())
        if file is not None:
            file.write_bytes(stream.getvalue())
        width = round(float(figure.get_figwidth()) * _SHOWN)
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        return cls(data, width, alt, wide=width > 500)


Part: TypeAlias = Table | Facts | Text | Drawing


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    parts: Sequence[Part]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """headline: (value, what it is), few. sections: in order."""

    title: str
    subtitle: str
    headline: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=list)


def render(page: Page) -> str:
    """HTML without scripts and without anything from elsewhere; all texts are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("finetune.interpret").joinpath("page.html.jinja").read_text("utf-8")
    return environment.from_string(source).render(page=page)
