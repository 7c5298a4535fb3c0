"""The figure of which layers moved."""

import math
from itertools import pairwise

import pytest

from finetune.interpret.movement import Moved, merge_neighbours, plot_movement


def rows(blocks: int, inside: int = 4, distance: float = 0.1) -> list[Moved]:
    return [
        Moved(f"net.{b}.{part}.conv", f"group {b}", distance * (b + 1), 1.0, 9)
        for b in range(blocks)
        for part in range(inside)
    ]


def test_the_distance_is_relative_to_where_it_began() -> None:
    assert Moved("a", "g", 0.5, 2.0, 7).distance == 0.25


def test_a_few_modules_are_not_merged() -> None:
    assert merge_neighbours(rows(15)) == rows(15)


def test_many_modules_are_merged_by_block() -> None:
    blocks = merge_neighbours(rows(16))
    assert [row.module for row in blocks] == [f"net.{b}" for b in range(16)]
    assert blocks[3].distance == pytest.approx(0.4)
    assert (blocks[3].moved, blocks[3].start) == (pytest.approx(0.8), 2.0)


def test_merged_modules_count_as_one_vector() -> None:
    (row,) = merge_neighbours([Moved("a.b", "g", 3.0, 0.0, 4), Moved("a.c", "g", 4.0, 10.0, 4)], 1)
    assert row == Moved("a", "g", 5.0, 10.0, 8)


def test_a_block_in_two_groups_is_two_bars() -> None:
    modules = [Moved("a.b", "body", 1.0, 1.0, 1), Moved("a.c", "head", 1.0, 1.0, 1)]
    assert [row.group for row in merge_neighbours(modules, 1)] == ["body", "head"]


def test_every_module_has_a_bar_in_the_colour_of_its_group() -> None:
    figure = plot_movement(rows(3), ["group 0", "group 1", "group 2"])
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([0.1] * 4 + [0.2] * 4 + [0.3] * 4)
    assert len({bar.get_facecolor() for bar in bars}) == 3
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == [row.module for row in rows(3)]
    assert figure.axes[0].get_xlabel() == "module, first layers first"


def test_distances_far_apart_are_logarithmic_and_unmoved_modules_are_marked() -> None:
    modules = [*rows(1, 1, 1e-5), *rows(1, 1, 1.0), *rows(1, 1, 0.0)]
    figure = plot_movement(modules, ["group 0"])
    figure.canvas.draw()
    assert figure.axes[0].get_yscale() == "log"
    assert list(figure.axes[0].lines[0].get_xdata()) == [2]
    assert figure.legends[0].get_title().get_text() == "layer group; x: has not moved"


def test_a_model_in_which_nothing_moved_is_no_error() -> None:
    plot_movement(rows(2, distance=0.0), ["group 0", "group 1"]).canvas.draw()


@pytest.mark.parametrize("count", [60, 200])
def test_labels_have_room(count: int) -> None:
    figure = plot_movement([Moved(f"m{i}", "g", 0.1, 1.0, 1) for i in range(count)], ["g"])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert all(right.x0 >= left.x1 for left, right in pairwise(boxes))


def test_modules_that_began_at_0_count_as_if_they_had_begun_at_1() -> None:
    assert Moved("a", "g", 3.0, 0.0, 9).distance == 3.0 / math.sqrt(9)


def test_no_row_is_merged_into_none() -> None:
    assert merge_neighbours([]) == []


def test_modules_in_a_tuple_are_modules() -> None:
    rows = (Moved("0", "body", 1.0, 2.0, 4), Moved("1", "head", 1.0, 2.0, 4))
    figure = plot_movement(rows, ["body", "head"])
    assert figure.axes[0].get_xlabel() == "module, first layers first"


def test_nothing_moved_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        plot_movement([], ["body"])
