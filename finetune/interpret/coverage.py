"""CoverageCurve: how often sets of classes hold the truth, and how large they are for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune import arguments
from finetune.interpret import figure as shared
from finetune.interpret.conformal import (
    check_enough,
    class_sets,
    fewest_examples,
    least_probabilities,
)
from finetune.randomness import key
from finetune.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REQUESTED = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99)
_HALVES = 20
_HEADER = ("requested", "coverage", "classes a set")


@dataclass(frozen=True, eq=False, repr=False)
class CoverageCurve:
    """What `calibrate(coverage=...)` would give, counted on examples that it was not fitted to.

    The examples are halved at random, several times: limits are fitted to one half, and sets are
    counted on the other one.

    requested: [R] coverages. coverages: [R], share of the examples whose set holds the truth.
    sizes: [R], mean number of classes in a set.
    """

    requested: np.ndarray
    coverages: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        targets: np.ndarray,
        requested: Sequence[float] = REQUESTED,
    ) -> CoverageCurve:
        """probabilities: [N, C]. targets: [N] class numbers.

        Coverages that half of the examples are too few for are left out. Raises ValueError where
        that is all of them.
        """
        shares = arguments.sequence("requested", requested, "coverages")
        if not len(shares):
            raise ValueError("requested names no coverage, such as [0.9]")
        for share in shares:
            arguments.real_number("requested", share, above=0, below=1)
        fitted_count = len(targets) // 2
        possible = [share for share in shares if fewest_examples(share) <= fitted_count]
        if not possible:
            check_enough(fitted_count, min(shares), "example")
        rows = []
        for share in possible:
            of_halves = [_count(probabilities, targets, share, half) for half in range(_HALVES)]
            rows.append(np.mean(of_halves, axis=0))
        coverages, sizes = np.array(rows).T
        return cls(np.array(possible), coverages, sizes)

    def table(self) -> Table:
        """A row for each coverage."""
        cells = []
        for row in zip(self.requested, self.coverages, self.sizes, strict=True):
            requested, coverage, size = row
            cells.append([f"{requested:.3g}", f"{coverage:.3f}", f"{size:.2f}"])
        return Table.of(_HEADER, cells)

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()

    def plot(self) -> Figure:
        """Plots coverage and mean size of the sets over the coverage that is requested.

        The dashed diagonal is what was asked for.
        """
        with shared.house_style():
            figure, (top, bottom) = shared.new_axes(3.0, 2.0, width=5.6)
            ends = [float(self.requested[0]), float(self.requested[-1])]
            top.plot(ends, ends, "--", color=shared.INK, linewidth=1, label="as requested")
            top.plot(self.requested, self.coverages, "o-", label="coverage")
            top.set_ylabel("sets that hold the truth")
            top.legend(frameon=False, fontsize=9)
            bottom.plot(self.requested, self.sizes, "o-")
            bottom.set_ylabel("classes a set")
            bottom.set_ylim(bottom=0)
            bottom.set_xlabel("requested coverage")
        return figure


def _count(
    probabilities: np.ndarray, targets: np.ndarray, share: float, half: int
) -> tuple[float, float]:
    """Coverage and mean size of sets on one half of the examples, fitted to the other one."""
    order = np.random.default_rng(key(0, "coverage", half)).permutation(len(targets))
    fitted, counted = order[: len(order) // 2], order[len(order) // 2 :]
    of_truth = probabilities[fitted, targets[fitted]].astype(np.float64)
    limits = least_probabilities(of_truth, targets[fitted], probabilities.shape[1], share)
    sets = class_sets(probabilities[counted], limits)
    holds_truth = sets[np.arange(len(counted)), targets[counted]]
    return float(holds_truth.mean()), float(sets.sum(axis=1).mean())
