"""The memory that is available, and the limit of a request."""

import contextlib
from pathlib import Path
from typing import Final

from energyscape.errors import UserError

SHARE: Final = 0.8
"""Share of the available memory that a request may take."""

_CGROUPS: Final = tuple(
    (f"/sys/fs/cgroup/{limit}", f"/sys/fs/cgroup/{used}")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
)


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
