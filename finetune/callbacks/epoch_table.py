"""Epochs as a table: text that grows a line at a time, and HTML for notebooks."""

import html
from collections.abc import Iterable, Mapping, Sequence

from finetune.tables import Table
from finetune.tasks.ranking import deciding_metric, is_worse
from finetune.training.events import EpochEnd
from finetune.training.phase import PROBE
from finetune.wording import number

_WIDTH = 11
"""Characters of a column of numbers, unless its name needs more."""
_PHASE_WIDTH = 12
"""Characters of the column of phases, unless the name of one needs more."""


def results(row: EpochEnd) -> dict[str, float]:
    """Column -> value: both losses and each metric.

    >>> results(EpochEnd("fit", 0, 0.5, {"loss": 0.25, "accuracy": 0.75}))
    {'train loss': 0.5, 'valid loss': 0.25, 'accuracy': 0.75}
    """
    values = {"train loss": row.train_loss}
    for name, value in row.valid.items():
        column = "valid loss" if name == "loss" else name
        values[column] = value
    return values


def phase_width(phases: Iterable[str]) -> int:
    """Characters of the column of phases, by the names of them.

    >>> phase_width(["frozen", "unfrozen"]), phase_width(["frozen", "body_2 and above"])
    (12, 17)
    """
    return max([_PHASE_WIDTH, *(len(phase) + 1 for phase in phases)])


def text_head(names: Sequence[str], phase_width: int = _PHASE_WIDTH) -> str:
    """The line above the rows. names: the columns of `results`."""
    columns = "".join(f"{name:>{_width(name)}}" for name in names)
    return f"{'phase':<{phase_width}}{'epoch':>5}{columns}{'seconds':>{_WIDTH}}"


def text_row(row: EpochEnd, names: Sequence[str], phase_width: int = _PHASE_WIDTH) -> str:
    """A line below `text_head` of the same width; a column that the epoch lacks is empty."""
    cells = ""
    for name, text in zip(names, _texts(row, names), strict=True):
        cells += f" {text:>{_width(name) - 1}}"
    return f"{row.phase:<{phase_width}}{row.epoch + 1:>5}{cells}{row.seconds:>{_WIDTH}.1f}"


def note_below(row: EpochEnd) -> str:
    """A line to stand below the row of an epoch; empty for most.

    >>> from finetune.training.events import PointBetween
    >>> compared = {1.0: {"loss": 0.5}, 0.5: {"loss": 0.4}, 0.0: {"loss": 0.6}}
    >>> print(note_below(EpochEnd("fit", 0, 0.3, between=PointBetween(0.5, compared))))
    took the weights 0.5 of the way from before the phase (loss 0.6000) to its end (loss 0.5000)
    """
    if row.between is None:
        return ""
    fraction, compared = row.between.fraction, row.between.compared
    start, end = _in_words(compared[0.0]), _in_words(compared[1.0])
    if fraction == 1:
        return f"took the weights of the end, better than all towards those before ({start})"
    if fraction == 0:
        return f"took the weights from before the phase, better than its end ({end})"
    way = f"from before the phase ({start}) to its end ({end})"
    return f"took the weights {fraction:g} of the way {way}"


def note_at_end(rows: Sequence[EpochEnd]) -> str:
    """A line to stand at the end, where the last epoch is worse than the last probe before it.

    Empty where it is not, where there was no probe, and where their results are not of one kind.

    >>> probe = EpochEnd("probe", 0, 0.3, {"loss": 0.3, "accuracy": 0.9})
    >>> tuned = EpochEnd("unfrozen", 0, 0.1, {"loss": 0.4, "accuracy": 0.8})
    >>> print(note_at_end([probe, tuned]).partition(";")[0])
    worse than the probe before it, which had accuracy 0.9000, loss 0.3000
    >>> note_at_end([probe]), note_at_end([tuned])
    ('', '')
    """
    probes = [row for row in rows if row.phase == PROBE]
    if not probes:
        return ""
    probe, last = probes[-1].valid, rows[-1].valid
    if not probe or probe.keys() != last.keys() or not is_worse(last, than=probe):
        return ""
    return (
        f"worse than the probe before it, which had {_in_words(probe)}; "
        "fine_tune(..., interpolate=True) takes what is better"
    )


def _in_words(results: Mapping[str, float]) -> str:
    """What decides between points, such as "accuracy 0.7000, loss 0.6000"."""
    names = dict.fromkeys([deciding_metric(results), "loss"])
    return ", ".join(f"{name} {number(results[name])}" for name in names)


def as_lines(rows: Iterable[EpochEnd | str]) -> list[str]:
    """The table as text, with its head before the first epoch. A string is a line of its own."""
    rows = list(rows)
    notes = _notes_before_epochs(rows)
    table_rows = rows[len(notes) :]
    if not table_rows:
        return notes
    names = _columns(table_rows)
    width = phase_width(row.phase for row in table_rows if isinstance(row, EpochEnd))
    lines = [*notes, text_head(names, width)]
    for row in table_rows:
        if isinstance(row, str):
            lines.append(row)
            continue
        lines.append(text_row(row, names, width))
        if note_below(row):
            lines.append(note_below(row))
    return lines


def as_html(rows: Iterable[EpochEnd | str]) -> str:
    """The table for a notebook, with the notes before the first epoch above it."""
    rows = list(rows)
    notes = _notes_before_epochs(rows)
    above = "".join(f"<div>{html.escape(note)}</div>" for note in notes)
    table_rows = rows[len(notes) :]
    if not table_rows:
        return above
    names = _columns(table_rows)
    cells: list[list[str] | str] = []
    for row in table_rows:
        if isinstance(row, str):
            cells.append(row)
        else:
            texts = _texts(row, names)
            cells.append([row.phase, str(row.epoch + 1), *texts, f"{row.seconds:.1f}"])
            if note_below(row):
                cells.append(note_below(row))
    return above + Table.of(["phase", "epoch", *names, "seconds"], cells).html()


def _notes_before_epochs(rows: Sequence[EpochEnd | str]) -> list[str]:
    notes: list[str] = []
    for row in rows:
        if isinstance(row, EpochEnd):
            break
        notes.append(row)
    return notes


def _columns(rows: Iterable[EpochEnd | str]) -> list[str]:
    """The columns of `results` that any epoch has, in the order in which they appear."""
    names: dict[str, None] = {}
    for row in rows:
        if isinstance(row, EpochEnd):
            names.update(dict.fromkeys(results(row)))
    return list(names)


def _texts(row: EpochEnd, names: Sequence[str]) -> list[str]:
    """The cells of a row; empty for a name that this epoch does not have."""
    values = results(row)
    texts = []
    for name in names:
        texts.append(number(values[name]) if name in values else "")
    return texts


def _width(name: str) -> int:
    return max(_WIDTH, len(name) + 2)
