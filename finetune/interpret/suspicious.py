"""Labels that are probably wrong: a model that was not trained on them confidently disagrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune import arguments
from finetune.interpret.image_grids import WRONG, plot_grid
from finetune.tables import Table, end_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    An example is suspicious if the likeliest of the classes it is confidently in is not its label.
    It is confidently in a class whose probability reaches the mean probability that the examples
    of that class have for it; so classes that are hard to tell apart are not all suspected.
    Examples are ranked by the margin p[label] - p[likelier class], lowest first. Classes with fewer
    than two examples are left out.

    probabilities: [N, C], of a model that was not trained on these examples. targets: [N].
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
    is_suspicious = is_confident.any(axis=1) & (likelier != targets) & can_be_judged[targets]
    margins = label_probabilities - probabilities[examples, likelier]
    suspicious = np.flatnonzero(is_suspicious).tolist()
    suspicious.sort(key=lambda example: margins[example])
    return [(example, int(likelier[example])) for example in suspicious]


class SuspiciousLabels(Sequence[SuspiciousLabel]):
    """The most suspicious labels, the surest first.

    total: how many labels are suspicious; `rows` may be fewer. examined: how many were examined.
    image: opens the image of a row by its number; None where the data has no images.
    """

    def __init__(
        self,
        rows: Sequence[SuspiciousLabel],
        total: int,
        examined: int,
        image: Callable[[int], Any] | None = None,
    ) -> None:
        self.rows = tuple(rows)
        self.total = total
        self.examined = examined
        self._image = image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return self.rows[number]

    def __iter__(self) -> Iterator[SuspiciousLabel]:
        return iter(self.rows)

    @property
    def _summary(self) -> str:
        verb = "is" if self.total == 1 else "are"
        summary = f"{self.total:,} of {self.examined:,} labels {verb} suspicious"
        if len(self) < self.total:
            summary += f"; the surest {len(self)}"
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
    return SuspiciousLabels(rows, total=len(ranking), examined=len(targets), image=image)
