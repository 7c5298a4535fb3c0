"""What people pass is checked where it enters: kinds, ranges, and what the errors say."""

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import arguments


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_are_taken(value: Any) -> None:
    number = arguments.whole_number("epochs", value, at_least=1)
    assert number == value
    assert type(number) is int


@pytest.mark.parametrize("value", [True, 8.0, "8", None, float("nan"), [8], np.float64(8)])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^epochs must be a whole number of at least 1, got "):
        arguments.whole_number("epochs", value, at_least=1)


def test_a_whole_number_out_of_range_is_refused_with_the_range() -> None:
    with pytest.raises(ValueError, match="of at least 1 and at most 8, got 9"):
        arguments.whole_number("num_workers", 9, at_least=1, at_most=8)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.25)])
def test_real_numbers_are_taken(value: Any) -> None:
    number = arguments.real_number("lr", value, above=0)
    assert number == value
    assert type(number) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1.0, 2])
def test_a_real_number_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^lr must be a finite number above 0 and below 2, got "):
        arguments.real_number("lr", value, above=0, below=2)


@pytest.mark.parametrize("value", [True, "0.1", None, 1j])
def test_what_is_no_real_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="lr must be a finite number"):
        arguments.real_number("lr", value, at_least=0, at_most=1)


def test_the_ends_of_a_range_belong_to_it_or_do_not() -> None:
    assert arguments.real_number("share", 0, at_least=0, at_most=1) == 0
    assert arguments.real_number("share", 1, at_least=0, at_most=1) == 1
    with pytest.raises(ValueError, match="share"):
        arguments.real_number("share", 1, at_least=0, below=1)


@pytest.mark.parametrize("value", [7, None, True, ["crop"]])
def test_a_choice_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="resize must be one of 'crop', 'pad', got"):
        arguments.choice("resize", value, ["crop", "pad"])


def test_a_choice_may_be_a_text_of_an_array() -> None:
    assert arguments.choice("resize", np.array(["crop"])[0], ["crop", "pad"]) == "crop"


def test_a_choice_may_be_none_where_none_is_one() -> None:
    assert arguments.choice("weights", None, ["pretrained", None]) is None


@pytest.mark.parametrize("value", ["no", 0, None])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError, match="progress must be True or False, got"):
        arguments.flag("progress", value)


def test_a_flag_may_come_from_a_comparison_of_arrays() -> None:
    assert arguments.flag("progress", np.float32(2) > 1) is True
    assert arguments.flag("progress", np.float32(0) > 1) is False


def test_a_function_is_callable() -> None:
    assert arguments.function("loss", max, "(outputs, targets) -> loss") is max
    with pytest.raises(TypeError, match=r"loss must be a function \(outputs\) -> loss, got 'ce'"):
        arguments.function("loss", "ce", "(outputs) -> loss")  # type: ignore[type-var]


def test_a_path_is_expanded() -> None:
    assert arguments.path("folder", "~/photos") == Path.home() / "photos"
    assert arguments.path("folder", Path("photos")) == Path("photos")


@pytest.mark.parametrize("value", [None, 7, b"photos"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="folder must be a path"):
        arguments.path("folder", value)


@pytest.mark.parametrize("value", ["", "a\0b"])
def test_a_path_that_no_system_has_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="folder must be a path"):
        arguments.path("folder", value)


def test_a_text_has_characters() -> None:
    assert arguments.text("name", "model") == "model"
    with pytest.raises(ValueError, match="at least one character"):
        arguments.text("name", "")
    with pytest.raises(TypeError, match="name must be a text, got 7"):
        arguments.text("name", 7)


class Resize(str, Enum):
    CROP = "crop"


def test_a_member_of_an_enum_of_texts_is_the_text():
    value = arguments.choice("resize", Resize.CROP, ["crop", "pad"])
    assert type(value) is str
    assert value == "crop"


@pytest.mark.parametrize("value", [(i for i in range(2)), {"a": 1}.keys(), {1, 2}])
def test_what_is_no_list_yet_is_refused_with_the_way_to_make_one(value: object):
    with pytest.raises(TypeError, match=r"items must be a list of .*; pass list\(items"):
        arguments.sequence("items", value, "images")
