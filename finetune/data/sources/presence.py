"""Whether the images that a table names are there, and if not, where they may be."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from finetune.data.images.opening import ImageSource
from finetune.files.names import path_below

_FILES_TRIED = 32
_FOLDERS_TRIED = 100
_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".tif", ".webp")
"""What a table may have left out of the names of files."""


def check_present(items: Sequence[ImageSource], folder: Path | None, table: str) -> None:
    """Raises FileNotFoundError where none of the images of a table is there.

    Only some at equal distances are looked for: a single one that is missing is an unreadable
    image, for which there is `on_error`. folder: the one that paths are relative to; None is the
    present one. table: what the table is called. The error says which folder has the first image,
    if one nearby does.
    """
    paths = [item for item in items if isinstance(item, str)]
    if not paths or len(paths) < len(items):
        return
    step = -(-len(paths) // _FILES_TRIED)
    if any(os.path.exists(path) for path in paths[::step]):
        return
    base = Path.cwd() if folder is None else folder
    path = path_below(paths[0], base)
    raise FileNotFoundError(
        f"none of the images of {table} is there, such as {str(base / path)!r}; "
        f"{_way_out(base, path)}"
    )


def _way_out(base: Path, path: str) -> str:
    """What to do about a path below a folder that is not there."""
    if os.path.isabs(path):
        return "write their paths as they are on this machine"
    ending = _missing_ending(base / path)
    if ending is not None:
        return f"the names of the files end in {ending!r}: write it into the table, too"
    advice = (
        f"paths are relative to the folder {str(base)!r}; pass folder= with the one that the "
        "images are below"
    )
    for candidate in islice(_folders_near(base), _FOLDERS_TRIED):
        ending = _missing_ending(candidate / path)
        if ending is None and not (candidate / path).is_file():
            continue
        advice += f", which seems to be {os.path.relpath(candidate)!r}"
        if ending is not None:
            advice += f", and write the ending {ending!r} of the names into the table"
        break
    return advice


def _folders_near(base: Path) -> Iterator[Path]:
    """The present folder, the one above `base`, and those in `base` and in the present folder."""
    present = Path.cwd()
    yield present
    yield base.parent
    for folder in (base, present):
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        yield from (entry for entry in entries if entry.is_dir())


def _missing_ending(path: Path) -> str | None:
    """What has to be added to the path to be that of a file; None where nothing helps."""
    if path.is_file():
        return None
    return next((ending for ending in _ENDINGS if os.path.isfile(f"{path}{ending}")), None)
