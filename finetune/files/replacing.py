"""Writing a file: it is replaced whole, or stays as it was."""

import codecs
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from finetune.files.locks import try_lock
from finetune.files.names import beside
from finetune.files.uninterrupted import uninterrupted

_SUFFIX = ".finetune-tmp"
_being_written: set[Path] = set()
"""Temporary files of this process, which its locks do not protect from itself."""


@contextmanager
def replacing(path: Path, what: str = "the file") -> Iterator[BinaryIO]:
    """Opens a new file that takes the place of `path` at the end of the block.

    Until then, and after an error, `path` is as it was. Its folder is made if there is none; a link
    at `path` is replaced and not followed. Ctrl-C waits until the file is whole. What a killed
    process has left behind of the same file is removed.
    what: the kind of file, for the error. Raises OSError where it can't be written.
    """
    if _is_stream(path):
        with path.open("wb") as stream:
            yield stream
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with uninterrupted(), _temporary_beside(path) as (temporary, stream):
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        text = f"can't write {what}, an old one is intact: {os.strerror(error.errno)}"
        raise OSError(error.errno, text, str(path)) from error


@contextmanager
def replacing_text(
    path: Path, what: str = "the file", *, errors: str = "strict"
) -> Iterator[codecs.StreamWriter]:
    """The same as a stream for text in UTF-8. errors: see `str.encode`."""
    with replacing(path, what) as stream:
        yield codecs.getwriter("utf-8")(stream, errors)


def write_text(path: Path, text: str, what: str = "the file", *, errors: str = "strict") -> None:
    """Replaces a file by this text, in UTF-8."""
    with replacing_text(path, what, errors=errors) as stream:
        stream.write(text)


def write_bytes(path: Path, content: bytes, what: str = "the file") -> None:
    """Replaces a file by this content."""
    with replacing(path, what) as stream:
        stream.write(content)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a temporary one, of a write that goes on or was killed."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def _is_stream(path: Path) -> bool:
    """Whether the path is a device, a pipe or an open file, which can't be replaced."""
    if str(path.absolute()).startswith(("/proc/", "/dev/fd/", "/dev/std")):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def _temporary_beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in the same folder, open and locked; it is removed unless it was renamed."""
    while True:
        temporary = beside(path, f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")
        # the flag O_EXCL follows no link
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks
            try_lock(descriptor)
        if os.fstat(descriptor).st_nlink:
            break
        # another process took it for a leftover before it was locked
        os.close(descriptor)
    _being_written.add(temporary)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield temporary, stream
    finally:
        temporary.unlink(missing_ok=True)
        _being_written.discard(temporary)


def _remove_leftovers(path: Path) -> None:
    """Removes temporary files of `path` whose writers have ended."""
    prefix = beside(path, "").name
    for entry in os.scandir(path.parent):
        if not entry.name.startswith(prefix) or not entry.name.endswith(_SUFFIX):
            continue
        if Path(entry.path) not in _being_written:
            # another process may remove it, too
            with suppress(OSError):
                _remove_if_unlocked(entry.path)


def _remove_if_unlocked(file: str) -> None:
    descriptor = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        if try_lock(descriptor):
            os.unlink(file)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Waits until a rename in the folder would survive a power cut."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems can't, and the file is in place
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
