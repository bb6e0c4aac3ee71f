"""Memory of this process: how much a request may take, and what is kept of what tensors free."""

import contextlib
import ctypes
import functools
import os
from pathlib import Path
from typing import Final

from energyscape.errors import UserError

SHARE: Final = 0.8
"""Share of the available memory that a request may take."""

KEPT: Final = 1 << 30
"""Bytes of freed memory that are kept for the next tensor."""

LARGEST: Final = 32 << 20
"""Bytes of the largest tensor whose memory is kept; the C library sets the limit."""

_CGROUPS: Final = tuple(
    (f"/sys/fs/cgroup/{limit}", f"/sys/fs/cgroup/{used}")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


@functools.cache
def keep_freed() -> bool:
    """Let this process keep the memory that tensors free, for the next ones; return whether that could be asked for.

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


def available() -> int | None:
    """Return the bytes that this process can still allocate, or None where the system does not say (not Linux)."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")))
    for limit, used in _CGROUPS:  # a container may have less than the machine
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            found.append(int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii")))
    return max(0, min(found)) if found else None


def require_memory(size: float, what: str) -> None:
    """Raise an error if a request needs more than `SHARE` of the memory that is available."""
    free = available()
    if free is not None and size > SHARE * free:
        raise UserError(
            f"{what} needs about {size / 1e9:,.1f} GB; {free / 1e9:,.1f} GB of memory are available, of which at most "
            f"{SHARE:.0%} are used: ask for less"
        )
