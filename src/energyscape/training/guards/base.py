"""Guards: what looks at a training step's report and says whether to go on.

Numerical trouble is a result, not an exception. A guard that says GO changes nothing: a quiet run has the same bits
with and without it.
"""

import enum
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

from energyscape.objectives.base import Adjustment


class Verdict(enum.IntEnum):
    """What becomes of a training step; the highest of several verdicts counts."""

    GO = 0
    """Take the step."""
    REMEDY = 1
    """Take the step, and change settings for those to come."""
    SKIP = 2
    """Leave the weights as they are."""
    ROLLBACK = 3
    """Go back to the last good snapshot: weights, averages, optimiser and chains; random streams move on."""
    STOP = 4
    """End the run."""


class Report(NamedTuple):
    """What one training step told.

    Args:
        step: Number of the step, from 1.
        samples: Data points seen so far.
        loss: Value of the loss.
        grad_norm: Euclidean norm of the parameters' gradient before clipping.
        facts: What the objective told, by name.
        adjustment: What guards had changed before this step, on top of the settings.
        verdict: What became of the step.
        reason: Why, when the verdict is not GO: the evidence.
        action: What was done about it.
        outcome: Where that left the run.
        guard: Name of the guard whose verdict it is.
        after: What guards have changed with this step included; of a STOP, what to try in another run.
    """

    step: int
    samples: int
    loss: float
    grad_norm: float
    facts: dict[str, float]
    adjustment: Adjustment = Adjustment()
    verdict: Verdict = Verdict.GO
    reason: str = ""
    action: str = ""
    outcome: str = ""
    guard: str = ""
    after: Adjustment = Adjustment()


NOTHING: Final = Adjustment()
"""Changes nothing."""

SLOWER: Final = Adjustment(rate=0.3)
"""What a rollback changes where its guard has nothing better."""


class Judgement(NamedTuple):
    """A verdict, its reason and the remedy.

    Args:
        verdict: What to do.
        reason: Why, with the numbers; empty for GO.
        adjustment: What to change from now on, for REMEDY and ROLLBACK.
        purge: Whether to restart chains that have run away.
    """

    verdict: Verdict
    reason: str = ""
    adjustment: Adjustment = NOTHING
    purge: bool = False


GO: Final = Judgement(Verdict.GO)
"""Nothing is wrong."""


class Guard(ABC):
    """Looks at reports."""

    @abstractmethod
    def look(self, report: Report) -> Judgement:
        """Return a judgement on one step."""

    @property
    @abstractmethod
    def calm(self) -> bool:
        """Whether the present state is worth going back to; snapshots wait until every guard says so."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what the guard remembers, as plain numbers and lists."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
