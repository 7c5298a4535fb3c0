"""Locks between processes: of a path that one run at a time may write to."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]


class InUseError(RuntimeError):
    """Another run is writing to the same path."""


_held: dict[Path, int] = {}
"""Lock files that are held, with the process that holds them: a fork holds none of its parent's."""


@contextmanager
def held(lock_file: Path, what: str) -> Iterator[None]:
    """Holds a lock inside the block; the file is there as long as the lock is.

    what: the path that is locked, for the error. The lock of a process that ended, however it
    ended, is free. Raises InUseError, with the process that holds the lock, where it is not. On a
    file system without locks nothing is locked.
    """
    # a folder may have several names
    path = lock_file.parent.resolve() / lock_file.name
    if _held.get(path) == os.getpid():
        raise InUseError(f"{what} is in use by another run in this process; name another path")
    descriptor = _acquire(path, what)
    _held[path] = os.getpid()
    try:
        yield
    finally:
        # removed while it is locked, so that nobody else's lock can be removed
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        del _held[path]


def is_unwritable(error: Exception) -> bool:
    """Whether a lock could not be held because nothing can be written to its folder."""
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def _acquire(path: Path, what: str) -> int:
    """Opens and locks the lock file; returns its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o644)
        try:
            is_free = try_lock(descriptor)
        except OSError:
            is_free = True
        if not is_free:
            owner = os.read(descriptor, 1000)
            os.close(descriptor)
            raise InUseError(
                f"{what} is in use by another run ({_in_words(owner)}); wait until it has ended, "
                "or name another path"
            )
        if _is_at(path, descriptor):
            os.truncate(descriptor, 0)
            os.write(descriptor, _this_process())
            return descriptor
        # its holder removed the file after it was opened here
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process until it closes the file or ends; whether it could.

    The locks of one process do not exclude each other, and no child inherits them, so that workers
    that outlive a killed run do not hold its lock. Raises OSError where the file system has no
    locks.
    """
    if fcntl is None:
        raise OSError("no locks on this platform")
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that the path names."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _this_process() -> bytes:
    since = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    return json.dumps(owner).encode()


def _in_words(owner: bytes) -> str:
    try:
        content = json.loads(owner)
        return f"process {content['pid']} on {content['host']}, since {content['since']}"
    except (ValueError, KeyError, TypeError):  # it is just being written
        return "which has just begun"
