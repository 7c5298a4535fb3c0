"""DataSummary: what a data set holds, and what is wrong with it."""

import html
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from finetune.data.examples import Examples
from finetune.data.images.decode import EXTENSIONS, ImageError
from finetune.data.images.headers import read_header
from finetune.data.summary.duplicates import Twins, find_duplicates
from finetune.tables import Column, Table, facts_html
from finetune.tasks import Task
from finetune.wording import counted

CLASSES_SHOWN = 20
"""Largest and smallest classes that are listed, each, where there are more than twice as many."""
_EXAMPLES_LISTED = 5
_TEXT_WIDTH = 140


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many images of training and of validation have this class."""

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
class _Problem:
    """What should be put right. examples: some of it, a line each."""

    title: str
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What `data.summary()` finds; `print` it, or let a notebook show it.

    images: of training and of validation. classes: with counts; a regression has targets instead.
    unlabelled: images without any label; None where every image has one. imbalance: the largest
    class over the smallest, in training; infinite where a class has no image. widths, heights:
    smallest, median, largest, in pixels. unreadable: files that can't be opened (or decoded, if
    asked for), and those that were left out as such. left_out: files in the folder that are no
    images, by extension; unused: images in it that are not among the examples. duplicates: pairs of
    images in training with the same bytes. leaks: pairs of an image in training and one in
    validation, so that validation flatters the model. conflicts: of both, the pairs with different
    labels.
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
        return tuple(twins for twins in (*self.leaks, *self.duplicates) if twins.is_conflict)

    def __str__(self) -> str:
        """Problems first, then the classes or targets, then what the images are like."""
        lines = []
        for problem in _problems(self):
            lines.append(problem.title)
            lines.extend(f"  {example}" for example in problem.examples)
        if lines:
            lines.append("")
        lines.extend([_label_table(self).text(width=_TEXT_WIDTH), ""])
        facts = _facts(self)
        name_width = max(len(name) for name, _ in facts)
        lines.extend(f" {name:<{name_width}}  {value}" for name, value in facts)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For a notebook, light or dark: no colour of its own."""
        parts = []
        for problem in _problems(self):
            items = "".join(f"<li>{html.escape(example)}</li>" for example in problem.examples)
            parts.append(f"<p><strong>{html.escape(problem.title)}</strong></p><ul>{items}</ul>")
        parts.append(_label_table(self).html())
        parts.append(facts_html(_facts(self)))
        return "".join(parts)


