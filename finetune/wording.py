"""Wording that error messages share."""

import difflib
from collections.abc import Iterable


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
