"""The memory of the machine, and one budget of it for all images that the process keeps."""

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
    """Reserves `size` bytes of the budget, `MEMORY_FRACTION` of the memory, if they are left.

    owner: any object that can be weakly referenced; what it reserved is free again when it is
    garbage-collected. Several reservations of one owner add up.
    Returns whether the bytes are reserved; if not, nothing is.
    """
    with _lock:
        _forget_dead_owners()
        reserved = sum(owner_size for _, owner_size in _reservations)
        if size > MEMORY_FRACTION * memory_bytes() - reserved:
            return False
        _reservations.append((weakref.ref(owner), size))
        return True


def _forget_dead_owners() -> None:
    alive = []
    for owner, size in _reservations:
        if owner() is not None:
            alive.append((owner, size))
    _reservations[:] = alive


def memory_bytes() -> int:
    """The memory that this process may use, in bytes.

    It is the machine's, or the container's where that is less. Under torchrun the processes on a
    machine share it equally.
    """
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        installed = 8 << 30
    limits = [installed]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int(Path(file).read_text()))
    local_processes = max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    return min(limits) // local_processes
