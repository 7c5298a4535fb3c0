"""Keeps glibc from mapping and unmapping memory for every large tensor on a Linux CPU.

Page faults can take half of the time of a training step: by default glibc gives memory above 32 MiB
back to the system as soon as a tensor dies, and the next step faults it in again, page by page.
"""

import ctypes
import os
import platform

OPT_OUT = "FINETUNE_KEEP_ALLOCATOR"
"""Set this environment variable to 1 to leave the allocator alone."""

# the numbers of the parameters, see mallopt(3)
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next tensor, for the rest of this process.

    Called when training on a CPU starts, never at import. Returns whether it was done.
    """
    if os.environ.get(OPT_OUT) == "1" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _MMAP_MAX: 0,  # large tensors come from the heap, too
        _TRIM_THRESHOLD: -1,  # whose top is never given back
        _TOP_PAD: 64 << 20,  # and which grows by 64 MiB at a time
    }
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
