"""Remedies that rollbacks have tried since the last good snapshot, and the next one."""

from typing import Final, NamedTuple, final

from energyscape.objectives.base import Adjustment
from energyscape.training.guards.base import SLOWER

CUTS: Final = 2
"""Failed remedies other than the learning rate before the rate falls."""

FURTHER: Final = 0.1
"""Factor on a learning rate whose reduction failed."""


@final
class Remedies(NamedTuple):
    """Remedies that failed: the run needed another rollback before it had a new good snapshot.

    Args:
        tried: The remedies, in order.
    """

    tried: tuple[Adjustment, ...] = ()

    def more(self, proposed: Adjustment) -> "Remedies":
        """Return these remedies and the next: the proposed one, or a lower learning rate after two failures.

        Examples:
            >>> cut = Adjustment(step=0.1)
            >>> [each.rate for each in Remedies().more(cut).more(cut).more(cut).more(cut).tried]
            [1.0, 1.0, 0.3, 0.1]
        """
        falls = [each.rate != 1 for each in self.tried]
        if proposed.rate == 1 and falls.count(False) >= CUTS:
            proposed = SLOWER
        if proposed.rate != 1 and any(falls):
            proposed = proposed._replace(rate=FURTHER)
        return Remedies((*self.tried, proposed))

    def on(self, base: Adjustment) -> Adjustment:
        """Return the adjustment in force: lower rates accumulate and undo the remedies before them."""
        total = base
        for each in self.tried:
            base = base.then(each) if each.rate != 1 else base
            total = base if each.rate != 1 else total.then(each)
        return total
