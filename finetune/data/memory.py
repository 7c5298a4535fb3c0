"""The memory of the machine, and one budget of it for all images that the process keeps."""

import os
import weakref
from contextlib import suppress
from pathlib import Path

from finetune import launch
from finetune.forks import ForkSafeLock

MEMORY_FRACTION = 0.25
"""Share of the machine's memory that all images of the process may take together."""

_lock = ForkSafeLock()
_reservations: list[tuple[weakref.ref[object], int]] = []


def reserve(owner: object, size: int) -> bool:
    """Reserves `size` bytes of the budget, `MEMORY_FRACTION` of the memory, if they are left.

    owner: any object that can be weakly referenced; what it reserved is free again when it is
    garbage-collected. Several reservations of one owner add up.
    Returns whether the bytes are reserved; if not, nothing is.
    """
    with _lock.held():
        _forget_dead_owners()
        reserved = sum(owner_size for _, owner_size in _reservations)
        # a share of all memory, not of what is free: on a busy machine a run is the same
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

    It is the machine's, or what a container, systemd or SLURM allows where that is less. Under
    torchrun the processes on a machine share it equally.
    """
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        installed = 8 << 30
    limits = [installed, *cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return min(limits) // launch.local_world_size()


def cgroup_limits(membership: Path, root: Path) -> list[int]:
    """The limits in bytes of the control groups that a process is in; none on other systems.

    A group is limited by all groups above it, too, and a process of a service or a batch job is
    rarely in the topmost one. In a container the path of its group may be that on the host, and
    the container sees its own group as the topmost.

    membership: /proc/PID/cgroup, with a line "0::PATH" of version 2, and lines such as
    "4:memory:PATH" of version 1. root: where the groups are mounted. See cgroups(7).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            with suppress(OSError, ValueError):  # no such file, or "max", which is no limit
                limits.append(int((folder / name).read_text()))
    return limits
