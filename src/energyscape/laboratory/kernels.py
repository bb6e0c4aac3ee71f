r"""Every sampler on one landscape whose law is known: the same chains, the same budget, against exact draws.

The landscape is :math:`E = -\log p` of a law, so that whatever is wrong with the samples is the sampler's doing. Chains
start uniformly in the law's box. Step sizes come from one warm-up of `MALA`, :math:`\eta`, and of `HMC`; unadjusted
kernels take :math:`\eta / 4`, to keep their bias small. The warm-up is part of the budget.
"""

import functools
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, final

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor

from energyscape import plotting
from energyscape.calculus import EnergyFn
from energyscape.data import DISTRIBUTIONS, Distribution
from energyscape.data.arrays import read_array
from energyscape.errors import UserError, did_you_mean
from energyscape.evaluation import diagnose, mmd, mode_masses
from energyscape.files import write_whole
from energyscape.inference.scoring import GRID
from energyscape.laboratory.jobs import Cell
from energyscape.laboratory.objectives import placed
from energyscape.laboratory.scoreboard import Row, board, mean_and_error, shown, shown_with_error
from energyscape.recipe.recipe import Recipe
from energyscape.recipe.settings import Budget
from energyscape.registry import build
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
"""Chains, and about how many of their positions are looked at."""

Made = Callable[[EnergyFn, Tensor, Generator], Kernel[Any]]


def _eta(energy: EnergyFn, x: Tensor, generator: Generator) -> float:
    return warmup(MALA(energy, step_size=0.1), x, steps=200, generator=generator).step_size


