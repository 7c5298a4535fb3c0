"""Layer groups as a table: in the terminal, and as HTML in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING

from finetune.plain_text import drawn

if TYPE_CHECKING:
    from finetune.models.layer_groups import LayerGroup

_NAMES = {"lr": "learning rate", "weight_decay": "weight decay"}
_ALWAYS = ("lr", "momentum", "weight_decay")


def _rows(groups: Iterable[LayerGroup]) -> tuple[list[str], list[list[str]]]:
    """Header and cells; hyper-parameters at their peaks."""
    groups = list(groups)
    values = [{**group.values, **group.peaks} for group in groups]
    found = dict.fromkeys(name for own in values for name in own)
    # the others are worth a column only where groups differ
    differ = [n for n in found if n not in _ALWAYS and len({own.get(n) for own in values}) > 1]
    names = [n for n in _ALWAYS if n in found] + differ
    header = ["group", "modules", "layers", "parameters", "trainable", "norm", "optimizer"]
    rows = [
        [
            group.name,
            _span(group),
            f"{len({name.rpartition('.')[0] for name in group.parameters}):,}",
            f"{group.parameter_count:,}",
            f"{group.trainable_count:,}",
            group.norm,
            group.optimizer,
            *(f"{own[name]:.3g}" if name in own else "-" for name in names),
        ]
        for group, own in zip(groups, values, strict=True)
    ]
    return header + [_NAMES.get(name, name) for name in names], rows


def _span(group: LayerGroup) -> str:
    """The range of layers, as module paths: 'backbone.conv_stem .. backbone.blocks.3.1'."""
    owners = [name.rpartition(".")[0] or name for name in group.parameters]
    return owners[0] if owners[0] == owners[-1] else f"{owners[0]} .. {owners[-1]}"


def as_text(groups: Iterable[LayerGroup]) -> str:
    """For a terminal: about 120 characters wide."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    header, rows = _rows(groups)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in header:
        if column == "modules":
            table.add_column(column, max_width=34, overflow="fold")
        else:
            left = column in ("group", "norm", "optimizer")
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return drawn(table, 200)


def as_html(groups: Iterable[LayerGroup]) -> str:
    """For a notebook, light or dark: no colour of its own."""
    header, rows = _rows(groups)

    def line(cells: list[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{line(header, 'th')}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"
