"""CSVLog: a row per epoch in a file, while it trains."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune import arguments, distributed
from finetune.files.replacing import replacing_text
from finetune.training.events import Callback, EpochEnd, EpochStart, FitStart

_FIRST_COLUMNS = ("fit", "phase", "epoch", "train_loss", "seconds")


class CSVLog(Callback):
    """Appends every epoch to the CSV file `path`: one file over all phases and fits.

    Columns: `fit` (a number: each fit takes the one after the highest in the file), phase, epoch
    (from 1 in each phase), train_loss, seconds, `valid_loss` and `valid_<metric>`. A new metric
    gets a new column at the end, which is empty in older rows. A resumed fit keeps its number, and
    replaces the rows that it had written after its checkpoint.
    Raises ValueError for a file that CSVLog did not write.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     learner.fine_tune(1, callbacks=[CSVLog(f"{folder}/log.csv")])
    ...     header = Path(folder, "log.csv").read_text().splitlines()[0]
    >>> header
    'fit,phase,epoch,train_loss,seconds,valid_loss,valid_accuracy'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = arguments.path("path", path)
        self._columns: list[str] = []  # empty until the fit's first epoch
        self._fit = 0
        self._rows_of_fit = 0

    def on_fit_start(self, event: FitStart) -> None:
        self._columns = []
        # the fit's number waits for its first epoch, which may be the middle of a resumed one
        if event.first_epoch == 0:
            self._rows_of_fit = 0

    def on_epoch_start(self, event: EpochStart) -> None:
        if self._columns or distributed.rank() != 0:
            return
        columns, rows = self._read()
        is_resumed = self._rows_of_fit > 0 or event.first_step > 0
        if not self._fit or not is_resumed:
            self._fit = 1 + max((int(row["fit"]) for row in rows), default=0)
        self._columns = columns
        self._write(self._without_late_rows(rows))

    def _without_late_rows(self, rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """Leaves out the rows of this fit that were written after its checkpoint."""
        rows_before_checkpoint = []
        rows_of_fit = 0
        for row in rows:
            if row["fit"] == str(self._fit):
                rows_of_fit += 1
                if rows_of_fit > self._rows_of_fit:
                    continue
            rows_before_checkpoint.append(row)
        return rows_before_checkpoint

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._rows_of_fit += 1
        if distributed.rank() != 0:
            return
        row: dict[str, Any] = {
            "fit": self._fit,
            "phase": event.phase,
            "epoch": event.epoch + 1,
            "train_loss": event.train_loss,
            "seconds": event.seconds,
        }
        for name, value in event.valid.items():
            row[f"valid_{name}"] = value
        new_columns = [name for name in row if name not in self._columns]
        if new_columns:
            _, rows = self._read()
            self._columns = [*self._columns, *new_columns]
            self._write(rows)
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self._columns).writerow(row)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """The columns and rows of the file; the first columns and no rows if there is none."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return list(_FIRST_COLUMNS), []
        with self.path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            if tuple(columns[: len(_FIRST_COLUMNS)]) != _FIRST_COLUMNS:
                raise ValueError(
                    f"{str(self.path)!r} is no log of CSVLog (its columns are "
                    f"{', '.join(columns)}); name another file"
                )
            return columns, list(reader)

    def _write(self, rows: Sequence[dict[str, str]]) -> None:
        """Replaces the whole file in one moment, so that a crash in the middle loses nothing."""
        with replacing_text(self.path) as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"fit": self._fit, "rows": self._rows_of_fit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._fit = state["fit"]
        self._rows_of_fit = state["rows"]
