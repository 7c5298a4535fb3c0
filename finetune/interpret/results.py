"""Which images to show, and what the caption above them says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from finetune.interpret.image_grids import plot_predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(Protocol):
    """One of `Predictions`."""

    @property
    def target(self) -> str: ...
    @property
    def predicted(self) -> str: ...
    @property
    def probability(self) -> float: ...
    @property
    def loss(self) -> float: ...


def choose(wrong: Sequence[int], right: Sequence[int], count: int) -> list[int]:
    """The first of `wrong`, at most half of `count` while there are right ones, and then right
    ones from all over the data.

    >>> choose([7, 8, 9], [0, 1, 2, 3, 4, 5, 6], 4)
    [7, 8, 0, 6]
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    mistakes = min(len(wrong), max(count - len(right), (count + 1) // 2))
    rest = min(count - mistakes, len(right))
    steps = max(rest - 1, 1)
    return [*wrong[:mistakes], *(right[i * (len(right) - 1) // steps] for i in range(rest))]


def plot_results(images: Sequence[Any], rows: Sequence[Row], mistakes: int, total: int) -> Figure:
    """Mistakes first. mistakes, total: of all the data, for the caption."""
    shown = sum(row.target != row.predicted for row in rows)
    share = f"{mistakes:,} of {total:,} images are predicted wrong ({mistakes / total:.1%})."
    parts = [f"the {shown} with the highest loss" if shown < mistakes else f"{shown} mistakes"]
    if shown == mistakes:
        parts = ["all of them" if shown > 1 else "that one"] if shown else []
    rest = len(rows) - shown
    parts += [f"{rest} that {'are' if rest > 1 else 'is'} right"] if rest else []
    return _plot(images, rows, f"{share} Here: {', then '.join(parts)}.", losses=False)


def plot_top_losses(images: Sequence[Any], rows: Sequence[Row]) -> Figure:
    """The rows as they are, highest losses first."""
    caption = (
        f"The {len(rows)} images with the highest loss: what was predicted and with which "
        "probability, and what they are labelled."
    )
    return _plot(images, rows, caption, losses=True)


def _plot(images: Sequence[Any], rows: Sequence[Row], caption: str, *, losses: bool) -> Figure:
    return plot_predictions(
        images,
        [row.target for row in rows],
        [row.predicted for row in rows],
        [row.probability for row in rows],
        caption=caption,
        losses=[row.loss for row in rows] if losses else None,
    )
