"""Paths: their one spelling, the hidden file beside another one, the folder that several share."""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 200
"""Bytes of a file's name that fit into a longer one, which may have 255."""


def beside(path: Path, ending: str) -> Path:
    """A hidden file in the same folder, whose name begins with that of `path`.

    A name that is too long to be in another one is replaced by a digest of it.

    >>> beside(Path("runs/run.ckpt"), "lock").name
    '.run.ckpt.lock'
    """
    name = path.name
    encoded = os.fsencode(name)
    if len(encoded) > _LONGEST:
        name = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    return path.with_name(f".{name}.{ending}")


def spelled(path: str) -> str:
    """The one spelling of a path, with slashes.

    >>> spelled("photos/./cat//1.jpg")
    'photos/cat/1.jpg'
    """
    path = os.path.normpath(path).replace(os.sep, "/")
    # a Mac writes letters with accents in another way than other systems
    return unicodedata.normalize("NFC", path)


def path_below(path: str, folder: str | Path) -> str:
    """A path relative to the folder that it is in or below, or else as it is; in one spelling.

    >>> path_below("photos/cat/1.jpg", "photos"), path_below("other/1.jpg", "photos")
    ('cat/1.jpg', 'other/1.jpg')
    """
    prefix = os.path.join(spelled(str(folder)), "")
    return spelled(path).removeprefix(prefix)


def shared_folder(paths: Sequence[str]) -> str:
    """The beginning of all paths, up to and with a slash: the folder that all of them are in.

    >>> shared_folder(["/data/photos/cat/1.jpg", "/data/photos/cow/1.jpg"])
    '/data/photos/'
    """
    if not paths:
        return ""
    # what the first and the last one in the alphabet share, all between them share; character by
    # character, because this is fast, and cut behind a slash below
    beginning = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071
    return beginning[: beginning.rfind("/") + 1]
