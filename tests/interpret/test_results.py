"""Which images are shown, and what the captions say."""

import numpy as np
import pytest

from finetune.interpret.image_grids import RIGHT, WRONG
from finetune.interpret.predictions import Predictions
from finetune.interpret.results import choose


def table(wrong: int, right: int) -> Predictions:
    count = wrong + right
    targets = np.arange(count) % 2
    scores = np.zeros((count, 2))
    certainty = np.linspace(1, 3, count)
    predicted = np.where(np.arange(count) < wrong, 1 - targets, targets)
    scores[np.arange(count), predicted] = certainty
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(count), targets]
    numbers = list(range(count))
    return Predictions(
        numbers, ["cat", "dog"], targets, scores, losses, image=lambda i: np.full((4, 4, 3), i)
    )


def numbers(figure: object) -> list[int]:
    return [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes if axes.images]


def test_the_mistakes_with_the_highest_loss_come_first() -> None:
    figure = table(wrong=4, right=6).show_results(6)
    assert numbers(figure)[:3] == [3, 2, 1]
    assert all(i >= 4 for i in numbers(figure)[3:])
    assert figure._suptitle.get_text().replace("\n", " ") == (
        "4 of 10 images are predicted wrong (40.0%). "
        "Here: the 3 with the highest loss, then 3 that are right."
    )
    colours = [axes.title.get_color() for axes in figure.axes]
    assert colours == [WRONG] * 3 + [RIGHT] * 3


@pytest.mark.parametrize(
    ("wrong", "right", "count", "text"),
    [
        (0, 9, 4, "0 of 9 images are predicted wrong (0.0%). Here: 4 that are right."),
        (1, 9, 2, "Here: that one, then 1 that is right."),
        (2, 8, 6, "Here: all of them, then 4 that are right."),
        (3, 0, 2, "Here: the 2 with the highest loss."),
    ],
)
def test_the_caption_says_which_images_are_shown(
    wrong: int, right: int, count: int, text: str
) -> None:
    figure = table(wrong, right).show_results(count)
    assert figure._suptitle.get_text().replace("\n", " ").endswith(text)
    assert len(numbers(figure)) == count


def test_no_image_is_shown_twice() -> None:
    for wrong, right, count in ((0, 5, 9), (5, 0, 9), (3, 3, 6), (1, 20, 7)):
        shown = choose(range(100, 100 + wrong), range(right), count)
        assert len(shown) == len(set(shown)) == min(count, wrong + right)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
        choose([1], [2], 0)


def test_top_losses_name_prediction_label_probability_and_loss() -> None:
    figure = table(wrong=2, right=2).plot_top_losses(1)
    row = table(wrong=2, right=2).top_losses(1)[0]
    assert figure.axes[0].get_title() == (
        f"{row.predicted}  {row.probability:.0%}\n(is {row.target})\nloss {row.loss:.2f}"
    )
