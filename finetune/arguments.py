"""Checks of what people pass: numbers, choices, flags, paths, functions, lists, each in one place.

Every check is called where a value enters the package, and returns the value. It raises TypeError
for a value of another kind (a text where a number is due) and ValueError for one outside its
range. Both errors name the argument, what it takes and the value that came:

>>> whole_number("epochs", 5, at_least=1)
5
>>> whole_number("epochs", 0, at_least=1)
Traceback (most recent call last):
    ...
ValueError: epochs must be a whole number of at least 1, got 0
>>> whole_number("epochs", "five", at_least=1)
Traceback (most recent call last):
    ...
TypeError: epochs must be a whole number of at least 1, got 'five'
"""

import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from finetune.image_size import ImageSize, size_of_sides
from finetune.wording import did_you_mean

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")

_LARGEST_NUMBER = 2**63 - 1
"""What torch and numpy count with."""
_LONGEST_VALUE = 200
"""Characters of a value in an error."""


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a number may lie; None leaves an end open."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        if self.at_least is not None and number < self.at_least:
            return False
        if self.above is not None and number <= self.above:
            return False
        if self.at_most is not None and number > self.at_most:
            return False
        return self.below is None or number < self.below

    def __str__(self) -> str:
        """The end of a sentence, such as " above 0 and below 1"; empty for any number."""
        ends = []
        if self.at_least is not None:
            ends.append(f"of at least {self.at_least}")
        if self.above is not None:
            ends.append(f"above {self.above}")
        if self.at_most is not None:
            ends.append(f"at most {self.at_most}")
        if self.below is not None:
            ends.append(f"below {self.below}")
        if not ends:
            return ""
        return " " + " and ".join(ends)


def whole_number(
    name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None
) -> int:
    """The value as an int. A numpy integer is one; True and 8.0 are not, nor 10**20.

    name: of the argument, for the error. at_least, at_most: the range, both ends included.
    """
    limits = _Range(at_least=at_least, at_most=at_most)
    rule = f"{name} must be a whole number{limits}"
    # to Python, True is the number 1
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{rule}, got {shown(value)}")
    number = int(value)
    if number not in limits:
        raise ValueError(f"{rule}, got {shown(value)}")
    if abs(number) > _LARGEST_NUMBER:
        raise ValueError(f"{rule}, got {shown(value)}, which takes more than 64 bits")
    return number


def image_size(name: str, value: Any, *, at_most: int | None = None) -> ImageSize:
    """The side of a square, or a pair of height and width, in pixels; equal ones are a square.

    at_most: of either side.
    """
    if not isinstance(value, tuple | list):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(
                f"{name} must be a whole number of pixels, or (height, width), got {shown(value)}"
            )
        return whole_number(name, value, at_least=1, at_most=at_most)
    if len(value) != 2:
        raise ValueError(f"{name} must be one number or (height, width), got {shown(value)}")
    height = whole_number(f"height in {name}", value[0], at_least=1, at_most=at_most)
    width = whole_number(f"width in {name}", value[1], at_least=1, at_most=at_most)
    return size_of_sides(height, width)


def real_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """The value as a finite float. A whole number and a numpy number are ones; True is not.

    name: of the argument, for the error. at_least, at_most: ends that belong to the range. above,
    below: ends that do not.
    """
    limits = _Range(at_least, above, at_most, below)
    rule = f"{name} must be a finite number{limits}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{rule}, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # 10**400 is a whole number, and no float
        number = math.inf
    if not math.isfinite(number) or number not in limits:
        raise ValueError(f"{rule}, got {shown(value)}")
    return number


def choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """The value, which is one of a few.

    >>> choice("resize", "corp", ["crop", "squash", "pad"])
    Traceback (most recent call last):
        ...
    ValueError: resize must be one of 'crop', 'squash', 'pad', got 'corp'; did you mean 'crop'?
    """
    known = list(choices)
    # equal is not enough: True == 1, and a list can't be found in a dict later. A text of numpy's,
    # and a member of an Enum of texts, is one
    plain_value = str.__str__(value) if isinstance(value, str) else value
    for known_value in known:
        if type(plain_value) is type(known_value) and plain_value == known_value:
            return plain_value
    listed = ", ".join(map(repr, known))
    message = f"{name} must be one of {listed}, got {shown(value)}"
    if not isinstance(value, str):
        raise TypeError(message)
    names = [known_value for known_value in known if isinstance(known_value, str)]
    hint = did_you_mean(value, names)
    # where no name is near, the hint is a list of all, which the message has already
    if hint.startswith("did"):
        message += f"; {hint}"
    raise ValueError(message)


def flag(name: str, value: Any) -> bool:
    """The value as a bool: True or False, also numpy's, which comparisons of arrays give.

    A text such as "no" is refused: to Python it would be true.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def function(name: str, value: Function, takes: str) -> Function:
    """The value, which can be called.

    takes: its arguments and result, for the error, such as "(outputs, targets) -> loss".
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function {takes}, got {shown(value)}")
    return value


def path(name: str, value: Any) -> Path:
    """The value as a path, with "~" for the home folder expanded."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a path as text, got {shown(value)}")
    if not text or "\0" in text:
        raise ValueError(f"{name} must be a path, got {shown(value)}")
    return Path(text).expanduser()


def text(name: str, value: Any) -> str:
    """The value, which is a text with at least one character."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {shown(value)}")
    if not value:
        raise ValueError(f"{name} must be a text with at least one character, got {shown(value)}")
    return value


def sequence(name: str, value: Any, of: str) -> Sequence[Any]:
    """The value, a list, a tuple or the like. A text is refused: to Python it is one of letters.

    of: what is in it, in the plural, for the error, such as "class names".
    """
    # no isinstance of Sequence: arrays, tensors and columns of a table are none to Python
    has_items = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    is_something_else = isinstance(value, str | bytes | Mapping | type)
    if not has_items or is_something_else:
        message = f"{name} must be a list of {of}, got {shown(value)}"
        # what can be gone through once, such as a generator or the keys of a dict
        if isinstance(value, Iterable) and not is_something_else:
            message += f"; pass list({name})"
        raise TypeError(message)
    items: Sequence[Any] = value
    return items


def mapping(name: str, value: Any, of: str) -> Mapping[Any, Any]:
    """The value, a dict or the like. of: its keys and values, such as "class names to numbers"."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of {of}, got {shown(value)}")
    return value


def instance(name: str, value: Any, kind: type[Value], what: str = "") -> Value:
    """The value, which is an object of this class. what: how to make one, for the error.

    >>> instance("callbacks", 7, list, "such as [EarlyStopping()]")
    Traceback (most recent call last):
        ...
    TypeError: callbacks must be a list, such as [EarlyStopping()], got 7
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        way = f", {what}" if what else ""
        raise TypeError(f"{name} must be {article} {kind.__name__}{way}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """The value for a message, in one line; a long one is cut in its middle."""
    try:
        words = repr(value)
    except Exception:  # an object of the user's may fail; a number may have too many digits
        words = f"a {type(value).__name__}"
    if len(words) > _LONGEST_VALUE:
        half = _LONGEST_VALUE // 2
        words = f"{words[:half]} ... {words[-half:]}"
    return " ".join(words.split())
