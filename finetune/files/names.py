"""Names of hidden files that stand beside another file and belong to it."""

import hashlib
import os
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
