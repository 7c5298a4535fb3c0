"""History: what happened, as rows, over all phases and fits."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from finetune import arguments
from finetune.callbacks import epoch_table
from finetune.files.replacing import replacing_text
from finetune.training.events import Callback, EpochEnd, PointBetween, StepEnd


class History(Callback):
    """Records all steps and epochs of all phases and fits of a learner, oldest first.

    A row is the event itself: in `steps` a `StepEnd` with the loss and the learning rate of every
    layer group, in `epochs` an `EpochEnd` with training loss, validation results and seconds.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> learner.fine_tune(1, freeze_epochs=1)
    >>> [(row.phase, sorted(row.valid)) for row in learner.history.epochs]
    [('frozen', ['accuracy', 'loss']), ('body_2 and above', ['accuracy', 'loss'])]
    """

    def __init__(self) -> None:
        self.steps: list[StepEnd] = []
        self.epochs: list[EpochEnd] = []

    def on_step_end(self, event: StepEnd) -> None:
        self.steps.append(event)

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.epochs.append(event)

    def write_csv(self, path: str | Path) -> None:
        """Writes the epochs as a CSV file with a header; they are counted from 1 in each phase."""
        names: dict[str, None] = {}  # of all epochs' results, in the order in which they appear
        for row in self.epochs:
            names.update(dict.fromkeys(row.valid))
        columns = ["phase", "epoch", "train_loss", *(f"valid_{name}" for name in names), "seconds"]
        lines = []
        for row in self.epochs:
            results = [row.valid.get(name) for name in names]
            lines.append([row.phase, row.epoch + 1, row.train_loss, *results, row.seconds])
        _write(arguments.path("path", path), columns, lines)

    def write_steps_csv(self, path: str | Path) -> None:
        """Writes the steps as a CSV file: loss, learning rate and momentum of each layer group.

        The columns of the groups are numbered: `lr_0` is that of the first layers. Epochs are
        counted from 1 in each phase, and steps in each epoch.
        """
        columns = ["phase", "epoch", "step", "loss"]
        if self.steps:
            columns += [f"lr_{group}" for group in range(len(self.steps[0].lr))]
            columns += [f"momentum_{group}" for group in range(len(self.steps[0].momentum))]
        lines = []
        for row in self.steps:
            lines.append([row.phase, row.epoch + 1, row.step + 1, row.loss, *row.lr, *row.momentum])
        _write(arguments.path("path", path), columns, lines)

    def state_dict(self) -> dict[str, Any]:
        # columns, not rows: a long run has many steps, and this is made at every checkpoint
        steps = {
            field.name: [getattr(row, field.name) for row in self.steps]
            for field in fields(StepEnd)
        }
        epochs = [_epoch_as_data(row) for row in self.epochs]
        return {"steps": steps, "epochs": epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        stored_columns = {**state["steps"]}
        # files of older versions do not number the epochs
        stored_columns.setdefault("epoch_number", [None] * len(stored_columns["step"]))
        columns = [stored_columns[field.name] for field in fields(StepEnd)]
        self.steps = [StepEnd(*row) for row in zip(*columns, strict=True)]
        self.epochs = [_epoch_of_data(row) for row in state["epochs"]]

    def _repr_html_(self) -> str:
        rows: list[EpochEnd | str] = [repr(self), *self.epochs]
        note = epoch_table.note_at_end(self.epochs)
        if note:
            rows.append(note)
        return epoch_table.as_html(rows)

    def __str__(self) -> str:
        """The table of all epochs, as it is printed while they run."""
        note = epoch_table.note_at_end(self.epochs)
        rows: list[EpochEnd | str] = [*self.epochs, note] if note else [*self.epochs]
        return "\n".join(epoch_table.as_lines(rows)) or repr(self)

    def __repr__(self) -> str:
        return f"History({len(self.epochs)} epochs, {len(self.steps)} steps)"


def _epoch_as_data(row: EpochEnd) -> dict[str, Any]:
    data = {**asdict(row), "valid": dict(row.valid)}
    if row.between is None:
        # as files were before there was one
        del data["between"]
    else:
        compared = {fraction: dict(results) for fraction, results in row.between.compared.items()}
        data["between"] = {"fraction": row.between.fraction, "compared": compared}
    return data


def _epoch_of_data(data: Mapping[str, Any]) -> EpochEnd:
    between = data.get("between")
    if between is not None:
        between = PointBetween(between["fraction"], between["compared"])
    return EpochEnd(**{**data, "valid": dict(data["valid"]), "between": between})


def _write(path: Path, columns: list[str], rows: Iterable[Iterable[object]]) -> None:
    with replacing_text(path) as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
