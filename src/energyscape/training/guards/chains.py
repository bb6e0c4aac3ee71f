r"""Guards that look at the chains of contrastive divergence.

A step of Langevin's is a drift :math:`\eta s` and a noise of standard deviation :math:`\sqrt{2 \eta T}`. Near a minimum
of curvature :math:`k` and in equilibrium, the ratio of noise to drift is

.. math:: R = \sqrt{2 / (\eta k)},

whatever the temperature: the step is unstable at :math:`R \le 1` (:math:`\eta k \ge 2`), and wastes its time where
:math:`R` is large. All watch medians over a window, because one batch tells little.
"""

import math
import statistics
from collections import deque
from typing import Any, Final, final

from energyscape.objectives.base import Treatment
from energyscape.training.guards.base import SLOWER, Guard, Judgement, Report, Verdict

GO: Final = Judgement(Verdict.GO)

RATIO: Final = 2.5
"""The noise over the drift of a step that is as long as it should be."""


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


class Window:
    """The last values of some facts.

    Args:
        names: Of the facts.
        size: How many steps.
    """

    def __init__(self, *names: str, size: int) -> None:
        self.size = size
        self.values: dict[str, deque[float]] = {name: deque(maxlen=size) for name in names}

    def add(self, facts: dict[str, float]) -> bool:
        """Takes a step's facts; returns whether the window is full and every number was there.

        Args:
            facts: What the objective told.
        """
        numbers = {name: facts.get(name, math.nan) for name in self.values}
        if not all(math.isfinite(each) for each in numbers.values()):
            return False
        for name, number in numbers.items():
            self.values[name].append(number)
        return all(len(each) == self.size for each in self.values.values())

    def median(self, name: str) -> float:
        """Returns the median of one fact.

        Args:
            name: Of the fact.
        """
        return statistics.median(self.values[name])

    def clear(self) -> None:
        """Forgets everything, because what comes now is another run."""
        for each in self.values.values():
            each.clear()

    def state(self) -> dict[str, list[float]]:
        """Returns all values."""
        return {name: list(each) for name, each in self.values.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """Takes back what `state` returned.

        Args:
            state: All values.
        """
        self.values = {name: deque(state[name], maxlen=self.size) for name in self.values}


@final
class StepSize(Guard):
    r"""Mends the step size of chains that overshoot or hardly move.

    Unstable: :math:`R < 1` five steps in a row, which is undone. Too long: :math:`R < 1.25`. Too short: in one training
    step chains move by less than 0.12 of the data's standard deviation, though :math:`R` says that they could go
    farther. The step is then multiplied by :math:`(R / 2.5)^2`, at which :math:`R` would be 2.5. Chains that overshot
    told their drift wrongly, clipped or out of equilibrium, so a step that was shortened is mended again while
    :math:`R < 2`, until it was sound once.

    A step that was sound before is not to blame: then the energy has become too steep, training goes back and the
    learning rate is lowered. Left alone are chains far from :math:`T = 1`, whose maker wants an optimiser with jitter,
    and those whose Metropolis test already tells of long steps.

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
        shortened = report.treatment.step < 1
        enough = 0.8 * RATIO if shortened else 1.5
        judgement = self._overshooting(self.latest, 1.0) if quick else GO
        if judgement is GO and full:
            judgement = self._overshooting(self.window, enough if shortened and not self.sound else self.low)
            judgement = self._creeping() if judgement is GO else judgement
        if judgement is not GO:
            self.window.clear()
            self.latest.clear()
            self.sound &= judgement.treatment.step == 1
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
        # What has once been sound and is steeper now is no place to go back to, though it is not yet unstable.
        judged = self.sound and self.window.values["noise"] and self.window.median("accept_prob") == 1
        return not judged or ratio(self.window) >= 1.5

    def state(self) -> dict[str, Any]:
        return {"window": self.window.state(), "latest": self.latest.state(), "sound": self.sound}

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state["window"])
        self.latest.restore(state["latest"])
        self.sound = state["sound"]


def ratio(window: Window) -> float:
    """Returns the noise of a step over its drift.

    Args:
        window: Of both.
    """
    return window.median("noise") / max(window.median("drift"), 1e-12)


def _step(factor: float) -> Treatment:
    return Treatment(step=float(f"{factor:.2g}"))


@final
class LostChains(Guard):
    r"""Rolls back when nearly all negatives lie above nearly all data: chains no longer follow the energy.

    :math:`P(E^- > E^+)` hovers about one half while chains keep up, whatever the scale of the energies. The remedy
    follows the evidence: where the regulariser weighs more than the gap, it is what holds the two apart, and is cut to
    a tenth; else energies change faster than chains can follow, and the learning rate is lowered.

    Args:
        most: The probability that is too much.
        window: Steps in the median.
    """

    def __init__(self, *, most: float = 0.98, window: int = 100) -> None:
        self.most = most
        self.window = Window("auc", "gap", "penalty", size=window)

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts) or self.window.median("auc") <= self.most:
            return GO
        share, gap, penalty = (self.window.median(name) for name in ("auc", "gap", "penalty"))
        self.window.clear()
        what = f"chains are lost: {share:.1%} of negatives lie above the data, the gap is {gap:.3g}"
        if penalty > abs(gap) / 4:
            what = f"{what}; the regulariser's {penalty:.3g} holds them apart"
            return Judgement(Verdict.ROLLBACK, what, Treatment(alpha=0.1), purge=True)
        return Judgement(Verdict.ROLLBACK, what, SLOWER, purge=True)

    @property
    def calm(self) -> bool:
        recent = self.window.values["auc"]
        return not recent or statistics.median(recent) <= 0.9

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)


@final
class RunawayChains(Guard):
    r"""Rolls back when a few chains have run away, far above all the others.

    Where energies are steep, far from the data, a clipped drift swings from one slope to the other and does not come
    back. One such chain among sixty-four can outweigh the rest of the batch in the gradient, which then makes the
    slopes steeper still; to restart the chains without going back only brings new ones there. Seen by the negatives'
    standard deviation of energies, in units of that of the data: it is below 10 in healthy runs, and beyond 20 long
    before anything else is wrong.

    Args:
        most: The negatives' spread over that of the data which is too much.
        window: Steps in the medians.
    """

    def __init__(self, *, most: float = 20.0, window: int = 50) -> None:
        self.most = most
        self.window = Window("spread", "spread_model", "auc", size=window)

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts) or self._widths() <= self.most or self.window.median("auc") > 0.9:
            return GO
        what = f"some chains have run away: negatives' energies spread {self._widths():.3g} times as far as the data's"
        self.window.clear()
        return Judgement(Verdict.ROLLBACK, what, SLOWER, purge=True)

    def _widths(self) -> float:
        return self.window.median("spread_model") / max(self.window.median("spread"), 1e-12)

    @property
    def calm(self) -> bool:
        return not self.window.values["spread"] or self._widths() <= self.most / 2

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)


@final
class StrongRegulariser(Guard):
    r"""Weakens a regulariser that pulls at energies more than the likelihood does.

    The likelihood's derivative by an energy is 1 in size; the regulariser's is told as ``pull``. Above 1 it turns the
    sign of what is learned. It is then cut to where the pull would be a tenth.

    Args:
        most: The pull that is too much.
        window: Steps in the median.
    """

    calm = True

    def __init__(self, *, most: float = 1.0, window: int = 50) -> None:
        self.most = most
        self.window = Window("pull", size=window)

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts) or (pull := self.window.median("pull")) <= self.most:
            return GO
        self.window.clear()
        what = f"the regulariser pulls at energies {pull:.3g} times as hard as the likelihood"
        return Judgement(Verdict.REMEDY, what, Treatment(alpha=float(f"{0.1 / pull:.1g}")), purge=True)

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)


@final
class CollapsedChains(Guard):
    """Rolls back when chains that were spread like the data have come together in one place.

    Args:
        least: Standard deviation of the negatives over that of the data below which they have collapsed.
        window: Steps in the medians.
    """

    def __init__(self, *, least: float = 0.1, window: int = 100) -> None:
        self.least = least
        self.window = Window("model_std", "data_std", size=window)
        self.widest = 0.0

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts):
            return GO
        width = self.window.median("model_std") / max(self.window.median("data_std"), 1e-12)
        self.widest = max(self.widest, width)
        if self.widest < 0.5 or width >= self.least:
            return GO
        self.window.clear()
        what = f"chains have collapsed: they spread {width:.2g} times as far as the data, and once {self.widest:.2g}"
        return Judgement(Verdict.ROLLBACK, what, SLOWER, purge=True)

    @property
    def calm(self) -> bool:
        model, data = self.window.values["model_std"], self.window.values["data_std"]
        return self.widest < 0.5 or not model or statistics.median(model) >= 3 * self.least * statistics.median(data)

    def state(self) -> dict[str, Any]:
        return {**self.window.state(), "widest": self.widest}

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)
        self.widest = state["widest"]


@final
class DegenerateData(Guard):
    r"""Noises data that have directions in which they hardly vary, such as the black borders of digits.

    Such directions vary less than one step's noise and less than a quarter of what the others do. There the energy
    would have to be a wall that no chain with :math:`\sqrt{2 \eta T}` of noise a step can stand at, and the gap falls
    for ever. The data are then noised at :math:`\sqrt 2` times the chain's own noise, and what is learned is the law of
    noised data.

    Args:
        most: Share of the coordinates that vary less than a step's noise.
        window: Steps in the median.

    References:
        On the anatomy of MCMC-based maximum likelihood learning of energy-based models (Nijkamp et al., 2020),
        section 3.4. https://arxiv.org/abs/1903.12370
    """

    calm = True

    def __init__(self, *, most: float = 0.02, window: int = 20) -> None:
        self.most = most
        self.window = Window("degenerate", "noise", size=window)

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts) or self.window.median("degenerate") <= self.most:
            return GO
        share, noise = self.window.median("degenerate"), self.window.median("noise")
        self.window.clear()
        return Judgement(
            Verdict.REMEDY,
            f"in {share:.0%} of their coordinates the data vary less than one step's noise of {noise:.3g}",
            Treatment(data_noise=float(f"{math.sqrt(2) * noise:.3g}")),
        )

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)
