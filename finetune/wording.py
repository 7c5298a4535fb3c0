"""Wording that messages and tables share."""

import difflib
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from types import FrameType


def did_you_mean(name: str, names: Iterable[str], *, count: int = 1) -> str:
    """A hint at the nearest names, or at all of them when none is near.

    >>> did_you_mean("acuracy", ["accuracy", "f1"])
    "did you mean 'accuracy'?"
    """
    known = list(names)
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"there are {shown}"


def warn(message: str) -> None:
    """Warns with the line of the user's code that led here, however deep in the package it is.

    A decoding thread has no such line: there it is the one where the main thread waits for it.
    """
    line = _callers_line(sys._getframe())
    assert line is not None  # this function is in the package
    if _package_of(line) == "concurrent":
        frames = sys._current_frames()
        main_thread = threading.main_thread().ident
        line = _callers_line(frames.get(main_thread or 0)) or line
    registry = line.f_globals.setdefault("__warningregistry__", {})
    place = (line.f_code.co_filename, line.f_lineno)
    module = line.f_globals.get("__name__")
    warnings.warn_explicit(message, UserWarning, *place, module=module, registry=registry)


def _callers_line(frame: FrameType | None) -> FrameType | None:
    """The frame that called into this package, or else the package's outermost; None outside."""
    package = __name__.partition(".")[0]
    while frame is not None and _package_of(frame) != package:
        frame = frame.f_back
    while frame is not None and frame.f_back is not None and _package_of(frame) == package:
        frame = frame.f_back
    return frame


def _package_of(frame: FrameType | None) -> str:
    """The first part of the name of the module that a frame runs."""
    name: str = "" if frame is None else frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def number(value: float) -> str:
    """A loss or a metric: four decimals, or four digits where four decimals would not say it.

    >>> number(0.87654), number(1112876.5), number(0.00002), number(0.0)
    ('0.8765', '1.113e+06', '2e-05', '0.0000')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return f"{value:.4g}"


def counted(count: int, noun: str) -> str:
    """A count and its noun, in the plural where there are none or several.

    >>> counted(1, "image"), counted(1200, "image")
    ('1 image', '1,200 images')
    """
    plural = "" if count == 1 else "s"
    return f"{count:,} {noun}{plural}"


def labels_in_words(classes: Sequence[str], is_present: Sequence[bool]) -> str:
    """The classes that are present, joined by commas.

    >>> labels_in_words(["cat", "dog"], [True, True]), labels_in_words(["cat"], [False])
    ('cat, dog', '(none)')
    """
    names = [name for name, present in zip(classes, is_present, strict=True) if present]
    return ", ".join(names) or "(none)"


def values_in_words(names: Sequence[str], values: Sequence[float], *, digits: int) -> str:
    """A lone value, or several with their names; digits: significant ones.

    >>> values_in_words(["age"], [30.0], digits=4), values_in_words(["a", "b"], [1, 2.5], digits=4)
    ('30', 'a 1, b 2.5')
    """
    texts = [f"{value:.{digits}g}" for value in values]
    if len(texts) == 1:
        return texts[0]
    return ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
