"""Predictions for a folder of images, or any number of files, in bounded memory."""

import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeAlias

from torch import Tensor
from tqdm.std import tqdm

from finetune import arguments
from finetune.data.images.opening import ImageError
from finetune.data.sources.folders import image_files
from finetune.tasks import FilePrediction

Files: TypeAlias = str | Path | Iterable[str | Path]
_Decoding: TypeAlias = list[tuple[str, Future[Tensor]]]

_BATCHES_AHEAD = 3
"""How many batches of images are in memory: one is predicted, the next ones are being decoded."""


class Written(NamedTuple):
    """How many rows were written, and how many of them are of unreadable images."""

    images: int
    unreadable: int


def predict_files(
    files: Files,
    read: Callable[[str], Tensor],
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    to_row: Callable[[str, Any], FilePrediction],
    *,
    batch_size: int = 64,
    progress: bool = True,
    num_workers: int | None = None,
) -> Iterator[FilePrediction]:
    """Yields a row for every file, in order, while threads decode the next ones.

    files: a folder with images in and below it, or paths. read: path -> model input [1, ...].
    predict: a list of such inputs -> an answer for each. to_row: path and answer -> row.
    num_workers: threads; None takes one for each core, 8 at most.
    The arguments are checked at once. Images are read only as rows are asked for, so that at most
    three batches of them are in memory.
    """
    arguments.whole_number("batch_size", batch_size, at_least=1)
    arguments.flag("progress", progress)
    if isinstance(files, str | Path):
        paths: Iterable[str | Path] = image_files(arguments.path("files", files))
    elif isinstance(files, Iterable) and not isinstance(files, type | bytes):
        paths = files
    else:
        raise TypeError(f"files must be a folder, or paths, got {arguments.shown(files)}")
    total = None
    if isinstance(paths, Sequence):
        total = len(paths)
    if not num_workers:
        num_workers = min(8, os.cpu_count() or 1)
    new_bar = _bar_factory(total, progress)
    return _predictions(paths, read, predict, to_row, batch_size, new_bar, num_workers)


def _predictions(
    paths: Iterable[str | Path],
    read: Callable[[str], Tensor],
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    to_row: Callable[[str, Any], FilePrediction],
    batch_size: int,
    new_bar: Callable[[], Any],
    num_workers: int,
) -> Iterator[FilePrediction]:
    with ThreadPoolExecutor(num_workers, thread_name_prefix="predict") as threads, new_bar() as bar:

        def decode(path: str) -> Future[Tensor]:
            return threads.submit(read, path)

        try:
            for batch in _decoded_ahead(_as_texts(paths), decode, batch_size):
                yield from _rows(batch, predict, to_row)
                bar.update(len(batch))
        finally:
            # the caller may stop asking for rows, and then nothing more should be read
            threads.shutdown(cancel_futures=True)


def _as_texts(paths: Iterable[str | Path]) -> Iterator[str]:
    for path in paths:
        yield str(arguments.path("files", path))


def _decoded_ahead(
    paths: Iterator[str], decode: Callable[[str], Future[Tensor]], batch_size: int
) -> Iterator[_Decoding]:
    """Yields batches in order; while one is in use, the next ones are being decoded."""
    batches: deque[_Decoding] = deque()
    while True:
        while len(batches) < _BATCHES_AHEAD:
            batch = [(path, decode(path)) for path in islice(paths, batch_size)]
            if not batch:
                break
            batches.append(batch)
        if not batches:
            return
        yield batches.popleft()


def _rows(
    batch: _Decoding,
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    to_row: Callable[[str, Any], FilePrediction],
) -> Iterator[FilePrediction]:
    """Yields a row for each file of a batch; an unreadable one has an error and no prediction."""
    inputs: list[Tensor] = []
    image_errors: dict[int, ImageError] = {}
    for index, (_, future) in enumerate(batch):
        try:
            inputs.append(future.result())
        except ImageError as error:
            image_errors[index] = error
    answers: Iterator[Any] = iter(())
    if inputs:
        answers = iter(predict(inputs))
    for index, (path, _) in enumerate(batch):
        if index in image_errors:
            yield FilePrediction(path, error=image_errors[index].reason)
        else:
            yield to_row(path, next(answers))


