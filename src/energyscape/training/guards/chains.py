r"""Guards of contrastive divergence: they compare negatives, data, and the energies of both.

Chains that keep up with the energy lie above the data as often as below, :math:`P(E^- > E^+) \approx 1/2`, and spread
as far as the data do, in space and in energy.
"""

import math
import statistics
from typing import Any, final

from energyscape.objectives.base import Adjustment
from energyscape.training.guards.base import GO, SLOWER, Guard, Judgement, Report, Verdict
from energyscape.training.guards.window import Window


@final
class LostChains(Guard):
    """Rolls back when nearly all negatives lie above nearly all data: chains no longer follow the energy.

    :math:`P(E^- > E^+)` is about one half while chains keep up, whatever the scale of the energies. If the regulariser
    exceeds the gap, it holds the two apart, and is cut to a tenth. Otherwise energies change faster than chains can
    follow, and the learning rate is lowered.
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
            return Judgement(Verdict.ROLLBACK, what, Adjustment(alpha=0.1), purge=True)
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
    """Rolls back when a few chains have diverged far above all others.

    In steep energies far from the data, a clipped drift jumps from one slope to the other and does not come back. One
    such chain among sixty-four can dominate the gradient, which then steepens the slopes further. Restarting the chains
    without rolling back only brings new ones there. The signal is the standard deviation of the negatives' energies
    over that of the data's: below 10 in healthy runs, beyond 20 long before other signs. From then on negatives more
    than ten such deviations above the data are excluded from the gradient. They are not draws of the model, and a
    slower rate only postpones them. If chains diverge again, the rate is lowered too.
    """

    def __init__(self, *, most: float = 20.0, window: int = 50) -> None:
        self.most = most
        self.window = Window("spread", "spread_model", "auc", size=window)

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts) or self._widths() <= self.most or self.window.median("auc") > 0.9:
            return GO
        what = f"some chains have diverged: negatives' energies spread {self._widths():.3g} times as far as the data's"
        self.window.clear()
        trims = "trimmed" in report.facts and report.adjustment.trim is None  # not every objective supports it
        remedy = Adjustment(trim=10.0) if trims else SLOWER
        return Judgement(Verdict.ROLLBACK, what, remedy, purge=True)

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
    """Weakens a regulariser that outweighs the likelihood, or strengthens one that is too weak.

    The likelihood's derivative by an energy is 1 in size, the regulariser's is the fact ``pull``. Above 1 it reverses
    the gradient, and is cut to a pull of a tenth. If the mean of the energies far exceeds their spread, they have
    drifted: training rolls back, and a regulariser ten times as strong holds the mean.
    """

    calm = True

    def __init__(self, *, most: float = 1.0, drift: float = 100.0, window: int = 50) -> None:
        self.most, self.drift = most, drift
        self.window = Window("pull", "energy_data", "spread", size=window)

    def look(self, report: Report) -> Judgement:
        if not self.window.add(report.facts) or (pull := self.window.median("pull")) <= self.most:
            return GO
        mean, spread = self.window.median("energy_data"), self.window.median("spread")
        self.window.clear()
        if abs(mean) > self.drift * spread:
            what = f"energies have drifted to {mean:.3g}, and spread by {spread:.3g}"
            return Judgement(Verdict.ROLLBACK, what, Adjustment(alpha=10.0), purge=True)
        what = f"the regulariser pulls at energies {pull:.3g} times as hard as the likelihood"
        return Judgement(Verdict.REMEDY, what, Adjustment(alpha=float(f"{0.1 / pull:.1g}")), purge=True)

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)


@final
class CollapsedChains(Guard):
    """Rolls back when chains that were spread like the data have collapsed to one place."""

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
    r"""Adds noise to data that hardly vary in some directions, such as the black borders of digits.

    Such directions vary less than one step's noise and less than a quarter of the others. There the energy would need a
    wall at which no chain with :math:`\sqrt{2 \eta T}` of noise a step can stay, and the gap falls without limit. The
    noise is :math:`\sqrt 2` times the chain's own, and the law of noised data is learned.

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
            Adjustment(data_noise=float(f"{math.sqrt(2) * noise:.3g}")),
        )

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)
