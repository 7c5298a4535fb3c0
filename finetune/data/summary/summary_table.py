"""A data summary as text for a terminal, and as HTML for a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.plain_text import drawn

if TYPE_CHECKING:
    from finetune.data.summary.duplicates import Twins
    from finetune.data.summary.summary import DataSummary

SHOWN = 20
"""Largest and smallest classes that are listed, each, where there are more than twice as many."""
_LISTED = 5


def as_text(summary: DataSummary) -> str:
    """Warnings first, then the classes, then what the images are like."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    header, rows = _rows(summary)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i, max_width=60)
    for row in rows:
        table.add_row(*map(escape, row))
    middle = drawn(table, 140)
    warnings = [line for head, items in _warnings(summary) for line in (head, *_indented(items))]
    facts = _facts(summary)
    width = max(len(name) for name, _ in facts)
    below = [f" {name:<{width}}  {value}" for name, value in facts]
    return "\n".join([*warnings, *([""] if warnings else []), middle, "", *below])


def as_html(summary: DataSummary) -> str:
    """For a notebook, light or dark: no colour of its own."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    parts = []
    for head, items in _warnings(summary):
        listed = "".join(f"<li>{html.escape(item)}</li>" for item in items)
        parts.append(f"<p><strong>{html.escape(head)}</strong></p><ul>{listed}</ul>")
    header, rows = _rows(summary)
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    parts.append(
        f"<table><thead><tr>{line(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"
    )
    facts = "".join(
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='text-align: left'>{html.escape(value)}</td></tr>"
        for name, value in _facts(summary)
    )
    return "".join([*parts, f"<table><tbody>{facts}</tbody></table>"])


def _indented(items: Sequence[str]) -> list[str]:
    return [f"  {item}" for item in items]


def _rows(summary: DataSummary) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the classes, or of the targets."""
    if summary.task == "regression":
        spans = [[f"{v:.4g}" for v in (*t.train, *t.valid)] for t in summary.targets]
        rows = [[t.name, *own] for t, own in zip(summary.targets, spans, strict=True)]
        return ["target", "train min", "mean", "max", "valid min", "mean", "max"], rows
    counts = summary.classes
    total = ["all images", f"{summary.images[0]:,}", f"{summary.images[1]:,}", ""]
    whole = max(summary.images[0], 1)
    header = ["class", "train", "valid", "share of train"]
    if len(counts) > 2 * SHOWN:
        counts = tuple(sorted(counts, key=lambda count: -count.train))
    rows = [[c.name, f"{c.train:,}", f"{c.valid:,}", f"{c.train / whole:.1%}"] for c in counts]
    if len(counts) > 2 * SHOWN:
        between = [f"... {len(rows) - 2 * SHOWN} classes between", "", "", ""]
        rows = [*rows[:SHOWN], between, *rows[-SHOWN:]]
    return header, [*rows, total]


def _warnings(summary: DataSummary) -> list[tuple[str, list[str]]]:
    """What should be put right, worst first; each with its first examples."""
    found: list[tuple[str, list[str]]] = []
    if summary.leaks:
        verb = "is" if len(summary.leaks) == 1 else "are"
        what = (
            f"LEAK: {len(summary.leaks):,} of {_many(summary.images[1], 'validation image')} "
            f"{verb} in training, too, byte for byte: validation flatters the model (.leaks)"
        )
        found.append((what, _pairs(summary.leaks)))
    if summary.conflicts:
        pairs = _many(len(summary.conflicts), "pair")
        what = f"CONFLICT: {pairs} of identical images with different labels (.conflicts)"
        found.append((what, _pairs(summary.conflicts)))
    if summary.unreadable:
        what = f"{_many(len(summary.unreadable), 'image')} can't be read (.unreadable)"
        found.append((what, _some([str(error) for error in summary.unreadable])))
    if summary.duplicates:
        what = f"duplicates in training: {_many(len(summary.duplicates), 'pair')} (.duplicates)"
        found.append((what, _pairs(summary.duplicates)))
    return found


def _pairs(twins: Sequence[Twins]) -> list[str]:
    return _some(
        [
            f"{t.first} = {t.second}"
            + (f" ({t.first_label} / {t.second_label})" if t.is_conflict else "")
            for t in twins
        ]
    )


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _LISTED
    return lines if more <= 0 else [*lines[:_LISTED], f"... and {more} more"]


def _facts(summary: DataSummary) -> list[tuple[str, str]]:
    """The rest, line by line."""
    facts = []
    if summary.imbalance is not None:
        facts.append(("imbalance", f"{summary.imbalance:.3g} (largest class / smallest)"))
    if summary.task == "multi_label":
        facts.append(("without a label", _many(summary.unlabelled, "image")))
    for name, sides in (("width", summary.widths), ("height", summary.heights)):
        if sides is not None:
            low, middle, high = sides
            facts.append((name, f"{low:,} to {high:,} px, median {middle:,.0f}"))
    if summary.formats:
        facts.append(("formats", _counted(summary.formats)))
    if summary.left_out:
        facts.append(("left out", f"{_counted(summary.left_out)} (by extension)"))
    if summary.unused:
        facts.append(("not used", f"{_many(summary.unused, 'image')} in the folder"))
    looked = "all decoded" if summary.decoded else "headers only; summary(decode=True) reads all"
    facts.append(("unreadable", f"{len(summary.unreadable)} ({looked})"))
    facts.append(("duplicates", f"{len(summary.duplicates)} in training"))
    facts.append(("leaks", f"{len(summary.leaks)} from training into validation"))
    return facts


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
