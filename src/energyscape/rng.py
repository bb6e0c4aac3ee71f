r"""One seed per run, one generator per role.

Every stream is seeded by :math:`h(\text{seed}, \text{role}, \ldots)` with a cryptographic hash. So streams are
independent, a new role never shifts another one, and torch's global generator is untouched.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import index

import torch
from torch import Generator, Tensor

from energyscape.errors import UserError


def seed_for(seed: int, *parts: str | int) -> int:
    """Return a 63-bit seed for one stream of a run.

    Args:
        seed: The run's seed, any integer: 3, ``np.int64(3)`` and ``torch.tensor(3)`` are one seed.

    Examples:
        >>> seed_for(0, "data") != seed_for(0, "chains")
        True
    """
    try:
        key = int(index(seed)), *(str(part) if isinstance(part, str) else int(index(part)) for part in parts)
    except (TypeError, RuntimeError):
        raise UserError(f"a seed is an integer, and a stream named by strings and integers: {(seed, *parts)}") from None
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> Generator:
    """Return a fresh generator for one stream of a run."""
    return Generator(device).manual_seed(seed_for(seed, *parts))


@contextmanager
def global_seed(seed: int, *, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore their states afterwards.

    Use it only for code without ``generator=``, such as initialisers of ``torch.nn`` layers, and dropout.
    """
    other = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=other):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch all other devices too
        for each in other:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


class Streams:
    """The generators of a run, by role, made on first use.

    Args:
        seed: The run's seed.
        device: Device of the streams' tensors.

    Examples:
        >>> streams = Streams(3)
        >>> kept = streams.state()
        >>> first = torch.rand(2, generator=streams["chains"])
        >>> streams.restore(kept)
        >>> bool((torch.rand(2, generator=streams["chains"]) == first).all())
        True
    """

    def __init__(self, seed: int, *, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = device
        self._generators: dict[str, Generator] = {}

    def __getitem__(self, role: str) -> Generator:
        if role not in self._generators:
            self._generators[role] = generator_for(self.seed, role, device=self.device)
        return self._generators[role]

    def state(self) -> dict[str, Tensor]:
        """Return every generator's state as bytes, by role."""
        return {role: generator.get_state() for role, generator in self._generators.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore every generator; roles that the state lacks start afresh."""
        self._generators = {}
        for role, value in state.items():
            self[role].set_state(value)
