"""Labels that a model, which did not see them, disagrees with confidently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.interpret.image_grids import WRONG, plot_grid
from finetune.tables import Table, end_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADER = ("item", "label", "looks like", "its probability", "of the label")


class SuspiciousLabel(NamedTuple):
    """item: path, or number in what the caller gave. number: of the row among those examined.
    probability: of the class it looks like. own_probability: of its label."""

    item: str | int
    label: str
    looks_like: str
    probability: float
    own_probability: float
    number: int


def rank_suspicious(probabilities: np.ndarray, targets: np.ndarray) -> list[tuple[int, int]]:
    """(example, likelier class), by the margin p[label] - p[likelier class], lowest first.

    probabilities: [N, C], out of sample. An example counts where a class other than its label
    reaches the mean probability that the examples of that class have for it; so classes that are
    hard to tell are not all suspected. Classes with fewer than two examples are left out.
    Source: Northcutt, Jiang, Chuang, "Confident Learning" (2021).
    """
    count = probabilities.shape[1]
    numbers = np.arange(len(targets))
    own = probabilities[numbers, targets]
    sizes = np.bincount(targets, minlength=count)
    means = np.bincount(targets, own, count) / np.maximum(sizes, 1)
    confident = (probabilities >= means) & (sizes >= 2)
    confident[numbers, targets] &= sizes[targets] >= 2
    likelier = np.where(confident, probabilities, -1).argmax(axis=1)
    off = confident.any(axis=1) & (likelier != targets) & (sizes[targets] >= 2)
    margin = own - probabilities[numbers, likelier]
    found = sorted(np.flatnonzero(off).tolist(), key=lambda i: margin[i])
    return [(i, int(likelier[i])) for i in found]


class SuspiciousLabels(Sequence[SuspiciousLabel]):
    """The most suspicious labels first. total: how many are suspicious; examined: of how many."""

    def __init__(
        self,
        rows: Sequence[SuspiciousLabel],
        total: int,
        examined: int,
        image: Callable[[int], Any] | None = None,
    ) -> None:
        self.rows, self.total, self.examined = tuple(rows), total, examined
        self._image = image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return self.rows[number]

    def __iter__(self) -> Iterator[SuspiciousLabel]:
        return iter(self.rows)

    @property
    def _summary(self) -> str:
        shown = f"; the surest {len(self)}" if len(self) < self.total else ""
        verb = "is" if self.total == 1 else "are"
        return f"{self.total:,} of {self.examined:,} labels {verb} suspicious{shown}"

    def _cells(self, width: int) -> list[list[str]]:
        return [
            [
                end_of(row.item, width),
                row.label,
                row.looks_like,
                f"{row.probability:.3f}",
                f"{row.own_probability:.3f}",
            ]
            for row in self.rows
        ]

    def _table(self, item_width: int) -> Table:
        return Table.of(_HEADER, self._cells(item_width), words=3, caption=self._summary)

    def __repr__(self) -> str:
        if not self.rows:
            return self._summary
        return f"{self._summary}\n{self._table(item_width=48).text()}"

    def _repr_html_(self) -> str:
        return self._table(item_width=80).html()

    def plot(self) -> Figure:
        """Their images. Raises ValueError where there are none."""
        if self._image is None:
            raise ValueError("these labels have no images: their data gave tensors only")
        if not self.rows:
            raise ValueError(f"there is nothing to show: {self._summary}")
        texts = [
            f"labelled {row.label}\nlooks like {row.looks_like} {row.probability:.0%}"
            for row in self.rows
        ]
        images = [self._image(row.number) for row in self.rows]
        return plot_grid(images, texts, [WRONG] * len(texts), columns=5, caption=self._summary)
