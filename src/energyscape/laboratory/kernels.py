r"""Samplers compared on one landscape with a known distribution: the same chains, the same budget, exact draws.

The landscape is :math:`E = -\log p` of a distribution, so errors of the samples are the sampler's alone. Chains start
uniformly in the distribution's box. A warm-up of `MALA` finds its step size :math:`\eta`, and `HMC` has its own;
unadjusted kernels take :math:`\eta / 4`, to keep their bias small. The warm-up is part of the budget.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.data import Distribution
from energyscape.data.arrays import read_array
from energyscape.errors import UserError
from energyscape.evaluation import diagnose, mmd, mode_masses
from energyscape.inference.files import write_points
from energyscape.inference.scoring import GRID
from energyscape.laboratory.cells import Cell, Column, Panels, Score
from energyscape.laboratory.scoreboard import shown, shown_mean, shown_with_error
from energyscape.recipe import Recipe
from energyscape.recipe.settings import Budget
from energyscape.rng import generator_for
from energyscape.samplers import (
    HMC,
    KERNELS,
    MALA,
    AnnealedLangevin,
    GradientDescent,
    Kernel,
    Langevin,
    ParallelTempering,
    UnderdampedLangevin,
    simulate,
    warmup,
)

CHAINS: Final = 128
KEPT: Final = 400
"""About how many positions of each chain are kept for the statistics."""

Tuned = Callable[[EnergyFn, Tensor, Generator], Kernel[Any]]
"""Makes a kernel for a landscape, tuned from the chains' starting points."""


def by_eta(make: Callable[[EnergyFn, float], Kernel[Any]]) -> Tuned:
    """Tune a kernel by the step size that a warm-up of MALA finds."""

    def tuned(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
        warm = warmup(MALA(energy, step_size=0.1), x, steps=200, generator=generator)
        return make(energy, warm.step_size)

    return tuned


TEMPERATURES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)

TUNED: Final[Mapping[str, Tuned]] = {
    "langevin": by_eta(lambda energy, eta: Langevin(energy, step_size=eta / 4)),
    "mala": by_eta(lambda energy, eta: MALA(energy, step_size=eta)),
    "hmc": lambda energy, x, generator: warmup(HMC(energy, step_size=0.3), x, steps=200, generator=generator).kernel,
    "underdamped": by_eta(lambda energy, eta: UnderdampedLangevin(energy, step_size=math.sqrt(eta / 2))),
    "gd": by_eta(lambda energy, eta: GradientDescent(energy, step_size=eta / 4)),
    "annealed": by_eta(lambda energy, eta: AnnealedLangevin(energy, step_size=eta / 4, hottest=20.0, anneal_steps=500)),
    "tempering": by_eta(
        lambda energy, eta: ParallelTempering(energy, functools.partial(MALA, step_size=eta), temperatures=TEMPERATURES)
    ),
}
"""Makes each kernel of `KERNELS` for a landscape."""


