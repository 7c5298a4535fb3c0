"""One self-contained HTML page made of tables, figures and texts; a browser opens it from disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from PIL import Image

from finetune.files.replacing import write_bytes
from finetune.interpret.figure import as_png
from finetune.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAVED_DPI = 150
"""Pixels per inch of a figure in a page and of its file, more than are shown: for sharp screens."""
_SHOWN_DPI = 96  # CSS pixels per inch
_WIDE = 500  # CSS pixels


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of a name and its value, shown one below the other."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Text:
    """Text in a monospaced font, shown as it is.

    folded: the words one clicks on to see the text; empty if it is always shown.
    """

    kind: ClassVar[str] = "text"
    text: str
    folded: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as an image.

    data: a PNG file in base64. width: CSS pixels. alt: what it shows, in words. wide: whether a
    phone scrolls it instead of shrinking it.
    """

    kind: ClassVar[str] = "figure"
    data: str
    width: int
    alt: str
    wide: bool

    @classmethod
    def of(cls, figure: Figure, alt: str, file: Path | None = None) -> Drawing:
        """Renders a figure. alt: what it shows, in words. file: a PNG file for it, on white."""
        png = as_png(figure, SAVED_DPI)
        if file is not None:
            write_bytes(file, _on_white(png))
        width = round(float(figure.get_figwidth()) * _SHOWN_DPI)
        return cls(base64.b64encode(png).decode("ascii"), width, alt, wide=width > _WIDE)


def _on_white(png: bytes) -> bytes:
    """The image of a PNG file on white, as a PNG file: to draw the figure again takes longer."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    stream = io.BytesIO()
    Image.alpha_composite(white, image).convert("RGB").save(
        stream, "png", dpi=(SAVED_DPI, SAVED_DPI)
    )
    return stream.getvalue()


Part: TypeAlias = Table | Facts | Text | Drawing


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it. note: a line of explanation under the heading, or empty."""

    title: str
    parts: Sequence[Part]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page. headline: a few pairs of a value and what it is, shown large."""

    title: str
    subtitle: str
    headline: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=list)


def render(page: Page) -> str:
    """Renders the page as HTML that has no scripts and loads nothing; all texts are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("finetune.interpret").joinpath("page.html.jinja").read_text("utf-8")
    return environment.from_string(source).render(page=page)
