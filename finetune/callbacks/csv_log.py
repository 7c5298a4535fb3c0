"""CSVLog: a row per epoch in a file, while it trains."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune import distributed
from finetune.training.events import Callback, EpochEnd, EpochStart, FitStart

_FIRST = ("fit", "phase", "epoch", "train_loss", "seconds")


class CSVLog(Callback):
    """Appends every epoch to the CSV file `path`: one file over all phases and fits.

    Columns: `fit` (a number: each fit takes the one after the highest in the file), phase, epoch,
    train_loss, seconds, `valid_loss` and `valid_<metric>`. A new metric gets a new column at the
    end, which is empty in older rows. A fit that is resumed goes on with its number, and the rows
    that it had written after its checkpoint are replaced.
    Raises ValueError for a file that is no such log.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: list[str] = []
        self._fit = self._rows = 0

    def on_fit_start(self, event: FitStart) -> None:
        if event.first_epoch == 0:
            self._rows = 0  # the number is settled by the first epoch: it may be a resumed one
        self._columns = []

    def on_epoch_start(self, event: EpochStart) -> None:
        if self._columns or distributed.rank():
            return
        columns, rows = self._read()
        goes_on = self._fit and (self._rows or event.first_step)
        if not goes_on:
            self._fit = 1 + max((int(row["fit"]) for row in rows), default=0)
        own = [i for i, row in enumerate(rows) if row["fit"] == str(self._fit)]
        late = set(own[self._rows :])
        self._columns = columns
        self._write([row for i, row in enumerate(rows) if i not in late])

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._rows += 1
        if distributed.rank():
            return
        row: dict[str, Any] = {
            "fit": self._fit,
            "phase": event.phase,
            "epoch": event.epoch,
            "train_loss": event.train_loss,
            "seconds": event.seconds,
            **{f"valid_{name}": value for name, value in event.valid.items()},
        }
        new = [name for name in row if name not in self._columns]
        if new:
            _, rows = self._read()
            self._columns = [*self._columns, *new]
            self._write(rows)
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self._columns).writerow(row)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and rows of the file; those of an empty one if there is none."""
        if not self.path.exists() or not self.path.stat().st_size:
            return list(_FIRST), []
        with self.path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            if tuple(columns[: len(_FIRST)]) != _FIRST:
                raise ValueError(
                    f"{str(self.path)!r} is no log of CSVLog (its columns are "
                    f"{', '.join(columns)}); name another file"
                )
            return columns, list(reader)

    def _write(self, rows: Sequence[dict[str, str]]) -> None:
        """The whole file, in one moment, so that an end in the middle loses nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.new")
        with beside.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"fit": self._fit, "rows": self._rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._fit, self._rows = state["fit"], state["rows"]
