"""Keeps glibc from mapping and unmapping memory for every large tensor on a Linux CPU.

Half of the time of a training step can be page faults: by default glibc gives memory above 32 MiB
back to the system as soon as a tensor dies, and the next step faults it in again, page by page.
"""

import ctypes
import os
import platform

OPT_OUT = "FINETUNE_KEEP_ALLOCATOR"
"""Set this environment variable to 1 to leave the allocator alone."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt(3)


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next tensor, for the rest of this process.

    Called when training on a CPU starts, never at import. Returns whether it was done.
    """
    if os.environ.get(OPT_OUT) == "1" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)
