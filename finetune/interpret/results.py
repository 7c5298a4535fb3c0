"""Which images to show, and what the caption above them says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from finetune import arguments
from finetune.interpret.image_grids import plot_predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(Protocol):
    """One row of `Predictions`."""

    @property
    def target(self) -> str: ...
    @property
    def predicted(self) -> str: ...
    @property
    def probability(self) -> float: ...
    @property
    def loss(self) -> float: ...


def choose(wrong: Sequence[int], right: Sequence[int], count: int) -> list[int]:
    """Chooses `count` images, or all if there are fewer: mistakes first, then right ones.

    At most half of them are mistakes, as long as there are enough right ones. The mistakes are the
    first of `wrong`; the right ones are spread evenly over `right`.

    wrong, right: numbers of images. Raises ValueError unless 1 <= count.

    >>> choose([7, 8, 9], [0, 1, 2, 3, 4, 5, 6], 4)
    [7, 8, 0, 6]
    """
    arguments.whole_number("count", count, at_least=1)
    half = (count + 1) // 2
    wrong_count = min(len(wrong), max(count - len(right), half))
    right_count = min(count - wrong_count, len(right))
    chosen = list(wrong[:wrong_count])
    intervals = max(right_count - 1, 1)
    for i in range(right_count):
        chosen.append(right[i * (len(right) - 1) // intervals])
    return chosen


def plot_results(images: Sequence[Any], rows: Sequence[Row], mistakes: int, total: int) -> Figure:
    """Plots images with what was predicted, and a caption that says which images they are.

    rows: of the images, mistakes first. mistakes, total: counts of mistakes and of images in all
    the data.
    """
    shown_mistakes = sum(row.target != row.predicted for row in rows)
    shown_right = len(rows) - shown_mistakes
    descriptions = []
    if mistakes:
        descriptions.append(_describe_mistakes(shown_mistakes, mistakes))
    if shown_right:
        verb = "is" if shown_right == 1 else "are"
        descriptions.append(f"{shown_right} that {verb} right")
    caption = (
        f"{mistakes:,} of {total:,} images are predicted wrong ({mistakes / total:.1%}). "
        f"Here: {', then '.join(descriptions)}."
    )
    return _plot(images, rows, caption, losses=None)


def _describe_mistakes(shown: int, total: int) -> str:
    if shown < total:
        return f"the {shown} with the highest loss"
    if shown == 1:
        return "that one"
    return "all of them"


def plot_top_losses(images: Sequence[Any], rows: Sequence[Row]) -> Figure:
    """Plots images with their losses. rows: of the images, highest losses first."""
    caption = (
        f"The {len(rows)} images with the highest loss: what was predicted and with which "
        "probability, and what they are labelled."
    )
    return _plot(images, rows, caption, losses=[row.loss for row in rows])


def _plot(
    images: Sequence[Any], rows: Sequence[Row], caption: str, *, losses: Sequence[float] | None
) -> Figure:
    return plot_predictions(
        images,
        [row.target for row in rows],
        [row.predicted for row in rows],
        [row.probability for row in rows],
        caption=caption,
        losses=losses,
    )
