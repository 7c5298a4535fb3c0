"""Epochs as a table: text that grows a line at a time, and HTML for notebooks."""

import html
from collections.abc import Iterable, Sequence

from finetune.training.events import EpochEnd
from finetune.wording import number

_WIDTH = 11
_LEFT = 'style="text-align:left"'
_NUMBERS = 'style="text-align:right;font-variant-numeric:tabular-nums"'


def results(row: EpochEnd) -> dict[str, float]:
    """Column -> value: both losses and each metric.

    >>> results(EpochEnd("fit", 0, 0.5, {"loss": 0.25, "accuracy": 0.75}))
    {'train loss': 0.5, 'valid loss': 0.25, 'accuracy': 0.75}
    """
    valid = {f"valid {n}" if n == "loss" else n: v for n, v in row.valid.items()}
    return {"train loss": row.train_loss, **valid}


def text_head(names: Sequence[str]) -> str:
    """names: columns of `results`."""
    heads = "".join(f"{name:>{_width(name)}}" for name in names)
    return f"{'phase':<12}{'epoch':>5}{heads}{'seconds':>{_WIDTH}}"


def text_row(row: EpochEnd, names: Sequence[str]) -> str:
    """A line below `text_head`; what the epoch lacks is empty."""
    values = results(row)
    cells = "".join(
        f" {number(values[name]) if name in values else '':>{_width(name) - 1}}" for name in names
    )
    return f"{row.phase:<12}{row.epoch + 1:>5}{cells}{row.seconds:>{_WIDTH}.1f}"


def as_lines(rows: Iterable[EpochEnd | str]) -> list[str]:
    """The head before the first row. A string is a line of its own."""
    rows = list(rows)
    names = columns(row for row in rows if isinstance(row, EpochEnd))
    lines = [row if isinstance(row, str) else text_row(row, names) for row in rows]
    for i, row in enumerate(rows):
        if isinstance(row, EpochEnd):
            return [*lines[:i], text_head(names), *lines[i:]]
    return lines


def as_html(rows: Iterable[EpochEnd | str]) -> str:
    """For a notebook, light or dark: no colour of its own. A string is a line of its own."""
    rows = list(rows)
    names = columns(row for row in rows if isinstance(row, EpochEnd))
    first = next((i for i, row in enumerate(rows) if isinstance(row, EpochEnd)), len(rows))
    before = "".join(f"<div>{html.escape(str(line))}</div>" for line in rows[:first])
    if first == len(rows):
        return before
    heads = "".join(f"<th>{html.escape(n)}</th>" for n in ("epoch", *names, "seconds"))
    body = "".join(_html_row(row, names) for row in rows[first:])
    head = f"<thead><tr><th {_LEFT}>phase</th>{heads}</tr></thead>"
    return f"{before}<table {_NUMBERS}>{head}<tbody>{body}</tbody></table>"


def _html_row(row: EpochEnd | str, names: Sequence[str]) -> str:
    if isinstance(row, str):
        return f'<tr><td colspan="{len(names) + 3}" {_LEFT}>{html.escape(row)}</td></tr>'
    values = results(row)
    texts = [str(row.epoch + 1)]
    texts += [number(values[name]) if name in values else "" for name in names]
    cells = "".join(f"<td>{text}</td>" for text in [*texts, f"{row.seconds:.1f}"])
    return f"<tr><td {_LEFT}>{html.escape(row.phase)}</td>{cells}</tr>"


def columns(rows: Iterable[EpochEnd]) -> list[str]:
    """Of `results`, those that any row has."""
    return list(dict.fromkeys(name for row in rows for name in results(row)))


def _width(name: str) -> int:
    return max(_WIDTH, len(name) + 2)
