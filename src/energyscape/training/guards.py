"""Guards: what looks at a training step's report and says whether to go on.

Numerical trouble is a result, not an exception. A guard that says GO changes nothing: a quiet run has the same bits
with and without it.
"""

import enum
import itertools
import math
import statistics
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final, NamedTuple, final

from energyscape.objectives.base import Treatment


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
        verdict: What became of the step.
        reason: Why, when the verdict is not GO: the evidence.
        action: What was done about it.
        outcome: Where that left the run.
    """

    step: int
    samples: int
    loss: float
    grad_norm: float
    facts: dict[str, float]
    verdict: Verdict = Verdict.GO
    reason: str = ""
    action: str = ""
    outcome: str = ""


NOTHING: Final = Treatment()
"""Changes nothing."""

SLOWER: Final = Treatment(rate=0.3)
"""What a rollback changes where its guard has nothing better."""


class Judgement(NamedTuple):
    """A verdict, its reason and the remedy.

    Args:
        verdict: What to do.
        reason: Why, with the numbers; empty for GO.
        treatment: What to change from now on, for REMEDY and ROLLBACK.
        purge: Whether to restart chains that have run away.
    """

    verdict: Verdict
    reason: str = ""
    treatment: Treatment = NOTHING
    purge: bool = False


class Guard(ABC):
    """Looks at reports."""

    @abstractmethod
    def look(self, report: Report) -> Judgement:
        """Returns a judgement on one step.

        Args:
            report: What the step told; its own verdict is not yet set.
        """

    @property
    @abstractmethod
    def calm(self) -> bool:
        """Whether the present state is worth going back to; snapshots wait until every guard says so."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Returns what the guard remembers, as plain numbers and lists."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned.

        Args:
            state: What the guard remembered.
        """


def usual() -> list[Guard]:
    """Returns one of each guard, with its defaults."""
    return [Finite(), GradientNorm(), StandingChains(), RunawayEnergies()]


@final
class Finite(Guard):
    """Skips a step whose loss or gradient is not finite, and rolls back when it happens again and again.

    Args:
        patience: Consecutive bad steps that make a rollback.

    Examples:
        >>> Finite().look(Report(1, 64, math.nan, 1.0, {})).verdict.name
        'SKIP'
    """

    def __init__(self, *, patience: int = 3) -> None:
        self.patience = patience
        self.bad = 0

    def look(self, report: Report) -> Judgement:
        if math.isfinite(report.loss) and math.isfinite(report.grad_norm):
            self.bad = 0
            return Judgement(Verdict.GO)
        self.bad += 1
        what = f"loss {report.loss:.4g}, gradient norm {report.grad_norm:.4g}"
        if self.bad < self.patience:
            return Judgement(Verdict.SKIP, f"not finite: {what}")
        times, self.bad = self.bad, 0
        return Judgement(Verdict.ROLLBACK, f"not finite {times} times in a row: {what}", SLOWER, purge=True)

    @property
    def calm(self) -> bool:
        return True  # a snapshot is searched for such numbers itself

    def state(self) -> dict[str, Any]:
        return {"bad": self.bad}

    def restore(self, state: dict[str, Any]) -> None:
        self.bad = state["bad"]


@final
class GradientNorm(Guard):
    """Skips a step whose gradient is far larger than the usual one, and rolls back when that persists.

    The usual one is the median of the last ``window`` accepted steps, or the smallest of the last five where that is
    more, because a gradient may well grow. Healthy runs stay within about tenfold of it.

    Args:
        factor: How many times the usual is too much.
        window: Steps in the median; nothing is judged before half of them are there.
        patience: Consecutive bad steps that make a rollback, and consecutive good ones that make peace.
    """

    def __init__(self, *, factor: float = 100.0, window: int = 100, patience: int = 10) -> None:
        self.factor, self.window, self.patience = factor, window, patience
        self.recent: deque[float] = deque(maxlen=window)
        self.bad, self.quiet = 0, window

    def look(self, report: Report) -> Judgement:
        if not math.isfinite(report.grad_norm):
            return Judgement(Verdict.GO)  # not this guard's business
        usual = math.inf
        if len(self.recent) >= self.window // 2:
            usual = max(statistics.median(self.recent), min(itertools.islice(reversed(self.recent), 5)))
        if report.grad_norm <= self.factor * usual:
            self.recent.append(report.grad_norm)
            self.bad, self.quiet = 0, self.quiet + 1
            return Judgement(Verdict.GO)
        self.bad, self.quiet = self.bad + 1, 0
        what = f"gradient norm {report.grad_norm:.4g} is {report.grad_norm / max(usual, 1e-300):.0f} times the usual"
        if self.bad < self.patience:
            return Judgement(Verdict.SKIP, what)
        times, self.bad = self.bad, 0
        return Judgement(Verdict.ROLLBACK, f"{what}, {times} times in a row", SLOWER, purge=True)

    @property
    def calm(self) -> bool:
        # Explosions come in volleys: between two of them the weights may already be lost.
        return self.quiet >= self.patience

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "bad": self.bad, "quiet": self.quiet}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent = deque(state["recent"], maxlen=self.window)
        self.bad, self.quiet = state["bad"], state["quiet"]


@final
class StandingChains(Guard):
    """Rolls back when chains stand still: a Metropolis test refuses nearly all that they propose.

    Negatives that do not move are no draws of the model, and its energy can rise under them without end. Chains of an
    unadjusted kernel always move; what they are worth is another question.

    Args:
        least: Mean acceptance probability below which chains stand still, over the window.
        window: Steps in the mean.
    """

    def __init__(self, *, least: float = 0.02, window: int = 100) -> None:
        self.least, self.window = least, window
        self.recent: deque[float] = deque(maxlen=window)

    def look(self, report: Report) -> Judgement:
        accept_prob = report.facts.get("accept_prob", math.nan)
        if not math.isfinite(accept_prob):
            return Judgement(Verdict.GO)
        self.recent.append(accept_prob)
        mean = statistics.fmean(self.recent)
        if len(self.recent) < self.window or mean >= self.least:
            return Judgement(Verdict.GO)
        self.recent.clear()
        return Judgement(
            Verdict.ROLLBACK,
            f"chains stand still: {mean:.2%} of {self.window} steps' proposals were accepted; their step size is too "
            "large for this landscape",
            Treatment(step=0.3),
        )

    @property
    def calm(self) -> bool:
        return not self.recent or statistics.fmean(self.recent) >= self.least

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent)}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent = deque(state["recent"], maxlen=self.window)


@final
class RunawayEnergies(Guard):
    r"""Rolls back when energies have grown out of all proportion: nothing holds them any more.

    Watched is :math:`|\bar E^- - \bar E^+| + \operatorname{std} E^+`, the gap and the spread that objectives tell, by
    the median over a window, and compared with the smallest such median so far. Learned landscapes grow a hundredfold
    at most; one whose chains have lost it grows until its numbers end.

    Args:
        factor: How many times the smallest is too much.
        window: Steps in the median.
    """

    def __init__(self, *, factor: float = 10_000.0, window: int = 50) -> None:
        self.factor, self.window = factor, window
        self.recent: deque[float] = deque(maxlen=window)
        self.least = math.inf

    def look(self, report: Report) -> Judgement:
        level = abs(report.facts.get("gap", math.nan)) + report.facts.get("spread", math.nan)
        if not math.isfinite(level):
            return Judgement(Verdict.GO)
        self.recent.append(level)
        if len(self.recent) < self.window:
            return Judgement(Verdict.GO)
        now = statistics.median(self.recent)
        self.least = min(self.least, now)
        if now <= self.factor * self.least:
            return Judgement(Verdict.GO)
        self.recent.clear()
        return Judgement(
            Verdict.ROLLBACK,
            f"energies run away: their gap and spread are {now:.3g}, {now / self.least:.0f} times what they were",
            SLOWER,
            purge=True,
        )

    @property
    def calm(self) -> bool:
        # Far below the limit, for an explosion that is not yet one is no place to go back to.
        return not self.recent or statistics.median(self.recent) <= self.factor / 10 * self.least

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "least": self.least}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent, self.least = deque(state["recent"], maxlen=self.window), state["least"]
