r"""Guards of the step size of chains.

A step of Langevin's is a drift :math:`\eta s` and a noise of standard deviation :math:`\sqrt{2 \eta T}`. Near a minimum
of curvature :math:`k` and in equilibrium, the ratio of noise to drift is

.. math:: R = \sqrt{2 / (\eta k)},

whatever the temperature: the step is unstable at :math:`R \le 1` (:math:`\eta k \ge 2`), and wastes its time where
:math:`R` is large.
"""

import math
import statistics
from collections import deque
from typing import Any, Final, final

from energyscape.objectives.base import Adjustment
from energyscape.training.guards.base import GO, SLOWER, Guard, Judgement, Report, Verdict
from energyscape.training.guards.window import Window

RATIO: Final = 2.5
"""Noise over drift of a step of the right length."""

RISING: Final = 1.03
"""The ratio of the last five steps over that of the whole window, from which on it is rising."""


@final
class StandingChains(Guard):
    """Rolls back when chains stand still: a Metropolis test rejects nearly all proposals.

    Negatives that do not move are no draws of the model, and its energy can rise under them without limit. Chains of an
    unadjusted kernel always move.
    """

    def __init__(self, *, least: float = 0.02, window: int = 100) -> None:
        self.least, self.window = least, window
        self.recent: deque[float] = deque(maxlen=window)

    def look(self, report: Report) -> Judgement:
        accept_prob = report.facts.get("accept_prob", math.nan)
        if not math.isfinite(accept_prob):
            return GO
        self.recent.append(accept_prob)
        mean = statistics.fmean(self.recent)
        if len(self.recent) < self.window or mean >= self.least:
            return GO
        self.recent.clear()
        return Judgement(
            Verdict.ROLLBACK,
            f"chains stand still: {mean:.2%} of {self.window} steps' proposals were accepted; their step size is too "
            "large for this landscape",
            Adjustment(step=0.3),
        )

    @property
    def calm(self) -> bool:
        return not self.recent or statistics.fmean(self.recent) >= self.least

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent)}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent = deque(state["recent"], maxlen=self.window)


@final
class StepSize(Guard):
    """Corrects the step size of chains that overshoot or hardly move.

    Unstable: :math:`R < 1` five steps in a row; training rolls back. Too long: :math:`R < 1.25`, and not rising by
    itself, as it does while a new, steep energy is learned. Too short: in one training step chains move by less than
    0.12 of the data's standard deviation, though :math:`R` allows more. The step is then multiplied by :math:`(R /
    2.5)^2`, which brings :math:`R` to 2.5. Chains that overshot misreport their drift, clipped or out of equilibrium,
    so a shortened step is corrected again while :math:`R < 2`, until it was sound once.

    A step that was sound before is not to blame: the energy has become too steep, training rolls back and the learning
    rate is lowered. Two kinds of chains are left alone: those far from :math:`T = 1`, which are meant as an optimiser
    with jitter, and those whose Metropolis test already reveals long steps.

    Args:
        low: :math:`R` below which a step is too long.
        least: Move over the data's standard deviation below which it is too short.
        window: Steps in the medians.
    """

    def __init__(self, *, low: float = 1.25, least: float = 0.12, window: int = 50) -> None:
        self.low, self.least = low, least
        self.window = Window("noise", "drift", "move", "data_std", "temperature", "accept_prob", size=window)
        self.latest = Window("noise", "drift", "accept_prob", size=5)
        self.sound = False

    def look(self, report: Report) -> Judgement:
        full, quick = self.window.add(report.facts), self.latest.add(report.facts)
        if not 0.5 <= report.facts.get("temperature", math.nan) <= 2:
            return GO
        shortened = report.adjustment.step < 1
        enough = 0.8 * RATIO if shortened else 1.5
        judgement = self._overshooting(self.latest, 1.0) if quick else GO
        if judgement is GO and full:
            waiting = not (shortened or self.sound) and ratio(self.latest) > RISING * ratio(self.window)
            low = enough if shortened and not self.sound else self.low
            judgement = GO if waiting else self._overshooting(self.window, low)
            judgement = self._creeping() if judgement is GO else judgement
        if judgement is not GO:
            self.window.clear()
            self.latest.clear()
            self.sound &= judgement.adjustment.step == 1
        elif len(self.window.values["noise"]) >= 10:
            self.sound |= ratio(self.window) >= enough
        return judgement

    def _overshooting(self, window: Window, low: float) -> Judgement:
        r = ratio(window)
        if window.median("accept_prob") < 1 or r >= low:
            return GO
        if self.sound:
            what = f"the energy has become too steep for its chains: their noise is {r:.2g} times their drift"
            return Judgement(Verdict.ROLLBACK, what, SLOWER, purge=True)
        what = f"the chains' step is {'unstable' if r < 1 else 'too long'}: its noise is {r:.2g} times its drift"
        verdict = Verdict.ROLLBACK if r < 1 else Verdict.REMEDY
        return Judgement(verdict, what, _step(max((r / RATIO) ** 2, 0.1)), purge=True)

    def _creeping(self) -> Judgement:
        r, share = ratio(self.window), self.window.median("move") / max(self.window.median("data_std"), 1e-12)
        if self.window.median("accept_prob") < 0.98 or share >= self.least or r <= 1.2 * RATIO:
            return GO
        what = (
            f"the chains' step is too short: its noise is {r:.2g} times its drift, and chains move by {share:.2g} of "
            "the data's standard deviation"
        )
        return Judgement(Verdict.REMEDY, what, _step(min((r / RATIO) ** 2, (0.5 / max(share, 1e-3)) ** 2)))

    @property
    def calm(self) -> bool:
        # An energy that has become too steep is no rollback point, even if the step is not yet unstable.
        judged = self.sound and self.window.values["noise"] and self.window.median("accept_prob") == 1
        return not judged or ratio(self.window) >= 1.5

    def state(self) -> dict[str, Any]:
        return {"window": self.window.state(), "latest": self.latest.state(), "sound": self.sound}

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state["window"])
        self.latest.restore(state["latest"])
        self.sound = state["sound"]


def ratio(window: Window) -> float:
    """Return the noise of a step over its drift."""
    return window.median("noise") / max(window.median("drift"), 1e-12)


def _step(factor: float) -> Adjustment:
    return Adjustment(step=float(f"{factor:.2g}"))
