"""Memory of this process: the limit of a request, and reuse of freed memory."""

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
"""Bytes of freed memory to keep for the next tensor."""

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
    """Keep freed tensor memory in this process for reuse; return whether the C library agreed.

    GNU's C library returns freed memory to the system and gets it back zeroed, page by page. With tensors of some
    megabytes this costs 3 to 13 % of a training or chain step. Loops call this when they begin; the peak memory stays
    the same. Other C libraries and settings of the environment (``MALLOC_TRIM_THRESHOLD_``) are left alone.

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
    """Return the bytes that this process can still allocate, or None if the system does not report them (not Linux)."""
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