@final
@dataclass(frozen=True)
class KernelCell(Cell):
    """One kernel on the landscape of one distribution with one seed."""

    component = "sampler"
    suffix = "-samplers"
    rank = "mmd"
    columns = (
        Column("modes_wrong", "modes wrong by", shown_with_error),
        Column("mmd", "MMD²", lambda values: shown_with_error(values, digits=2)),
        Column("mmd_error"),
        Column("r_hat", "R-hat", lambda values: shown(max(values, default=math.nan), 4)),
        Column("ess_per_second", "ESS/s", shown_mean),
        Column("accept_prob", "accepted", shown_mean),
        Column("diverged", "not finite", lambda values: str(sum(values))),
        Column("steps", "steps", shown_mean),
    )
    protocol = (
        "128 chains start uniformly in the law's box on its own energy. Modes wrong by: total variation between the "
        "shares of the modes in the second half of the draws and the right ones. MMD²: between where the 128 chains "
        "ended and 1,000 exact draws. R-hat: the worst over seeds. MALA and HMC are tuned by a warm-up, which is part "
        "of the budget; unadjusted kernels take a quarter of MALA's step. Failed runs are not in the means."
    )

    @staticmethod
    def names() -> list[str]:
        return [name for name in KERNELS if name in TUNED]

    @staticmethod
    def recipe_of(name: str, overrides: Mapping[str, str]) -> Recipe:
        if name not in TUNED:
            raise UserError(f"sampler {name!r} cannot be compared: only {', '.join(TUNED)} have a rule for their step")
        recipe = Recipe(name, {}).overridden(overrides)
        budget = recipe.tables["train"]["budget"]
        if Budget.parse(budget, epoch=1).seconds is None:
            raise UserError(f"a sampler's budget is a time such as 10cpu-s; it was {budget}")
        for key in overrides:
            if not key.startswith("data.") and key not in ("train.budget", "train.seed"):
                raise UserError(f"--{key}: samplers are compared on a given landscape, whose settings are --data.…")
        return recipe

    def measure(self, stopping: Callable[[], bool]) -> Score | None:
        torch.set_num_threads(1)
        truth, generator = self.truth(), generator_for(self.seed, "chains")
        budget = Budget.parse(self.recipe.tables["train"]["budget"])
        clock = time.process_time if budget.processor else time.monotonic
        low, high = torch.tensor(truth.box).T
        x = low + (high - low) * torch.rand(CHAINS, 2, generator=generator)
        begin, seconds = clock(), budget.seconds or math.inf
        kernel = TUNED[self.name](lambda x: -truth.log_prob(x), x, generator)
        draws: list[Tensor] = []
        accept_prob, diverged, thin, step = 0.0, 0, 1, 0
        for step, (state, info) in enumerate(simulate(kernel, x, generator=generator), 1):
            accept_prob += float(info.accept_prob.mean())
            diverged += int(info.diverged.sum())
            if step % thin == 0:
                draws.append(state.x)
            if len(draws) == 2 * KEPT:  # drop every other draw, and thin twice as much from now on
                draws, thin = draws[1::2], 2 * thin
            if clock() - begin >= seconds and len(draws) >= 8:
                break
            if stopping():
                return None
        spent = clock() - begin
        kept = torch.stack(draws[len(draws) // 2 :])
        write_points(self.folder / "draws.npy", kept[-1])
        diagnosis = diagnose(kept)
        # Positions of one chain depend on each other; the last positions of different chains do not.
        difference = mmd(truth.sample(1_000, generator=generator_for(self.seed, "exact")), kept[-1])
        values = {
            "modes_wrong": modes_wrong(truth, kept.flatten(0, 1)),
            "mmd": difference.value,
            "mmd_error": difference.error,
            "r_hat": float(diagnosis.r_hat.max()),
            "ess_per_second": float(diagnosis.ess.min()) / spent,
            "accept_prob": accept_prob / step,
            "diverged": diverged,
            "steps": step,
        }
        return Score(self, values, "" if bool(kept.isfinite().all()) else "its draws are not finite")

    def panels(self) -> Panels | None:
        truth = self.truth()
        axes = [torch.linspace(low, high, GRID, dtype=torch.float64) for low, high in truth.box]
        grid = -truth.log_prob(torch.cartesian_prod(*axes)).reshape(GRID, GRID)
        exact = truth.sample(CHAINS * 4, generator=generator_for(0, "exact"))
        return Panels(exact, grid, torch.from_numpy(read_array(self.folder / "draws.npy")))


def modes_wrong(truth: Distribution, x: Tensor) -> float:
    """Return the total variation between the shares of the modes in draws and the right ones; NaN without modes."""
    if truth.modes is None:
        return math.nan
    nearest_mode = torch.cdist(x.double(), truth.modes.double()).argmin(1)
    shares = torch.bincount(nearest_mode, minlength=len(truth.modes)).double() / len(x)
    return float((shares - mode_masses(truth, lambda points: -truth.log_prob(points))).abs().sum() / 2)
