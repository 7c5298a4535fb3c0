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

from finetune.data.examples import image_files
from finetune.data.images.decode import ImageError

Files: TypeAlias = str | Path | Iterable[str | Path]
_Images: TypeAlias = list[tuple[str, Future[Tensor]]]


class FilePrediction(NamedTuple):
    """What is predicted for a file; of one that can't be read only `path` and `error` are known.

    label: the class; of several, all that are above their thresholds with a comma between them;
    None for a regression. probability: of the one class. probabilities: by class, or the values of
    a regression by target.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] = {}  # noqa: RUF012 - nobody gets it to write to
    error: str = ""


class Written(NamedTuple):
    """How many rows were written, and how many of them are images that can't be read."""

    images: int
    unreadable: int


def predict_files(
    files: Files,
    read: Callable[[str], Tensor],
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    *,
    batch_size: int = 64,
    progress: bool = True,
    workers: int | None = None,
) -> Iterator[FilePrediction]:
    """A row for every file, in order, while the next ones are being decoded.

    files: a folder with images in and below it, or paths. read: path -> model input [1, ...].
    predict: such inputs -> a `Prediction` each. Arguments are checked at once, images are read
    when rows are asked for: no more than three batches of them are in memory.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
    paths = image_files(files) if isinstance(files, str | Path) else files
    total = len(paths) if isinstance(paths, Sequence) else None
    workers = workers or min(8, os.cpu_count() or 1)
    return _predictions(paths, read, predict, batch_size, _bar(total, progress), workers)


def _predictions(
    paths: Iterable[str | Path],
    read: Callable[[str], Tensor],
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    batch_size: int,
    bar: Callable[[], Any],
    workers: int,
) -> Iterator[FilePrediction]:
    with ThreadPoolExecutor(workers, thread_name_prefix="predict") as threads, bar() as shown:
        try:
            names = map(str, paths)
            for batch in _ahead(names, lambda path: threads.submit(read, path), batch_size):
                yield from _rows(batch, predict)
                shown.update(len(batch))
        finally:  # the caller may stop early
            threads.shutdown(cancel_futures=True)


def _ahead(
    paths: Iterator[str], submit: Callable[[str], Future[Tensor]], batch_size: int
) -> Iterator[_Images]:
    """Batches in order; two more are under way while one is used."""
    queue: deque[_Images] = deque()
    while True:
        while len(queue) < 3 and (chunk := list(islice(paths, batch_size))):
            queue.append([(path, submit(path)) for path in chunk])
        if not queue:
            return
        yield queue.popleft()


def _rows(
    batch: _Images, predict: Callable[[Sequence[Tensor]], Sequence[Any]]
) -> Iterator[FilePrediction]:
    errors = {i: e for i, (_, f) in enumerate(batch) if (e := f.exception()) is not None}
    for error in errors.values():
        if not isinstance(error, ImageError):
            raise error
    images = [future.result() for i, (_, future) in enumerate(batch) if i not in errors]
    found = iter(predict(images) if images else ())
    for i, (path, _) in enumerate(batch):
        if i in errors:
            yield FilePrediction(path, error=str(getattr(errors[i], "reason", errors[i])))
        else:
            yield _row(path, next(found))


def _row(path: str, own: Any) -> FilePrediction:
    """own: as `Predictor.predict` gives it for the task."""
    if hasattr(own, "labels"):
        return FilePrediction(path, ", ".join(own.labels), None, own.probabilities)
    if hasattr(own, "values"):
        return FilePrediction(path, probabilities=own.values)
    return FilePrediction(path, own.label, own.probability, own.probabilities)


def write_csv(rows: Iterable[FilePrediction], target: str | Path | TextIO) -> Written:
    """Writes rows as they come: path, label, probability, error, and a column for each class.

    target: a file, replaced if it exists, or an open stream. A class's column is "p(its name)", a
    regression's for a target "value(its name)".
    """
    rows = iter(rows)
    first: list[FilePrediction] = []
    for row in rows:  # the classes are known from the first image that could be read
        first.append(row)
        if row.probabilities:
            break
    names = list(first[-1].probabilities) if first else []
    with _opened(target) as stream:
        writer = csv.writer(stream)
        fixed = ["path", "label", "probability", "error"]
        what = "value" if first and first[-1].label is None else "p"
        writer.writerow([*fixed, *(f"{what}({name})" for name in names)])

        def write(row: FilePrediction) -> None:
            cells = [row.path, row.label, row.probability, row.error]
            writer.writerow([*cells, *map(row.probabilities.get, names)])

        return _count(chain(first, rows), write)


def write_jsonl(rows: Iterable[FilePrediction], target: str | Path | TextIO) -> Written:
    """Writes rows as they come, a JSON object a line with the row's fields.

    target: a file, replaced if it exists, or an open stream.
    """
    with _opened(target) as stream:

        def write(row: FilePrediction) -> None:
            stream.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")

        return _count(rows, write)


def _count(rows: Iterable[FilePrediction], write: Callable[[FilePrediction], None]) -> Written:
    images = unreadable = 0
    for row in rows:
        write(row)
        images, unreadable = images + 1, unreadable + bool(row.error)
    return Written(images, unreadable)


def _opened(target: str | Path | TextIO) -> AbstractContextManager[TextIO]:
    if not isinstance(target, str | Path):
        return nullcontext(target)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    return Path(target).open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _bar(total: int | None, progress: bool) -> Callable[[], Any]:
    """On standard error, so that rows can go to standard output."""
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    return lambda: tqdm(
        total=total,
        desc="predicting",
        unit=" images",
        leave=False,
        dynamic_ncols=True,
        disable=not (progress and seen),
    )
