"""Labels from the names of files."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from finetune.data.sources.folders import image_files

Pattern: TypeAlias = "str | re.Pattern[str] | Callable[[Path], Any]"


def from_names(
    files: str | Path | Sequence[str | Path], pattern: Pattern
) -> tuple[list[str | Path], list[Any]]:
    """The files, or the images in and below a folder, and what their names say of them.

    pattern: a regular expression whose one group finds the label in the file's name, or a function
    of the path. Raises ValueError for a name that does not match.

    >>> from_names(["cats/tabby_12.jpg"], r"^(.+)_")
    (['cats/tabby_12.jpg'], ['tabby'])
    """
    found = image_files(files) if isinstance(files, str | Path) else files
    items: list[str | Path] = list(found)
    if not isinstance(pattern, str | re.Pattern):
        return items, [pattern(Path(item)) for item in items]
    expression = re.compile(pattern)
    if expression.groups != 1:
        raise ValueError(
            f"pattern={expression.pattern!r} needs one group in brackets, which is the label; it "
            f"has {expression.groups}"
        )
    labels = []
    for item in items:
        match = expression.search(Path(item).name)
        if match is None or not match[1]:
            raise ValueError(
                f"pattern={expression.pattern!r} finds no label in {Path(item).name!r}"
            )
        labels.append(match[1])
    return items, labels
