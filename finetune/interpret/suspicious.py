"""Labels that are probably wrong: a model that was not trained on them confidently disagrees."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune import arguments, corrections
from finetune.corrections import Correction, image_name
from finetune.interpret.analysis import fit_temperature, softmax
from finetune.interpret.image_grids import WRONG, plot_grid
from finetune.tables import Table, end_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_ODDS = 3
"""How many times as probable as the label another class is, if the label is suspicious."""
SURE_FROM = 30
"""So many images a class let a judge find what he would find with many more. On photos of clothes
of which 10 % were mislabelled, judges of 8, 15, 30 and 100 images a class found 49, 53, 66 and 67 %
of those, and of what they suspected 32, 35, 42 and 53 % was wrong."""

_HEADER = ("item", "label", "looks like", "its probability", "of the label")


class SuspiciousLabel(NamedTuple):
    """One label that is probably wrong.

    item: path, or number in the data that the caller passed. label: the class it is labelled as.
    looks_like: the class that the model predicts. probability: of `looks_like`. own_probability: of
    `label`. number: of the example's row among those examined.
    """

    item: str | int
    label: str
    looks_like: str
    probability: float
    own_probability: float
    number: int


def rank_suspicious(probabilities: np.ndarray, targets: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of a suspicious example and its likelier class, the most suspicious first.

    An example is suspicious if the likeliest of the classes it is confidently in is not its label,
    and is `LEAST_ODDS` times as probable. It is confidently in a class whose probability reaches
    the mean probability that the examples of that class have for it; so classes that are hard to
    tell apart are not all suspected. Examples are ranked by the margin p[label] - p[likelier
    class], lowest first. Classes with fewer than two examples are left out.

    probabilities: [N, C], of a model that was not trained on these examples, see `as_sure_as_right`
    for what makes those of a poor one harmless. targets: [N].
    Source: Northcutt, Jiang, Chuang, "Confident Learning" (2021).
    """
    classes = probabilities.shape[1]
    examples = np.arange(len(targets))
    label_probabilities = probabilities[examples, targets]
    class_sizes = np.bincount(targets, minlength=classes)
    sums = np.bincount(targets, label_probabilities, classes)
    class_means = sums / np.maximum(class_sizes, 1)
    can_be_judged = class_sizes >= 2
    is_confident = (probabilities >= class_means) & can_be_judged
    likelier = np.where(is_confident, probabilities, -1).argmax(axis=1)
    likelier_probabilities = probabilities[examples, likelier]
    is_suspicious = is_confident.any(axis=1) & (likelier != targets) & can_be_judged[targets]
    is_suspicious &= likelier_probabilities >= LEAST_ODDS * label_probabilities
    margins = label_probabilities - likelier_probabilities
    suspicious = np.flatnonzero(is_suspicious).tolist()
    suspicious.sort(key=lambda example: margins[example])
    return [(example, int(likelier[example])) for example in suspicious]