def summarise(
    train: Examples,
    valid: Examples,
    *,
    folders: Sequence[Path] = (),
    skipped: Sequence[ImageError] = (),
    decode: bool = False,
    workers: int = 8,
) -> DataSummary:
    """Reads all headers, and the bytes of the files that may be the same. See `DataSummary`.

    folders: where the examples were looked for. skipped: files that were left out as unreadable.
    decode: decode every image to find unreadable ones. workers: threads.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="summary") as threads:
        headers = []
        for examples in (train, valid):
            read = partial(read_header, examples.items, decode=decode)
            headers.append(list(threads.map(read, range(len(examples)))))
        duplicates, leaks = find_duplicates((train, valid), headers, threads)
    all_headers = [*headers[0], *headers[1]]
    readable = [header for header in all_headers if header.error is None]
    errors = [header.error for header in all_headers if header.error is not None]
    class_counts = tuple(map(ClassCount, train.classes, train.counts(), valid.counts()))
    left_out, unused = _unused_files(folders, train, valid, skipped)
    return DataSummary(
        task=train.task,
        images=(len(train), len(valid)),
        classes=class_counts,
        targets=() if class_counts else _target_ranges(train, valid),
        unlabelled=_count_unlabelled(train, valid),
        imbalance=_imbalance([count.train for count in class_counts]),
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


def _imbalance(counts: Sequence[int]) -> float | None:
    if not counts:
        return None
    if min(counts) == 0:
        return float("inf")
    return max(counts) / min(counts)


def _spread(sides: Sequence[int]) -> tuple[int, float, int] | None:
    if not sides:
        return None
    return min(sides), median(sides), max(sides)


def _count_unlabelled(train: Examples, valid: Examples) -> int | None:
    in_train = train.task.count_unlabelled(train.labels)
    in_valid = valid.task.count_unlabelled(valid.labels)
    if in_train is None or in_valid is None:
        return None
    return in_train + in_valid


def _target_ranges(train: Examples, valid: Examples) -> tuple[TargetRange, ...]:
    ranges = []
    for number, name in enumerate(train.classes):
        spans = []
        for examples in (train, valid):
            values = examples.labels[:, number]
            spans.append((float(values.min()), float(values.mean()), float(values.max())))
        ranges.append(TargetRange(name, spans[0], spans[1]))
    return tuple(ranges)


def _unused_files(
    folders: Sequence[Path], train: Examples, valid: Examples, skipped: Sequence[ImageError]
) -> tuple[dict[str, int], int]:
    """Files that are no images to us, counted by extension, and the number of images not used."""
    if not folders:
        return {}, 0
    left_out: Counter[str] = Counter()
    images: set[str] = set()
    for folder in folders:
        for place, subfolders, files in os.walk(folder, followlinks=True):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in files:
                extension = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if extension in EXTENSIONS:
                    images.add(os.path.abspath(os.path.join(place, name)))
                else:
                    left_out[extension or "(none)"] += 1
    used = {os.path.abspath(str(item)) for item in (*train.items, *valid.items)}
    used |= {os.path.abspath(error.source) for error in skipped}
    return dict(left_out.most_common()), len(images - used)


# --- as text and HTML


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
    counts = summary.classes
    is_shortened = len(counts) > 2 * CLASSES_SHOWN
    if is_shortened:
        counts = tuple(sorted(counts, key=lambda count: -count.train))
    rows = []
    for count in counts:
        share = count.train / max(train_total, 1)
        rows.append([count.name, f"{count.train:,}", f"{count.valid:,}", f"{share:.1%}"])
    if is_shortened:
        between = [f"... {len(rows) - 2 * CLASSES_SHOWN} classes between", "", "", ""]
        rows = [*rows[:CLASSES_SHOWN], between, *rows[-CLASSES_SHOWN:]]
    total = ["all images", f"{train_total:,}", f"{valid_total:,}", ""]
    return Table(columns, [*rows, total])


def _target_table(targets: Sequence[TargetRange]) -> Table:
    header = ["target", "train min", "mean", "max", "valid min", "mean", "max"]
    rows = []
    for target in targets:
        values = [f"{value:.4g}" for value in (*target.train, *target.valid)]
        rows.append([target.name, *values])
    return Table.of(header, rows)


def _problems(summary: DataSummary) -> list[_Problem]:
    """What should be put right, worst first; each with its first examples."""
    problems = []
    if summary.leaks:
        verb = "is" if len(summary.leaks) == 1 else "are"
        title = (
            f"LEAK: {len(summary.leaks):,} of {counted(summary.images[1], 'validation image')} "
            f"{verb} in training, too, byte for byte: validation flatters the model (.leaks)"
        )
        problems.append(_Problem(title, _twin_lines(summary.leaks)))
    if summary.conflicts:
        pairs = counted(len(summary.conflicts), "pair")
        title = f"CONFLICT: {pairs} of identical images with different labels (.conflicts)"
        problems.append(_Problem(title, _twin_lines(summary.conflicts)))
    if summary.unreadable:
        title = f"{counted(len(summary.unreadable), 'image')} can't be read (.unreadable)"
        lines = [str(error) for error in summary.unreadable]
        problems.append(_Problem(title, _first(lines)))
    if summary.duplicates:
        pairs = counted(len(summary.duplicates), "pair")
        title = f"duplicates in training: {pairs} (.duplicates)"
        problems.append(_Problem(title, _twin_lines(summary.duplicates)))
    return problems


def _twin_lines(all_twins: Sequence[Twins]) -> list[str]:
    lines = []
    for twins in all_twins:
        line = f"{twins.first} = {twins.second}"
        if twins.is_conflict:
            line += f" ({twins.first_label} / {twins.second_label})"
        lines.append(line)
    return _first(lines)


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _EXAMPLES_LISTED
    if more <= 0:
        return lines
    return [*lines[:_EXAMPLES_LISTED], f"... and {more} more"]


def _facts(summary: DataSummary) -> list[tuple[str, str]]:
    """What else there is to say, line by line."""
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
