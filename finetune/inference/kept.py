"""Kept: a value that holds until the weights change."""

import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What was computed with the present weights; nothing before, and once they have changed.

    weights: gives something else when they have. told: a warning for the first `get` after that.
    """

    def __init__(self, weights: Callable[[], Any], told: str = "") -> None:
        self._weights, self._told = weights, told
        self._made_with: Any = None
        self._value: Value | None = None

    def get(self) -> Value | None:
        if self._value is not None and self._made_with != self._weights():
            self._value = None  # frees what is too old
            if self._told:
                # for who called the learner's method, which called one of the diagnosis
                warnings.warn(self._told, stacklevel=5)
        return self._value

    def put(self, value: Value) -> Value:
        self._value, self._made_with = value, self._weights()
        return value