def as_sure_as_right(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The probabilities, less sure if they are surer than they are right; [N, C].

    A judge of few images disagrees with many labels, and surely so. The temperature that makes the
    labels likeliest takes its certainty, and with it the suspicion: one that is right no more often
    than chance suspects nobody. It is at least 1, as nobody is made surer than he was.
    """
    smallest = np.finfo(np.float32).tiny
    scores = np.log(np.maximum(probabilities, smallest))
    temperature = max(1.0, fit_temperature(scores, targets))
    return softmax(scores / temperature)


class SuspiciousLabels(Sequence[SuspiciousLabel]):
    """The most suspicious labels, the surest first.

    total: how many labels are suspicious; `rows` may be fewer. examined: how many were examined.
    image: opens the image of a row by its number; None where the data has no images. caution: why
    they are hints rather than findings; empty where they are not.
    """

    def __init__(
        self,
        rows: Sequence[SuspiciousLabel],
        total: int,
        examined: int,
        image: Callable[[int], Any] | None = None,
        *,
        caution: str = "",
    ) -> None:
        self.rows = tuple(rows)
        self.total = total
        self.examined = examined
        self.caution = caution
        self._root: Path | None = None
        self._image = image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return self.rows[number]

    def __iter__(self) -> Iterator[SuspiciousLabel]:
        return iter(self.rows)

    def named_below(self, root: Path | None) -> SuspiciousLabels:
        """The same, with the images of `to_csv` named below a folder; None leaves their paths."""
        labels = copy.copy(self)
        labels._root = root
        return labels

    @property
    def _summary(self) -> str:
        verb = "is" if self.total == 1 else "are"
        summary = f"{self.total:,} of {self.examined:,} labels {verb} suspicious"
        if len(self) < self.total:
            summary += f"; the surest {len(self)}"
        if self.caution:
            summary += f"; {self.caution}"
        return summary

    def _table(self, item_width: int) -> Table:
        cells = []
        for row in self.rows:
            item = end_of(row.item, item_width)
            shares = [f"{row.probability:.3f}", f"{row.own_probability:.3f}"]
            cells.append([item, row.label, row.looks_like, *shares])
        return Table.of(_HEADER, cells, words=3, caption=self._summary)

    def __repr__(self) -> str:
        if not self.rows:
            return self._summary
        return f"{self._summary}\n{self._table(item_width=48).text()}"

    def _repr_html_(self) -> str:
        return self._table(item_width=80).html()

    def to_csv(self, path: str | Path) -> None:
        """Writes the rows as a table that `corrections=` of `ImageDataLoaders` takes.

        Nothing is decided in it yet: write keep, relabel or remove into the column action, and with
        relabel the class into new_label. `Learner.clean` shows the images for that.
        """
        rows, more = [], []
        for row in self.rows:
            rows.append(Correction(image_name(row.item, self._root), row.label, None))
            more.append([row.looks_like, f"{row.probability:.6g}", f"{row.own_probability:.6g}"])
        columns = ("looks_like", "probability", "label_probability")
        corrections.write(arguments.path("path", path), rows, more, columns)

    def plot(self) -> Figure:
        """Plots the images with the suspicious labels.

        Raises ValueError where the data has no images, or no label is suspicious.
        """
        if self._image is None:
            raise ValueError(
                "these labels have no images: their data gave tensors only; "
                "use ImageDataLoaders, or the table"
            )
        if not self.rows:
            raise ValueError(f"there is nothing to show: {self._summary}")
        images, texts = [], []
        for row in self.rows:
            images.append(self._image(row.number))
            texts.append(f"labelled {row.label}\nlooks like {row.looks_like} {row.probability:.0%}")
        return plot_grid(images, texts, [WRONG] * len(texts), columns=5, caption=self._summary)


def suspicious_labels(
    probabilities: np.ndarray,
    targets: np.ndarray,
    items: tuple[str | int, ...],
    classes: tuple[str, ...],
    count: int,
    image: Callable[[int], Any] | None,
) -> SuspiciousLabels:
    """The `count` most suspicious labels, or all of them where there are fewer.

    probabilities: [N, C], by models that did not see the label of the example. targets: [N] class
    numbers. items: names of the examples. image: opens the image of an example, by its number; None
    if no images are known. Raises ValueError unless count >= 1.
    """
    arguments.whole_number("count", count, at_least=1)
    probabilities = as_sure_as_right(probabilities, targets)
    ranking = rank_suspicious(probabilities, targets)
    rows = []
    for number, likelier_class in ranking[:count]:
        label = targets[number]
        row = SuspiciousLabel(
            item=items[number],
            label=classes[label],
            looks_like=classes[likelier_class],
            probability=float(probabilities[number, likelier_class]),
            own_probability=float(probabilities[number, label]),
            number=number,
        )
        rows.append(row)
    caution = _caution(probabilities, targets)
    return SuspiciousLabels(rows, len(ranking), len(targets), image, caution=caution)


def _caution(probabilities: np.ndarray, targets: np.ndarray) -> str:
    """Why suspicions are hints only; empty where they are more."""
    sizes = np.bincount(targets)
    sizes = sizes[sizes > 0]
    agreement = (probabilities.argmax(axis=1) == targets).mean()
    if agreement < 0.5:
        return (
            f"the judges agree with only {agreement:.0%} of all labels, so that they hardly know "
            "the classes: take these as hints"
        )
    small = int((sizes < SURE_FROM).sum())
    if not small:
        return ""
    return (
        f"fewer than {SURE_FROM} images in {small} of {len(sizes)} classes, too few to judge "
        "surely: take these as hints"
    )
