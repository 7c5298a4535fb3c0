"""Temporary folders: what a killed process has left behind is removed by the next one."""

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from finetune.files.locks import try_lock

_LOCK = "lock"
_held: set[str] = set()
"""Folders of this process, which its locks do not protect from itself."""


class TemporaryFolder:
    """A new folder where temporary files go; it is deleted with this object, or with the process.

    A process that is killed deletes nothing. So whoever makes a folder first removes those of the
    same kind whose processes have ended. kind: the beginning of the folder's name.
    """

    def __init__(self, kind: str) -> None:
        _remove_leftovers(kind)
        while True:
            folder = tempfile.mkdtemp(prefix=f"{kind}-")
            _held.add(folder)
            descriptor = _locked(folder)
            if descriptor is not None:
                break
            # another process took it for a leftover before it was locked
            _held.discard(folder)
        self.path = Path(folder)
        self._finalizer = weakref.finalize(self, _remove, folder, descriptor, os.getpid())


def _locked(folder: str) -> int | None:
    """Opens and locks the lock file of a new folder; None where the folder is gone."""
    try:
        descriptor = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks
        try_lock(descriptor)
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: str, descriptor: int, owner: int) -> None:
    """Removes a folder of this process; one of the process that it was forked from stays."""
    if os.getpid() != owner:
        return
    # removed while it is locked, so that nobody else removes it at the same time
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(descriptor)
    _held.discard(folder)


def _remove_leftovers(kind: str) -> None:
    """Removes the folders of a kind whose processes have ended."""
    for entry in os.scandir(tempfile.gettempdir()):
        is_of_kind = entry.name.startswith(f"{kind}-") and entry.is_dir(follow_symlinks=False)
        if is_of_kind and entry.path not in _held:
            # it may be somebody else's, or be removed by another process at the same time
            with suppress(OSError):
                _remove_if_unlocked(entry.path)


def _remove_if_unlocked(folder: str) -> None:
    try:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(os.path.join(folder, _LOCK), flags)
    except FileNotFoundError:
        os.rmdir(folder)  # killed before it locked the folder, which is empty
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
