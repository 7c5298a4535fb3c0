"""A value that holds until the weights change."""

import warnings

import pytest

from finetune.inference.kept import Kept


def test_a_value_holds_until_the_weights_change() -> None:
    weights = [0]
    kept: Kept[str] = Kept(lambda: tuple(weights))
    assert kept.get() is None
    assert kept.put("a") == kept.get() == "a"
    weights[0] = 1
    assert kept.get() is None
    weights[0] = 0  # what is given up does not come back
    assert kept.get() is None


def test_what_is_given_up_is_told_once() -> None:
    weights = [0]
    kept: Kept[str] = Kept(lambda: tuple(weights), "too old")
    kept.put("a")
    weights[0] = 1
    with pytest.warns(UserWarning, match="too old"):
        kept.get()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept.get() is None
