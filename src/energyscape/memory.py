"""What becomes of memory that tensors have freed."""

import ctypes
import functools
import os
from typing import Final

KEPT: Final = 1 << 30
"""Bytes of freed memory that are kept for the next tensor."""

LARGEST: Final = 32 << 20
"""Bytes of the largest tensor whose memory is kept; the C library sets the limit."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


@functools.cache
def keep_freed() -> bool:
    """Lets this process keep the memory that tensors free, for the next ones; returns whether that could be asked for.

    GNU's C library gives freed memory back to the system, and takes it anew page by page, zeroed: in loops over tensors
    of some megabytes that is 3 to 13 % of the time of a training step or a chain's. Loops ask for this when they begin.
    It takes no more memory than the loop needs at its peak, and leaves alone what the environment has set by
    ``MALLOC_TRIM_THRESHOLD_`` or its like, and other C libraries.

    References:
        mallopt(3), Linux manual pages. https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not GNU's
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
