"""How much memory there is, and one budget of it for all images that the process keeps."""

import os
import threading
import weakref
from contextlib import suppress
from pathlib import Path

MEMORY_FRACTION = 0.25
"""Share of the machine's memory that all images of the process may take together."""

_lock = threading.Lock()
_reservations: list[tuple[weakref.ref[object], int]] = []


def reserve(owner: object, size: int) -> bool:
    """Whether `size` bytes are left of `MEMORY_FRACTION` of the memory, and now the owner's.

    owner: anything that takes a weak reference; what it reserved is free again when it is
    garbage-collected. Several reservations of one owner add up.
    """
    with _lock:
        _reservations[:] = [(who, held) for who, held in _reservations if who() is not None]
        left = MEMORY_FRACTION * memory_bytes() - sum(held for _, held in _reservations)
        if size > left:
            return False
        _reservations.append((weakref.ref(owner), size))
        return True


def memory_bytes() -> int:
    """The machine's memory, or the container's where that is less; under torchrun this process's
    share of it."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        installed = 8 << 30
    limits = [installed]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int(Path(file).read_text()))
    return min(limits) // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
