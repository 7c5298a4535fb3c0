"""Labels from the names of files."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from finetune import arguments
from finetune.data.patterns import finder
from finetune.data.sources.folders import image_files

Pattern: TypeAlias = "str | re.Pattern[str] | Callable[[Path], Any]"


def from_names(
    files: str | Path | Sequence[str | Path], pattern: Pattern
) -> tuple[list[str | Path], list[Any]]:
    """Files, and the label of each as its name says.

    files: paths, or a folder, which stands for all images in and below it. pattern: a regular
    expression with one group, which matches the label in the file's name; or a function of the path
    that returns the label. Raises ValueError for a pattern without exactly one group, and for a
    name that does not match.

    >>> paths, labels = from_names(["cats/tabby_12.jpg"], r"^(.+)_")
    >>> labels
    ['tabby']
    """
    if isinstance(files, str | Path):
        files = image_files(arguments.path("files", files))
    arguments.sequence("files", files, "paths, or a folder")
    paths: list[str | Path] = [arguments.path("files", path) for path in files]
    if isinstance(pattern, str | re.Pattern):
        find = finder("pattern", pattern, "label")
        return paths, [find(Path(path).name) for path in paths]
    label_of = arguments.function("pattern", pattern, "path -> label, or a regular expression")
    return paths, [label_of(Path(path)) for path in paths]
