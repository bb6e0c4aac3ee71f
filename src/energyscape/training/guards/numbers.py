"""Guards for any objective: they check finiteness, and the size of gradients and energies."""

import itertools
import math
import statistics
from collections import deque
from typing import Any, final

from energyscape.training.guards.base import GO, SLOWER, Guard, Judgement, Report, Verdict


@final
class Finite(Guard):
    """Skips a step whose loss or gradient is not finite, and rolls back if that repeats.

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
            return GO
        self.bad += 1
        what = f"loss {report.loss:.4g}, gradient norm {report.grad_norm:.4g}"
        if self.bad < self.patience:
            return Judgement(Verdict.SKIP, f"not finite: {what}")
        times, self.bad = self.bad, 0
        return Judgement(Verdict.ROLLBACK, f"not finite {times} times in a row: {what}", SLOWER, purge=True)

    @property
    def calm(self) -> bool:
        return True  # snapshots are checked for such numbers anyway

    def state(self) -> dict[str, Any]:
        return {"bad": self.bad}

    def restore(self, state: dict[str, Any]) -> None:
        self.bad = state["bad"]


@final
class GradientNorm(Guard):
    """Skips a step whose gradient is far larger than usual, and rolls back if that persists.

    The usual norm is the median of the last ``window`` accepted steps, or the smallest of the last five if that is
    more, because a gradient may grow. Healthy runs stay within about tenfold of it.

    Args:
        factor: Multiple of the usual norm that is too large.
        window: Steps in the median; the guard waits for half of them.
        patience: Consecutive bad steps that cause a rollback, and consecutive good ones that end the alarm.
    """

    def __init__(self, *, factor: float = 100.0, window: int = 100, patience: int = 10) -> None:
        self.factor, self.window, self.patience = factor, window, patience
        self.recent: deque[float] = deque(maxlen=window)
        self.bad, self.quiet = 0, window

    def look(self, report: Report) -> Judgement:
        if not math.isfinite(report.grad_norm):
            return GO  # left to another guard
        usual = math.inf
        if len(self.recent) >= self.window // 2:
            usual = max(statistics.median(self.recent), min(itertools.islice(reversed(self.recent), 5)))
        if report.grad_norm <= self.factor * usual:
            self.recent.append(report.grad_norm)
            self.bad, self.quiet = 0, self.quiet + 1
            return GO
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
class RunawayEnergies(Guard):
    r"""Rolls back when energies diverge, lowers the rate, and raises the regulariser if any.

    The signal is :math:`|\bar E^- - \bar E^+| + \operatorname{std} E^+`, gap plus spread, as the median over a window.
    It is compared with the smallest such median so far. Learned landscapes grow at most a hundredfold; one that has
    lost its chains grows until it overflows.
    """

    def __init__(self, *, factor: float = 10_000.0, window: int = 50) -> None:
        self.factor, self.window = factor, window
        self.recent: deque[float] = deque(maxlen=window)
        self.least = math.inf

    def look(self, report: Report) -> Judgement:
        level = abs(report.facts.get("gap", math.nan)) + report.facts.get("spread", math.nan)
        if not math.isfinite(level):
            return GO
        self.recent.append(level)
        if len(self.recent) < self.window:
            return GO
        now = statistics.median(self.recent)
        self.least = min(self.least, now)
        if now <= self.factor * self.least:
            return GO
        self.recent.clear()
        return Judgement(
            Verdict.ROLLBACK,
            f"energies diverge: their gap and spread are {now:.3g}, {now / self.least:.0f} times what they were",
            SLOWER._replace(alpha=3.0 if report.facts.get("penalty") else 1.0),
            purge=True,
        )

    @property
    def calm(self) -> bool:
        # Far below the limit, because a beginning divergence is no rollback point.
        return not self.recent or statistics.median(self.recent) <= self.factor / 10 * self.least

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "least": self.least}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent, self.least = deque(state["recent"], maxlen=self.window), state["least"]
