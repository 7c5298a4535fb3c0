"""History: what happened, as rows, over all phases and fits."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from finetune.callbacks import epoch_table
from finetune.training.events import Callback, EpochEnd, StepEnd


class History(Callback):
    """`steps` and `epochs`: one row each, oldest first, over all phases and fits of a learner.

    A row is the event itself: a `StepEnd` with loss and the rates of every layer group, an
    `EpochEnd` with training loss, validation results and seconds.
    """

    def __init__(self) -> None:
        self.steps: list[StepEnd] = []
        self.epochs: list[EpochEnd] = []

    def on_step_end(self, event: StepEnd) -> None:
        self.steps.append(event)

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.epochs.append(event)

    def write_csv(self, path: str | Path) -> None:
        """The epochs as a CSV file with a header."""
        names = list(dict.fromkeys(name for row in self.epochs for name in row.valid))
        columns = ["phase", "epoch", "train_loss", *(f"valid_{name}" for name in names), "seconds"]
        rows = (
            [row.phase, row.epoch, row.train_loss, *map(row.valid.get, names), row.seconds]
            for row in self.epochs
        )
        _write(Path(path), columns, rows)

    def write_steps_csv(self, path: str | Path) -> None:
        """The steps as a CSV file: loss, and rate and momentum of each layer group by number."""
        rows = [[s.phase, s.epoch, s.step, s.loss, *s.lr, *s.momentum] for s in self.steps]
        columns = ["phase", "epoch", "step", "loss"]
        for first in self.steps[:1]:
            columns += [f"lr_{i}" for i in range(len(first.lr))]
            columns += [f"momentum_{i}" for i in range(len(first.momentum))]
        _write(Path(path), columns, rows)

    def state_dict(self) -> dict[str, Any]:
        return {
            # columns: a long run has many steps, and this is made at every checkpoint
            "steps": {f.name: [getattr(s, f.name) for s in self.steps] for f in fields(StepEnd)},
            "epochs": [{**asdict(row), "valid": dict(row.valid)} for row in self.epochs],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = zip(*(state["steps"][f.name] for f in fields(StepEnd)), strict=True)
        self.steps = [StepEnd(*row) for row in rows]
        self.epochs = [EpochEnd(**row) for row in state["epochs"]]

    def _repr_html_(self) -> str:
        return epoch_table.as_html([repr(self), *self.epochs])

    def __repr__(self) -> str:
        return f"History({len(self.epochs)} epochs, {len(self.steps)} steps)"


def _write(path: Path, columns: list[str], rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