def _mala(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    return MALA(energy, step_size=_eta(energy, x, generator))


def _hmc(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    return warmup(HMC(energy, step_size=0.3), x, steps=200, generator=generator).kernel


def _langevin(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    return Langevin(energy, step_size=_eta(energy, x, generator) / 4)


def _underdamped(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    return UnderdampedLangevin(energy, step_size=math.sqrt(_eta(energy, x, generator) / 2))


def _descent(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    return GradientDescent(energy, step_size=_eta(energy, x, generator) / 4)


def _annealed(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    return AnnealedLangevin(energy, step_size=_eta(energy, x, generator) / 4, hottest=20.0, anneal_steps=500)


def _tempering(energy: EnergyFn, x: Tensor, generator: Generator) -> Kernel[Any]:
    inner = functools.partial(MALA, step_size=_eta(energy, x, generator))
    return ParallelTempering(energy, inner, temperatures=(1.0, 2.0, 4.0, 8.0, 16.0))


TUNED: Final[Mapping[str, Made]] = {
    "langevin": _langevin,
    "mala": _mala,
    "hmc": _hmc,
    "underdamped": _underdamped,
    "gd": _descent,
    "annealed": _annealed,
    "tempering": _tempering,
}
"""How each sampler of `KERNELS` is set up for a landscape."""


class SamplerScore(NamedTuple):
    """What one sampler reached with one seed.

    Args:
        law: Whose landscape.
        sampler: Which.
        seed: Of everything random.
        modes_wrong: Total variation between the shares of the modes that its draws have and the right ones; NaN
            without modes.
        mmd: Squared maximum mean discrepancy between where the chains ended and exact draws.
        mmd_error: Its standard error.
        r_hat: The worse coordinate's; above 1.01 the chains disagree.
        ess_per_second: Effective samples a second of the processor, the worse coordinate.
        accept_prob: Mean acceptance probability.
        diverged: Proposals that were not finite, in all.
        steps: Of each chain.
        failed: Why it is not to be counted; empty if it is.
    """

    law: str
    sampler: str
    seed: int
    modes_wrong: float
    mmd: float
    mmd_error: float
    r_hat: float
    ess_per_second: float
    accept_prob: float
    diverged: int
    steps: int
    failed: str

    def said(self) -> str:
        """Return the result in a line for people."""
        return f"{self.law}, {self.sampler}, seed {self.seed}: MMD² {shown(self.mmd)}, R-hat {shown(self.r_hat, 4)}"


def sampler_names() -> list[str]:
    """Return the names of the samplers that can be compared."""
    return [name for name in KERNELS if name in TUNED]


@final
@dataclass(frozen=True)
class SamplerCell(Cell[SamplerScore]):
    """One sampler on one law's landscape with one seed.

    Args:
        law: Whose landscape.
        data: The law's table, as a recipe has it.
        sampler: Which.
        seed: Of everything random.
        budget: When to end.
        folder: For what is kept.
    """

    law: str
    data: Mapping[str, Any]
    sampler: str
    seed: int
    budget: Budget
    folder: Path
    told: ClassVar[Any] = SamplerScore

    def landscape(self) -> Distribution:
        """Return the law."""
        table = dict(self.data)
        law: Distribution = build(DISTRIBUTIONS, table.pop("name"), table)
        return law

    def work(self, stopping: Callable[[], bool]) -> SamplerScore | None:
        torch.set_num_threads(1)
        law, generator = self.landscape(), generator_for(self.seed, "chains")
        clock = time.process_time if self.budget.processor else time.monotonic
        low, high = torch.tensor(law.box).T
        x = low + (high - low) * torch.rand(CHAINS, 2, generator=generator)
        begun, seconds = clock(), self.budget.seconds or math.inf

        def energy(x: Tensor) -> Tensor:
            return -law.log_prob(x)

        kernel = TUNED[self.sampler](energy, x, generator)
        draws: list[Tensor] = []
        accept_prob, diverged, thin, step = 0.0, 0, 1, 0
        for step, (state, info) in enumerate(simulate(kernel, x, generator=generator), 1):
            accept_prob += float(info.accept_prob.mean())
            diverged += int(info.diverged.sum())
            if step % thin == 0:
                draws.append(state.x)
            if len(draws) == 2 * KEPT:  # twice as many as are wanted: every other one goes, and so from now on
                draws, thin = draws[1::2], 2 * thin
            if clock() - begun >= seconds and len(draws) >= 8:
                break
            if stopping():
                return None
        spent = clock() - begun
        kept = torch.stack(draws[len(draws) // 2 :])
        write_whole(self.folder / "draws.npy", _npy(kept[-1]))
        said = diagnose(kept)
        # Positions of one chain depend on each other; where different chains ended does not.
        difference = mmd(law.sample(1_000, generator=generator_for(self.seed, "exact")), kept[-1])
        return SamplerScore(
            self.law,
            self.sampler,
            self.seed,
            modes_wrong(law, kept.flatten(0, 1)),
            difference.value,
            difference.error,
            float(said.r_hat.max()),
            float(said.ess.min()) / spent,
            accept_prob / step,
            diverged,
            step,
            "" if bool(kept.isfinite().all()) else "its draws are not finite",
        )


def modes_wrong(law: Distribution, x: Tensor) -> float:
    """Return the total variation between the shares of the modes in draws and the right ones; NaN without modes."""
    if law.modes is None:
        return math.nan
    nearest_mode = torch.cdist(x.double(), law.modes.double()).argmin(1)
    shares = torch.bincount(nearest_mode, minlength=len(law.modes)).double() / len(x)
    return float((shares - mode_masses(law, lambda points: -law.log_prob(points))).abs().sum() / 2)


def _npy(x: Tensor) -> bytes:
    content = io.BytesIO()
    np.save(content, x.numpy())
    return content.getvalue()


def plan_samplers(
    law: str, *, which: str, seeds: int, budget: str, folder: Path, settings: Mapping[str, str] | None = None
) -> list[SamplerCell]:
    """Return the cells of a comparison of samplers."""
    names = sampler_names() if which == "all" else [name.strip() for name in which.split(",")]
    for name in names:
        if name not in sampler_names():
            hint = did_you_mean(name, sampler_names())
            raise UserError(f"there is no sampler {name!r}{hint} Known: {', '.join(sampler_names())}, all.")
    parsed = Budget.parse(budget, epoch=1)
    if seeds < 1 or parsed.seconds is None:
        raise UserError(
            f"seeds is at least 1 and a sampler's budget a time such as 10cpu-s; they were {seeds}, {budget}"
        )
    own = {key.removeprefix("data."): value for key, value in (settings or {}).items()}
    data = Recipe("law", {}).overridden(placed(law, own)).tables["data"]
    place = folder / f"{law}-samplers-{budget.replace(' ', '')}"
    return [
        SamplerCell(law, data, name, seed, parsed, place / f"{name}-{seed}") for name in names for seed in range(seeds)
    ]


HEAD: Final = ("sampler", "modes wrong by", "MMD²", "R-hat", "ESS/s", "accepted", "not finite", "steps", "failed")


def sampler_table(scores: Sequence[SamplerScore]) -> list[list[str]]:
    """Return the scoreboard: means ± standard errors over seeds, the smallest discrepancy first."""
    rows = []
    for name in dict.fromkeys(score.sampler for score in scores):
        mine = [score for score in scores if score.sampler == name]
        good = [score for score in mine if not score.failed]
        mean, error = mean_and_error([score.mmd for score in good])
        cells = [
            name,
            shown_with_error(*mean_and_error([score.modes_wrong for score in good])),
            shown_with_error(mean, error, digits=2),
            shown(max((score.r_hat for score in good), default=math.nan), 4),
            shown(mean_and_error([score.ess_per_second for score in good])[0]),
            shown(mean_and_error([score.accept_prob for score in good])[0]),
            str(sum(score.diverged for score in mine)),
            shown(mean_and_error([score.steps for score in good])[0]),
            f"{len(mine) - len(good)} of {len(mine)}",
        ]
        rows.append(Row(name, mean if good else math.inf, cells))
    return board(HEAD, rows)


def sampler_multiples(cells: Sequence[SamplerCell], scores: Sequence[SamplerScore]) -> Figure:
    """Draw exact draws, the landscape, and where each sampler's chains ended, of its first seed."""
    law = cells[0].landscape()
    exact = law.sample(CHAINS * 4, generator=generator_for(0, "exact"))
    axes = [torch.linspace(low, high, GRID, dtype=torch.float64) for low, high in law.box]
    grid = -law.log_prob(torch.cartesian_prod(*axes)).reshape(GRID, GRID)
    firsts = [(cell, score) for cell, score in zip(cells, scores, strict=True) if cell.seed == 0]
    firsts.sort(key=lambda pair: pair[1].mmd)
    rows = [
        plotting.Multiple(
            cell.sampler,
            f"MMD² {shown(score.mmd)}",
            exact,
            grid,
            read_array(cell.folder / "draws.npy"),
        )
        for cell, score in firsts
    ]
    return plotting.small_multiples(rows, law.box, title=f"{cells[0].law}: exact draws, landscape, chains' ends")
