r"""Objectives compared on distributions in the plane: the same network, the same budget, the exact density.

An objective stands for a recipe for eight Gaussians whose distribution is exchanged. Its rank is
:math:`\operatorname{KL}(\text{data} \,\|\, e^{-E / T} / Z)` by quadrature, which is zero only at the truth. Other
distributions are moved and scaled to the size of the eight Gaussians, for which the recipes' lengths were chosen; a
divergence does not change under such a map.
"""

import math
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor

from energyscape.evaluation import diagnose, kl, mmd
from energyscape.inference import Chains
from energyscape.inference.scoring import energies_on_grid
from energyscape.laboratory.cells import Cell, Column, Panels, Score
from energyscape.laboratory.scoreboard import shown, shown_mean, shown_with_error
from energyscape.metrics.plane import mode_shares
from energyscape.models import Energy
from energyscape.objectives import OBJECTIVES
from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.recipe.recipe import CONTEXT
from energyscape.registry import hints_of, schema
from energyscape.runs import Run, Session
from energyscape.samplers import sample
from energyscape.training import Verdict

PREFIX: Final = "8gaussians-"
"""First part of the name of a recipe that is compared."""

PLAIN: Final = PREFIX + "sm"
"""Recipe for objectives without one of their own: plain score matching needs no chains and no contrast."""

EDGE: Final = 1e-3
"""Highest mass at the edge of the widest box at which a KL counts."""

SAMPLES: Final = 1_000
"""Generated samples, compared with as many draws."""


@final
@dataclass(frozen=True)
class ObjectiveCell(Cell):
    """One objective, trained on one distribution with one seed."""

    component = "method"
    suffix = ""
    rank = "kl"
    columns = (
        Column("kl", "KL above entropy, nats", shown_with_error),
        Column("kl_error"),
        Column("worst_mode", "worst mode", lambda values: shown(min(values, default=math.nan))),
        Column("mmd", "MMD²", lambda values: shown_with_error(values, digits=2)),
        Column("mmd_error"),
        Column("ess_per_second", "ESS/s", shown_mean),
        Column("steps_per_second", "steps/s", shown_mean),
    )
    protocol = (
        "KL(law‖model) by quadrature, mean over seeds ± its standard error: the cross-entropy above the law's entropy, "
        "zero only for the truth. Worst mode: the least share of its own mass that a mode got with any seed. MMD²: "
        "between 1,000 samples of the recipe's sampler from noise and 1,000 of the law. ESS/s: effective samples of "
        "that sampler a second of the processor, 32 chains. Failed runs are not in the means."
    )

    @staticmethod
    def names() -> list[str]:
        """Return recipes that train an energy for quadrature, then objectives that have no recipe."""
        recipes = [name.removeprefix(PREFIX) for name in recipe_names() if name.startswith(PREFIX)]
        chains = [name for name in recipes if "solver" not in Recipe.named(PREFIX + name).tables["sampler"]]
        return chains + [name for name in OBJECTIVES if name not in recipes and trains_plain_energies(name)]

    @staticmethod
    def recipe_of(name: str, overrides: Mapping[str, str]) -> Recipe:
        if PREFIX + name in recipe_names():
            return Recipe.named(PREFIX + name, overrides)
        return Recipe.named(PLAIN, {"objective.name": name, **overrides})

    def measure(self, stopping: Callable[[], bool]) -> Score | None:
        experiment = Experiment(self.recipe)
        begin, steps, reason = time.process_time(), 0, ""
        with Session(Run.create(self.folder, experiment), experiment) as session:
            for report in session:
                steps += 1
                if report.verdict == Verdict.STOP:
                    reason = f"stopped by a guard: {report.reason}"
                if stopping():
                    session.keep()
                    return None
        rate = steps / (time.process_time() - begin) if steps else math.nan
        return measure_run(self, rate, reason)

    def panels(self) -> Panels | None:
        run = Run.open(self.folder)
        if run.latest() is None:
            return None
        experiment = run.experiment()
        exact, generated = _draws_and_samples(experiment)
        return Panels(exact, energies_on_grid(experiment.trained, self.truth().box), generated)


def trains_plain_energies(name: str) -> bool:
    """Whether an objective trains any `Energy` and has defaults for all its settings."""
    objective: typing.Any = OBJECTIVES[name]
    required = [key for key, field in schema(objective).items() if field.required and key not in CONTEXT]
    return hints_of(objective.forward).get("model") is Energy and not required


def measure_run(cell: ObjectiveCell, rate: float, reason: str) -> Score:
    """Measure a finished run; ``reason`` says why training failed, or is empty."""
    values = {each.field: math.nan for each in cell.columns} | {"steps_per_second": rate}
    run = Run.open(cell.folder)
    if run.latest() is None:
        return Score(cell, values, reason or "it kept no checkpoint")
    experiment, truth = run.experiment(), cell.truth()
    trained = experiment.trained
    energy, temperature = trained.require_energy(), trained.temperature
    divergence = kl(truth, energy, temperature=temperature)
    values |= {"kl": divergence.value, "kl_error": divergence.error}
    if not reason and not math.isfinite(divergence.value):
        reason = f"the energy is not finite everywhere: KL {divergence.value}"
    if not reason and not divergence.edge_mass <= EDGE:
        reason = f"{divergence.edge_mass:.1%} of the mass is beyond the widest box"
    if reason:
        return Score(cell, values, reason)
    if truth.modes is not None:
        values["worst_mode"] = min(mode_shares(truth, energy, temperature=temperature))
    difference = mmd(*_draws_and_samples(experiment))
    values |= {"mmd": difference.value, "mmd_error": difference.error, "ess_per_second": _ess_per_second(experiment)}
    return Score(cell, values)


def _draws_and_samples(experiment: Experiment) -> tuple[Tensor, Tensor]:
    exact = experiment.source.draw(SAMPLES, generator=experiment.trained.stream("compare", device="cpu"))
    return exact, experiment.trained.sample(SAMPLES).x


def _ess_per_second(experiment: Experiment) -> float:
    """Return effective samples a second: 32 chains that begin in a generated sample, the worse coordinate."""
    trained = experiment.trained
    assert isinstance(trained.sampler, Chains)
    x = trained.sample(32).x.to(trained.device)
    kernel, generator = trained.sampler.kernel(trained.require_energy()), trained.stream("ess")
    begin = time.process_time()
    chain = sample(kernel, x, steps=200, generator=generator)
    return float(diagnose(chain).ess.min()) / (time.process_time() - begin)