def write_csv(rows: Iterable[FilePrediction], target: str | Path | TextIO) -> Written:
    """Writes rows as they come: path, label, probability, error, and a column for each class.

    target: a file, replaced if it exists, or an open stream. The column of a class is called
    "p(its name)", that of a regression's target "value(its name)". After `calibrate(coverage=...)`
    there is a column "set", with the names of classes joined by commas, or there are columns
    "low(its name)" and "high(its name)" for each target; and one "unknown".

    >>> from tempfile import TemporaryDirectory
    >>> rows = [FilePrediction("a.jpg", "cat", 0.75, {"cat": 0.75, "dog": 0.25})]
    >>> with TemporaryDirectory() as folder:
    ...     written = write_csv(rows, f"{folder}/new.csv")
    ...     print(Path(folder, "new.csv").read_text().strip())
    path,label,probability,error,p(cat),p(dog)
    a.jpg,cat,0.75,,0.75,0.25
    """
    rows = _checked_rows(rows)
    first_rows: list[FilePrediction] = []
    # the classes are known from the first readable image
    for row in rows:
        first_rows.append(row)
        if row.probabilities:
            break
    names: list[str] = []
    column_prefix = "p"
    if first_rows:
        names = list(first_rows[-1].probabilities)
        if first_rows[-1].label is None:
            column_prefix = "value"
    trust_columns = list(_trust(first_rows[-1])) if first_rows else []
    with _opened(target) as stream:
        writer = csv.writer(stream)
        class_columns = [f"{column_prefix}({name})" for name in names]
        writer.writerow(["path", "label", "probability", "error", *class_columns, *trust_columns])

        def write(row: FilePrediction) -> None:
            values = [row.probabilities.get(name) for name in names]
            trust = _trust(row)
            values_of_trust = [trust.get(name) for name in trust_columns]
            answer = [row.path, row.label, row.probability, row.error]
            writer.writerow([*answer, *values, *values_of_trust])

        return _write_all(chain(first_rows, rows), write)


def _trust(row: FilePrediction) -> dict[str, Any]:
    """What a calibration adds to a row, by the names of columns."""
    columns: dict[str, Any] = {}
    if row.set is not None:
        columns["set"] = ", ".join(row.set)
    for name, (low, high) in (row.interval or {}).items():
        columns[f"low({name})"] = low
        columns[f"high({name})"] = high
    if row.unknown is not None:
        columns["unknown"] = row.unknown
    return columns


def write_jsonl(rows: Iterable[FilePrediction], target: str | Path | TextIO) -> Written:
    """Writes rows as they come, each as a line with a JSON object of the row's fields.

    target: a file, replaced if it exists, or an open stream.

    >>> import sys
    >>> write_jsonl([FilePrediction("b.jpg", error="no image")], sys.stdout)
    {"path": "b.jpg", "label": null, "probability": null, "probabilities": {}, "error": "no image"}
    Written(images=1, unreadable=1)
    """
    rows = _checked_rows(rows)
    with _opened(target) as stream:

        def write(row: FilePrediction) -> None:
            stream.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")

        return _write_all(rows, write)


def _checked_rows(rows: Iterable[FilePrediction]) -> Iterator[FilePrediction]:
    if not isinstance(rows, Iterable):
        raise TypeError(f"rows must be what predict_folder gives, got {arguments.shown(rows)}")
    return (arguments.instance("rows", row, FilePrediction) for row in rows)


def _write_all(rows: Iterable[FilePrediction], write: Callable[[FilePrediction], None]) -> Written:
    images = unreadable = 0
    for row in rows:
        write(row)
        images += 1
        if row.error:
            unreadable += 1
    return Written(images, unreadable)


def _opened(target: str | Path | TextIO) -> AbstractContextManager[TextIO]:
    """A file that is closed on leaving, or the caller's stream, which stays open."""
    if not isinstance(target, str | Path) and hasattr(target, "write"):
        return nullcontext(target)
    path = arguments.path("target", target)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the names of files need not be valid UTF-8
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _bar_factory(total: int | None, progress: bool) -> Callable[[], Any]:
    """A function that opens a progress bar on standard error; standard output is for rows."""
    is_seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return lambda: tqdm(
        total=total,
        desc="predicting",
        unit=" images",
        leave=False,
        dynamic_ncols=True,
        disable=not (progress and is_seen),
    )
