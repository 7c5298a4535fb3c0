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

from finetune.data.images.decode import ImageError
from finetune.data.sources.folders import image_files
from finetune.tasks import FilePrediction

Files: TypeAlias = str | Path | Iterable[str | Path]
_Decoding: TypeAlias = list[tuple[str, Future[Tensor]]]

_BATCHES_AHEAD = 3
"""Batches of images in memory: one that is predicted, and those that are being decoded."""


class Written(NamedTuple):
    """How many rows were written, and how many of them are images that can't be read."""

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
    workers: int | None = None,
) -> Iterator[FilePrediction]:
    """A row for every file, in order, while the next ones are being decoded.

    files: a folder with images in and below it, or paths. read: path -> model input [1, ...].
    predict: such inputs -> an answer each. to_row: path and answer -> row. Arguments are checked at
    once, images are read when rows are asked for: no more than three batches of them are in memory.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
    paths = image_files(files) if isinstance(files, str | Path) else files
    bar = _bar(len(paths) if isinstance(paths, Sequence) else None, progress)
    workers = workers or min(8, os.cpu_count() or 1)
    return _predictions(paths, read, predict, to_row, batch_size, bar, workers)


def _predictions(
    paths: Iterable[str | Path],
    read: Callable[[str], Tensor],
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    to_row: Callable[[str, Any], FilePrediction],
    batch_size: int,
    new_bar: Callable[[], Any],
    workers: int,
) -> Iterator[FilePrediction]:
    with ThreadPoolExecutor(workers, thread_name_prefix="predict") as threads, new_bar() as bar:
        try:
            names = map(str, paths)
            for batch in _decoded_ahead(names, lambda path: threads.submit(read, path), batch_size):
                yield from _rows(batch, predict, to_row)
                bar.update(len(batch))
        finally:  # the caller may stop early
            threads.shutdown(cancel_futures=True)


def _decoded_ahead(
    paths: Iterator[str], submit: Callable[[str], Future[Tensor]], batch_size: int
) -> Iterator[_Decoding]:
    """Batches in order; while one is used, the next ones are under way."""
    queue: deque[_Decoding] = deque()
    while True:
        while len(queue) < _BATCHES_AHEAD and (chunk := list(islice(paths, batch_size))):
            queue.append([(path, submit(path)) for path in chunk])
        if not queue:
            return
        yield queue.popleft()


def _rows(
    batch: _Decoding,
    predict: Callable[[Sequence[Tensor]], Sequence[Any]],
    to_row: Callable[[str, Any], FilePrediction],
) -> Iterator[FilePrediction]:
    """A row for each file of a batch; one that can't be read has an error and no prediction."""
    errors = [future.exception() for _, future in batch]
    for error in errors:
        if error is not None and not isinstance(error, ImageError):
            raise error
    readable = [future.result() for _, future in batch if future.exception() is None]
    answers = iter(predict(readable) if readable else ())
    for (path, _), error in zip(batch, errors, strict=True):
        if isinstance(error, ImageError):
            yield FilePrediction(path, error=error.reason)
        else:
            yield to_row(path, next(answers))


def write_csv(rows: Iterable[FilePrediction], target: str | Path | TextIO) -> Written:
    """Writes rows as they come: path, label, probability, error, and a column for each class.

    target: a file, replaced if it exists, or an open stream. A class's column is "p(its name)", a
    regression's for a target "value(its name)".
    """
    rows = iter(rows)
    first_rows: list[FilePrediction] = []
    for row in rows:  # the classes are known from the first image that could be read
        first_rows.append(row)
        if row.probabilities:
            break
    names: list[str] = []
    what = "p"
    if first_rows:
        names = list(first_rows[-1].probabilities)
        what = "value" if first_rows[-1].label is None else "p"
    with _opened(target) as stream:
        writer = csv.writer(stream)
        class_columns = [f"{what}({name})" for name in names]
        writer.writerow(["path", "label", "probability", "error", *class_columns])

        def write(row: FilePrediction) -> None:
            values = [row.probabilities.get(name) for name in names]
            writer.writerow([row.path, row.label, row.probability, row.error, *values])

        return _write_all(chain(first_rows, rows), write)


def write_jsonl(rows: Iterable[FilePrediction], target: str | Path | TextIO) -> Written:
    """Writes rows as they come, a JSON object a line with the row's fields.

    target: a file, replaced if it exists, or an open stream.
    """
    with _opened(target) as stream:

        def write(row: FilePrediction) -> None:
            stream.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")

        return _write_all(rows, write)


def _write_all(rows: Iterable[FilePrediction], write: Callable[[FilePrediction], None]) -> Written:
    images = unreadable = 0
    for row in rows:
        write(row)
        images += 1
        if row.error:
            unreadable += 1
    return Written(images, unreadable)


def _opened(target: str | Path | TextIO) -> AbstractContextManager[TextIO]:
    if not isinstance(target, str | Path):
        return nullcontext(target)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    # the names of files need not be valid UTF-8
    return Path(target).open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _bar(total: int | None, progress: bool) -> Callable[[], Any]:
    """Makes a bar on standard error, so that rows can go to standard output."""
    somebody_looks = sys.stderr.isatty() or "ipykernel" in sys.modules
    return lambda: tqdm(
        total=total,
        desc="predicting",
        unit=" images",
        leave=False,
        dynamic_ncols=True,
        disable=not (progress and somebody_looks),
    )
