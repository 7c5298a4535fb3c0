"""One rule says what a mark of validation means, wherever it stands."""

from typing import Any

import numpy as np
import pytest
import torch

from finetune.data.sources.lists import from_marked
from finetune.data.sources.marks import are_marked, is_marked
from finetune.data.sources.tables import Layout, read_table

YES: list[Any] = [True, 1, 1.0, "1", "1.0", "true", "YES ", "valid", np.True_, np.float32(1)]
NO: list[Any] = [False, 0, 0.0, "0", "false", "No", "train", np.False_, None, "", " ", float("nan")]


@pytest.mark.parametrize("mark", YES)
def test_mark_says_validation(mark: Any) -> None:
    assert is_marked(mark, "row 1")


@pytest.mark.parametrize("mark", NO)
def test_mark_says_training(mark: Any) -> None:
    assert not is_marked(mark, "row 1")


@pytest.mark.parametrize("mark", ["maybe", 2, -1, 0.5, "2", object, ["1"]])
def test_other_mark_is_refused_with_its_place(mark: Any) -> None:
    with pytest.raises(ValueError, match=r"line 7 says .* where it should say whether"):
        is_marked(mark, "line 7")


def test_mark_of_a_test_set_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"'test' where .*; leave out images that are for neither"):
        is_marked("test", "line 7")


def test_marks_of_lists_are_read_by_the_same_rule() -> None:
    _, valid = from_marked(list("abc"), list("xyx"), ["1", "0", ""], 0.2, 0, classes=("x", "y"))
    assert valid.items == ["a"]
    _, valid = from_marked(list("abc"), list("xyx"), [float("nan"), 0, 1], 0.2, 0)
    assert valid.items == ["c"]


def test_marks_of_tables_are_read_by_the_same_rule() -> None:
    marks = [*YES, *NO]
    table = {"image": ["1.jpg"] * len(marks), "label": ["x"] * len(marks), "part": marks}
    rows = read_table(table, None, Layout(valid="part"))
    assert rows.is_valid == are_marked(marks) == [True] * len(YES) + [False] * len(NO)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_marks_may_be_numbers_of_an_array(kind: Any) -> None:
    assert are_marked(kind([1, 0, 1])) == [True, False, True]


def test_mark_of_a_list_that_means_nothing_is_refused_with_its_number() -> None:
    with pytest.raises(ValueError, match="is_valid of image 1 says 'perhaps'"):
        are_marked([True, "perhaps"])
