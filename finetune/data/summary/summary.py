"""DataSummary: what a data set holds, and what is wrong with it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from finetune.data.examples import Examples
from finetune.data.images.decode import EXTENSIONS, ImageError
from finetune.data.images.headers import read_header
from finetune.data.summary import summary_table
from finetune.data.summary.duplicates import Twins, find_duplicates
from finetune.tasks.task import Task


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many images have this label."""

    name: str
    train: int
    valid: int


@dataclass(frozen=True, slots=True)
class TargetRange:
    """A target of a regression: smallest, mean and largest value in training and in validation."""

    name: str
    train: tuple[float, float, float]
    valid: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What `data.summary()` found; `print` it, or let a notebook show it.

    images: of training and of validation. classes: with counts; of a regression there are
    targets. unlabelled: images without any label, where they may have several. imbalance: the
    largest class over the smallest, in training; infinite where a class has no image. widths,
    heights: smallest, median, largest, in pixels. unreadable: files that can't be opened (or
    decoded, if asked for), and those that were left out as such. left_out: files in the folder
    that are no images, by extension; unused: images in it that are not among the examples.
    duplicates: pairs of images in training with the same bytes. leaks: pairs of one in training
    and one in validation, so that validation flatters the model. conflicts: of both, the pairs with
    different labels.
    """

    task: Task
    images: tuple[int, int]
    classes: tuple[ClassCount, ...]
    targets: tuple[TargetRange, ...]
    unlabelled: int
    imbalance: float | None
    widths: tuple[int, float, int] | None
    heights: tuple[int, float, int] | None
    formats: dict[str, int]
    unreadable: tuple[ImageError, ...]
    left_out: dict[str, int]
    unused: int
    duplicates: tuple[Twins, ...]
    leaks: tuple[Twins, ...]
    decoded: bool

    @property
    def conflicts(self) -> tuple[Twins, ...]:
        return tuple(found for found in (*self.leaks, *self.duplicates) if found.is_conflict)

    def __str__(self) -> str:
        return summary_table.as_text(self)

    def _repr_html_(self) -> str:
        return summary_table.as_html(self)


def summarise(
    train: Examples,
    valid: Examples,
    *,
    folders: Sequence[Path] = (),
    skipped: Sequence[ImageError] = (),
    decode: bool = False,
    workers: int = 8,
) -> DataSummary:
    """Looks at all headers, and at the bytes of what may be the same. See `DataSummary`."""
    with ThreadPoolExecutor(workers, thread_name_prefix="summary") as threads:
        headers = [
            list(threads.map(partial(read_header, part.items, decode=decode), range(len(part))))
            for part in (train, valid)
        ]
        duplicates, leaks = find_duplicates((train, valid), headers, threads)
    counts = tuple(map(ClassCount, train.classes, train.counts(), valid.counts()))
    every = [header for part in headers for header in part]
    known = [header for header in every if header.error is None]
    left_out, unused = _others(folders, train, valid, skipped)
    labelled = [part.labels.sum(dim=1) for part in (train, valid) if part.task == "multi_label"]
    return DataSummary(
        task=train.task,
        images=(len(train), len(valid)),
        classes=counts,
        targets=tuple(_ranges(train, valid)),
        unlabelled=sum(int((sums == 0).sum()) for sums in labelled),
        imbalance=_imbalance([count.train for count in counts]),
        widths=_spread([header.width for header in known]),
        heights=_spread([header.height for header in known]),
        formats=dict(Counter(header.format for header in known).most_common()),
        unreadable=(*skipped, *(header.error for header in every if header.error is not None)),
        left_out=left_out,
        unused=unused,
        duplicates=duplicates,
        leaks=leaks,
        decoded=decode,
    )


def _imbalance(counts: Sequence[int]) -> float | None:
    if not counts:
        return None
    return max(counts) / min(counts) if min(counts) else float("inf")


def _spread(sides: Sequence[int]) -> tuple[int, float, int] | None:
    return (min(sides), median(sides), max(sides)) if sides else None


def _ranges(train: Examples, valid: Examples) -> Iterator[TargetRange]:
    if train.task == "regression":
        for name, *columns in zip(train.classes, train.labels.T, valid.labels.T, strict=True):
            spans = [(float(c.min()), float(c.mean()), float(c.max())) for c in columns]
            yield TargetRange(name, spans[0], spans[1])


def _others(
    folders: Sequence[Path], train: Examples, valid: Examples, skipped: Sequence[ImageError]
) -> tuple[dict[str, int], int]:
    """Files by extension that are no images to us, and the number of images not used."""
    left_out: Counter[str] = Counter()
    images: set[str] = set()
    for folder in folders:
        for place, below, files in os.walk(folder, followlinks=True):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in files:
                extension = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if extension in EXTENSIONS:
                    images.add(os.path.abspath(os.path.join(place, name)))
                else:
                    left_out[extension or "(none)"] += 1
    if not folders:
        return {}, 0
    used = {os.path.abspath(str(item)) for part in (train, valid) for item in part.items}
    used |= {os.path.abspath(error.source) for error in skipped}
    return dict(left_out.most_common()), len(images - used)
