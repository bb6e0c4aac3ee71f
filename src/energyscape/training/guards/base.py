"""Guards: checks of each training step that decide how to go on.

Numerical failure is a result, not an exception. A guard that returns GO changes nothing: a healthy run has the same
bits with and without it.
"""

import enum
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

from energyscape.objectives.base import Adjustment
from energyscape.objectives.facts import Facts


class Verdict(enum.IntEnum):
    """Decision about a training step; the highest of several verdicts counts."""

    GO = 0
    """Take the step."""
    REMEDY = 1
    """Take the step, and change settings for later ones."""
    SKIP = 2
    """Leave the weights as they are."""
    ROLLBACK = 3
    """Go back to the last good snapshot: weights, averages, optimiser and chains; random streams move on."""
    STOP = 4
    """End the run."""


class Report(NamedTuple):
    """Facts about one training step.

    Args:
        step: Number of the step, from 1.
        samples: Data points seen so far.
        loss: Value of the loss.
        grad_norm: Euclidean norm of the parameters' gradient before clipping.
        facts: Facts of the objective, by name.
        adjustment: Changes by guards before this step, on top of the settings.
        verdict: The decision.
        reason: The evidence, if the verdict is not GO.
        action: The changes made.
        outcome: The state of the run afterwards.
        guard: Name of the guard that decided.
        after: Changes by guards including this step; for a STOP, changes to try in another run.
    """

    step: int
    samples: int
    loss: float
    grad_norm: float
    facts: Facts[float]
    adjustment: Adjustment = Adjustment()
    verdict: Verdict = Verdict.GO
    reason: str = ""
    action: str = ""
    outcome: str = ""
    guard: str = ""
    after: Adjustment = Adjustment()

    def columns(self) -> dict[Any, float]:
        """Return loss, gradient norm and facts by `Column`; a fact named ``loss`` replaces the loss."""
        numbers: dict[Any, float] = {"loss": self.loss, "grad_norm": self.grad_norm}
        return numbers | self.facts


NOTHING: Final = Adjustment()
"""Changes nothing."""

SLOWER: Final = Adjustment(rate=0.3)
"""The change of a rollback whose guard proposes none."""


class Judgement(NamedTuple):
    """A verdict, its reason and the remedy.

    Args:
        verdict: The decision.
        reason: The evidence, with numbers; empty for GO.
        adjustment: Changes from now on, for REMEDY and ROLLBACK.
        purge: Whether to restart diverged chains.
    """

    verdict: Verdict
    reason: str = ""
    adjustment: Adjustment = NOTHING
    purge: bool = False


GO: Final = Judgement(Verdict.GO)
"""Nothing is wrong."""


class Guard(ABC):
    """A check of reports."""

    @abstractmethod
    def look(self, report: Report) -> Judgement:
        """Return a judgement on one step."""

    @property
    @abstractmethod
    def calm(self) -> bool:
        """Whether the present state is a good rollback point; snapshots wait until every guard agrees."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the guard's memory as plain numbers and lists."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
