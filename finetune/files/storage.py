"""Where a file that is read in parts lies, on a disk or elsewhere: its state, and its bytes."""

import glob
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

_TAGS = (
    "ETag", "etag", "md5", "md5Hash", "Content-MD5", "Digest", "checksum", "blob_id", "generation",
    "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created",
)  # fmt: skip
"""Keys under which file systems of fsspec say what changes with a file's content."""
_FORBIDDEN, _NOT_FOUND, _PRECONDITION_FAILED = 403, 404, 412

CHECK_SECONDS = 30.0
"""So often a process asks again for the state of a remote file that it reads."""
_CHANGED = "the file has changed since it was listed; make the data anew"


class State(NamedTuple):
    """What changes with a file: its size in bytes, and a number that says which version it is."""

    size: int
    version: int


class Storage(Protocol):
    """A place of files."""

    def state(self, path: str) -> State:
        """The state of a file. Raises FileNotFoundError where there is none."""

    def files(self, pattern: str) -> list[str]:
        """The files whose names fit a pattern, in which `*` stands for any part of a name."""

    def open(self, path: str) -> BinaryIO:
        """The file, to be read from its beginning and to be sought in."""

    def read(self, path: str, offset: int, size: int, state: State) -> bytes:
        """So many bytes from a place in the file on.

        state: of the file when the place was found. Raises ValueError for a file that is known to
        have changed since, or that ends before.
        """


class Disk:
    """Files of this machine; their version is the time of their last change, in nanoseconds."""

    def state(self, path: str) -> State:
        return _state_of(os.stat(path))

    def files(self, pattern: str) -> list[str]:
        # only the star has a meaning: a path may have the other characters
        parts = [glob.escape(part) for part in pattern.split("*")]
        return [path for path in glob.glob("*".join(parts)) if os.path.isfile(path)]

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def read(self, path: str, offset: int, size: int, state: State) -> bytes:
        # opened for every read: a hundredth of the time that decoding takes, and there is nothing
        # open that threads and forked processes would share, or that a system limits
        with open(path, "rb") as file:
            if _state_of(os.fstat(file.fileno())) != state:
                raise ValueError(_CHANGED)
            file.seek(offset)
            content = file.read(size)
        return _whole(content, size)


class Remote:
    """Files at addresses such as `https://...` or `s3://...`, which fsspec reads.

    Their version is a digest of what the server says of it, such as an ETag. A read over HTTP is
    for the version with that ETag alone. Elsewhere, and with servers that do not look at it, the
    version is asked for at the first read of a process, and then again from time to time: at every
    read it would take as long as the read.
    """

    def state(self, path: str) -> State:
        return self._facts(path).state

    def _facts(self, path: str) -> "_Facts":
        with _named_errors(path):
            files, place = _file_system(path)
            # some keep what they knew when they listed a folder
            files.invalidate_cache(place)
            facts = files.info(place)
        size = facts.get("size")
        if size is None:
            raise ValueError(f"the server does not say how large {path!r} is")
        tags = [f"{name}: {facts[name]}" for name in _TAGS if facts.get(name) is not None]
        digest = hashlib.blake2b("\n".join(tags).encode(), digest_size=8).digest()
        state = State(int(size), int.from_bytes(digest, "little") >> 1)
        etag = facts.get("ETag") if "http" in files.protocol else None
        # a weak one never matches
        is_strong = isinstance(etag, str) and etag.startswith('"')
        return _Facts(state, etag if is_strong else None, time.monotonic())

    def _check(self, path: str, state: State) -> "_Facts":
        """Raises ValueError where the file is not as it was; else what is known of it now."""
        facts = self._facts(path)
        if facts.state != state:
            raise ValueError(_CHANGED)
        _known[path] = facts
        return facts

    def files(self, pattern: str) -> list[str]:
        with _named_errors(pattern):
            files, place = _file_system(pattern)
            return [files.unstrip_protocol(file) for file in files.glob(place)]

    def open(self, path: str) -> BinaryIO:
        with _named_errors(path):
            files, place = _file_system(path)
            stream: BinaryIO = files.open(place, "rb")
        return stream

    def read(self, path: str, offset: int, size: int, state: State) -> bytes:
        facts = _known.get(path)
        is_recent = facts is not None and time.monotonic() - facts.seconds < CHECK_SECONDS
        if facts is None or facts.state != state or not is_recent:
            facts = self._check(path, state)
        try:
            return _whole(_part(path, offset, size, facts.etag), size)
        except (OSError, ValueError) as error:
            # what went wrong may be that it is another file; if so, this is said
            self._check(path, state)
            if getattr(error.__cause__, "status", None) != _PRECONDITION_FAILED:
                raise
        # it is the same file all the same, so that the server means something else by it
        _known[path] = facts._replace(etag=None)
        return _whole(_part(path, offset, size, None), size)


class _Facts(NamedTuple):
    """What a server said of a file. etag: None where it can't be asked for. seconds: the time."""

    state: State
    etag: str | None
    seconds: float


_known: dict[str, _Facts] = {}
"""The files that this process reads from servers, by their addresses."""


def _part(path: str, offset: int, size: int, etag: str | None) -> bytes:
    """A part of a remote file. etag: the version to be read, where the server is to look at it."""
    with _named_errors(path):
        files, place = _file_system(path)
        options: dict[str, Any] = {}
        if etag is not None:
            options["headers"] = {**files.kwargs.get("headers", {}), "If-Match": etag}
        content: bytes = files.cat_file(place, start=offset, end=offset + size, **options)
    return content


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address, such as `https://...`. A `Path` is none: it has no "//"."""
    return isinstance(path, str) and "://" in path


def storage_of(path: str) -> Storage:
    """The storage that a path names."""
    return Remote() if is_remote(path) else Disk()


def _file_system(path: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and what the file is called there.

    Asked for at every use, because a forked process needs another one; fsspec keeps them.
    """
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path!r} is an address, which fsspec reads; run pip install "
            "'finetune-vision[remote]'",
            name=error.name,
        ) from error

    files, place = fsspec.core.url_to_fs(path)
    return files, place


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Makes an OSError of what clients of servers raise, with the address."""
    try:
        yield
    except FileNotFoundError as error:
        # fsspec says so of any failure, such as a server that does not answer
        reason = error.__cause__
        if reason is None or getattr(reason, "status", None) == _NOT_FOUND:
            raise
        raise _named(path, reason) from error
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:
        raise _named(path, error) from error


def _named(path: str, reason: BaseException) -> OSError:
    kind = PermissionError if getattr(reason, "status", None) == _FORBIDDEN else OSError
    return kind(f"can't read {path!r}: {reason} ({type(reason).__name__})")


def _state_of(status: os.stat_result) -> State:
    return State(status.st_size, status.st_mtime_ns)


def _whole(content: bytes, size: int) -> bytes:
    """The content, if it has as many bytes as were asked for. Raises ValueError for another."""
    if len(content) != size:
        raise ValueError(f"{len(content):,} bytes came in place of {size:,}; is the file whole?")
    return content
