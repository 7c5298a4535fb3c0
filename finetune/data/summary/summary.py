"""DataSummary: what a data set holds, and what is wrong with it, as data, text and HTML."""

import html
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median

from torch import Tensor

from finetune.data.examples import Examples
from finetune.data.images.headers import Header, read_header
from finetune.data.images.opening import ImageError
from finetune.data.images.value_range import Depth, ValueRange
from finetune.data.sources.listing import Listing
from finetune.data.summary.duplicates import Twins, find_duplicates
from finetune.tables import Column, Table, facts_html
from finetune.tasks import Task
from finetune.tasks.unevenness import are_uneven, imbalance
from finetune.wording import counted

CLASSES_SHOWN = 20
"""So many of the largest and of the smallest classes are listed; the others are only counted."""

_EXAMPLES_LISTED = 5
"""So many examples of a problem are listed."""

_TEXT_WIDTH = 140
"""In characters."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """The number of images that have a class, in training and in validation."""

    name: str
    train: int
    valid: int


@dataclass(frozen=True, slots=True)
class TargetRange:
    """The values of a regression's target.

    train, valid: the smallest value, the mean, and the largest value.
    """

    name: str
    train: tuple[float, float, float]
    valid: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Problem:
    """What should be put right.

    title: what is wrong, in words. examples: a line for each of the first cases.
    """

    title: str
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What `data.summary()` finds; `print` it, or let a notebook show it.

    images: numbers of images in training and in validation. classes: the images of each class; a
    regression has targets instead. unlabelled: number of images without any label; None where every
    image has one. imbalance: the largest class over the smallest, in training; infinite where a
    class has no image, None for a regression. widths, heights: smallest, median and largest, in
    pixels; None where no image can be read. formats: how many images have each format.
    unreadable: files that can't be opened (or decoded, if that was asked for), and those that were
    left out of the data set for that reason. left_out: how many files in the folder are no images,
    by extension. unused: number of images in the folder that are not among the examples.
    duplicates: pairs of images in training with the same content. leaks: pairs of an image in
    training and one in validation with the same content, by which validation flatters the model.
    conflicts: the pairs among both whose labels differ. decoded: whether all images were decoded.
    """

    task: Task
    images: tuple[int, int]
    classes: tuple[ClassCount, ...]
    targets: tuple[TargetRange, ...]
    unlabelled: int | None
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
        """Pairs of images with the same content and different labels."""
        return tuple(twins for twins in (*self.leaks, *self.duplicates) if twins.is_conflict)

    def __str__(self) -> str:
        """Problems first, then the classes or targets, then what the images are like."""
        lines = []
        for problem in _problems(self):
            lines.append(problem.title)
            for example in problem.examples:
                lines.append(f"  {example}")
        if lines:
            lines.append("")
        lines.append(_label_table(self).text(width=_TEXT_WIDTH))
        lines.append("")
        facts = _facts(self)
        name_width = max(len(name) for name, _ in facts)
        for name, value in facts:
            lines.append(f" {name:<{name_width}}  {value}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For a notebook; without colours of its own, so that it suits light and dark ones."""
        sections = [_problem_html(problem) for problem in _problems(self)]
        sections.append(_label_table(self).html())
        sections.append(facts_html(_facts(self)))
        return "".join(sections)


def summarise(
    train: Examples,
    valid: Examples,
    *,
    folders: Sequence[Path] = (),
    skipped: Sequence[ImageError] = (),
    decode: bool = False,
    num_workers: int = 8,
    value_range: ValueRange | Depth | None = None,
    channels: int = 3,
) -> DataSummary:
    """Reads the headers of all images, and the content of those that may be the same.

    folders: where the examples were looked for. skipped: files that were left out as unreadable.
    decode: decode every image to find unreadable ones. num_workers: threads. value_range, channels:
    see `read_image` and `read_bands`. See `DataSummary`.
    """
    with ThreadPoolExecutor(num_workers, thread_name_prefix="summary") as threads:
        read = partial(read_header, decode=decode, value_range=value_range, channels=channels)
        train_headers = _headers(train, read, threads)
        valid_headers = _headers(valid, read, threads)
        headers = (train_headers, valid_headers)
        duplicates, leaks = find_duplicates((train, valid), headers, threads)
    errors = [header.error for header in chain(*headers) if header.error is not None]
    readable = [header for header in chain(*headers) if header.error is None]
    class_counts = tuple(map(ClassCount, train.classes, train.counts(), valid.counts()))
    left_out, unused = _unused_files(folders, train, valid, skipped)
    return DataSummary(
        task=train.task,
        images=(len(train), len(valid)),
        classes=class_counts,
        targets=() if class_counts else _target_ranges(train, valid),
        unlabelled=_count_unlabelled(train, valid),
        imbalance=imbalance([count.train for count in class_counts]),
        widths=_spread([header.width for header in readable]),
        heights=_spread([header.height for header in readable]),
        formats=dict(Counter(header.format for header in readable).most_common()),
        unreadable=(*skipped, *errors),
        left_out=left_out,
        unused=unused,
        duplicates=duplicates,
        leaks=leaks,
        decoded=decode,
    )


def _headers(examples: Examples, read: Callable[..., Header], threads: Executor) -> list[Header]:
    """read: a header from the items and the number of one of them."""
    return list(threads.map(partial(read, examples.items), range(len(examples))))


def _spread(sides: Sequence[int]) -> tuple[int, float, int] | None:
    """Smallest, median and largest; None where there are none."""
    if not sides:
        return None
    return min(sides), median(sides), max(sides)


def _count_unlabelled(train: Examples, valid: Examples) -> int | None:
    """The number of images without any label; None for a task whose images all have one."""
    in_train = train.task.count_unlabelled(train.labels)
    in_valid = valid.task.count_unlabelled(valid.labels)
    if in_train is None or in_valid is None:
        return None
    return in_train + in_valid


def _target_ranges(train: Examples, valid: Examples) -> tuple[TargetRange, ...]:
    ranges = []
    for number, name in enumerate(train.classes):
        train_range = _value_range(train.labels[:, number])
        valid_range = _value_range(valid.labels[:, number])
        ranges.append(TargetRange(name, train_range, valid_range))
    return tuple(ranges)


def _value_range(values: Tensor) -> tuple[float, float, float]:
    """Smallest value, mean, and largest value."""
    return float(values.min()), float(values.mean()), float(values.max())


def _unused_files(
    folders: Sequence[Path], train: Examples, valid: Examples, skipped: Sequence[ImageError]
) -> tuple[dict[str, int], int]:
    """What is in the folders beside the examples.

    Returns how many files are no images to this library, by extension, and the number of images
    that are neither examples nor skipped.
    """
    if not folders:
        return {}, 0
    listing = Listing()
    for folder in folders:
        listing.add(str(folder))
    images = set(map(os.path.abspath, listing.images))
    used = {os.path.abspath(str(item)) for item in (*train.items, *valid.items)}
    used |= {os.path.abspath(error.source) for error in skipped}
    return dict(listing.left_out.most_common()), len(images - used)


# --- as text and HTML


def _problem_html(problem: _Problem) -> str:
    items = "".join(f"<li>{html.escape(example)}</li>" for example in problem.examples)
    return f"<p><strong>{html.escape(problem.title)}</strong></p><ul>{items}</ul>"


def _label_table(summary: DataSummary) -> Table:
    """A row for each class, or for each target of a regression."""
    if summary.targets:
        return _target_table(summary.targets)
    columns = [
        Column("class", words=True, max_width=60),
        Column("train"),
        Column("valid"),
        Column("share of train"),
    ]
    train_total, valid_total = summary.images
    hidden_count = len(summary.classes) - 2 * CLASSES_SHOWN
    if hidden_count > 0:
        by_size = sorted(summary.classes, key=lambda count: -count.train)
        rows = _class_rows(by_size[:CLASSES_SHOWN], train_total)
        rows.append([f"... {hidden_count} classes between", "", "", ""])
        rows.extend(_class_rows(by_size[-CLASSES_SHOWN:], train_total))
    else:
        rows = _class_rows(summary.classes, train_total)
    rows.append(["all images", f"{train_total:,}", f"{valid_total:,}", ""])
    return Table(columns, rows)


def _class_rows(counts: Sequence[ClassCount], train_total: int) -> list[list[str]]:
    rows = []
    for count in counts:
        share = count.train / max(train_total, 1)
        rows.append([count.name, f"{count.train:,}", f"{count.valid:,}", f"{share:.1%}"])
    return rows


def _target_table(targets: Sequence[TargetRange]) -> Table:
    header = ["target", "train min", "mean", "max", "valid min", "mean", "max"]
    rows = []
    for target in targets:
        values = [f"{value:.4g}" for value in (*target.train, *target.valid)]
        rows.append([target.name, *values])
    return Table.of(header, rows)


def _problems(summary: DataSummary) -> list[_Problem]:
    """What should be put right, the worst first."""
    problems = []
    if summary.leaks:
        verb = "is" if len(summary.leaks) == 1 else "are"
        title = (
            f"LEAK: {len(summary.leaks):,} of {counted(summary.images[1], 'validation image')} "
            f"{verb} in training, too, byte for byte: validation flatters the model (.leaks)"
        )
        problems.append(_Problem(title, _twin_lines(summary.leaks)))
    if summary.conflicts:
        pair_count = counted(len(summary.conflicts), "pair")
        title = f"CONFLICT: {pair_count} of identical images with different labels (.conflicts)"
        problems.append(_Problem(title, _twin_lines(summary.conflicts)))
    if summary.unreadable:
        title = f"{counted(len(summary.unreadable), 'image')} can't be read (.unreadable)"
        lines = [str(error) for error in summary.unreadable]
        problems.append(_Problem(title, _first(lines)))
    if summary.duplicates:
        pair_count = counted(len(summary.duplicates), "pair")
        title = f"duplicates in training: {pair_count} (.duplicates)"
        problems.append(_Problem(title, _twin_lines(summary.duplicates)))
    counts = [count.train for count in summary.classes]
    if are_uneven(counts):
        problems.append(_unevenness(summary))
    return problems


def _unevenness(summary: DataSummary) -> _Problem:
    """That classes are uneven, and what can be done about it."""
    largest = max(summary.classes, key=lambda count: count.train)
    smallest = min(summary.classes, key=lambda count: count.train)
    title = (
        f"UNEVEN classes: {counted(largest.train, 'training image')} of {largest.name}, "
        f"{smallest.train:,} of {smallest.name} (.imbalance)"
    )
    ways = []
    if summary.task.exclusive:
        ways.append("look at balanced_accuracy: accuracy is mostly that of the large classes")
        ways.append('learner.adjust_priors("uniform") after training costs nothing')
    ways.append('or train with vision_learner(..., class_weights="balanced")')
    if summary.task.exclusive:
        ways.append('or with sampling="sqrt" or "balanced" of the data')
    return _Problem(title, ways)


def _twin_lines(all_twins: Sequence[Twins]) -> list[str]:
    """A line for each of the first twins."""
    lines = []
    for twins in all_twins:
        line = f"{twins.first} = {twins.second}"
        if twins.is_conflict:
            line += f" ({twins.first_label} / {twins.second_label})"
        lines.append(line)
    return _first(lines)


def _first(lines: list[str]) -> list[str]:
    """The first lines, and the number of those that are left out."""
    left_out_count = len(lines) - _EXAMPLES_LISTED
    if left_out_count <= 0:
        return lines
    return [*lines[:_EXAMPLES_LISTED], f"... and {left_out_count} more"]


def _facts(summary: DataSummary) -> list[tuple[str, str]]:
    """What the images are like and how much is wrong with them, as names and values."""
    facts = []
    if summary.imbalance is not None:
        facts.append(("imbalance", f"{summary.imbalance:.3g} (largest class / smallest)"))
    if summary.unlabelled is not None:
        facts.append(("without a label", counted(summary.unlabelled, "image")))
    for name, sides in (("width", summary.widths), ("height", summary.heights)):
        if sides is not None:
            smallest, middle, largest = sides
            facts.append((name, f"{smallest:,} to {largest:,} px, median {middle:,.0f}"))
    if summary.formats:
        facts.append(("formats", _counts_in_words(summary.formats)))
    if summary.left_out:
        facts.append(("left out", f"{_counts_in_words(summary.left_out)} (by extension)"))
    if summary.unused:
        facts.append(("not used", f"{counted(summary.unused, 'image')} in the folder"))
    how = "all decoded" if summary.decoded else "headers only; summary(decode=True) reads all"
    facts.append(("unreadable", f"{len(summary.unreadable)} ({how})"))
    facts.append(("duplicates", f"{len(summary.duplicates)} in training"))
    facts.append(("leaks", f"{len(summary.leaks)} from training into validation"))
    return facts


def _counts_in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
