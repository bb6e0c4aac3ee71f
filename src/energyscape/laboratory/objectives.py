r"""Every method of training on laws in the plane: the same network, the same budget, against the exact truth.

A method is a recipe for eight Gaussians whose law is exchanged. Its figure is
:math:`\operatorname{KL}(\text{law} \,\|\, e^{-E / T} / Z)` by quadrature, which is zero only for the truth: the law's
entropy is already taken off. Other laws are moved and scaled to the size of the eight Gaussians, for which the recipes'
lengths were chosen; a divergence does not change under such a map.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, final

from matplotlib.figure import Figure
from torch import Tensor

from energyscape import plotting
from energyscape.data import DISTRIBUTIONS, Distribution
from energyscape.errors import UserError, did_you_mean
from energyscape.evaluation import diagnose, kl, mmd
from energyscape.inference import Chains
from energyscape.inference.scoring import energies_on_grid
from energyscape.laboratory.jobs import Cell
from energyscape.laboratory.scoreboard import Row, board, mean_and_error, shown, shown_with_error
from energyscape.metrics.plane import mode_shares
from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.registry import build
from energyscape.runs import Run, Session
from energyscape.samplers import sample
from energyscape.training import Verdict

PREFIX: Final = "8gaussians-"
"""Of the names of the recipes that are methods."""

STD: Final = 2.0325
"""Root mean square deviation of the coordinates of the eight Gaussians, to which other laws are scaled."""

EDGE: Final = 1e-3
"""Mass at the edge of the widest box beyond which a KL is not believed."""

SAMPLES: Final = 1_000
"""Generated points that are compared with as many of the law."""

WITHOUT: Final = ("points", "rescaled")
"""Laws that need settings, and so are none of ``all``."""


class Score(NamedTuple):
    """What one method reached on one law with one seed.

    Args:
        law: Which.
        method: Which.
        seed: Of everything random.
        kl: KL(law‖model), in nats: the cross-entropy above the law's entropy.
        kl_error: Numerical error of the quadrature.
        worst_mode: Least share of its own mass that a mode of the law got; NaN for laws without modes.
        mmd: Squared maximum mean discrepancy between samples of the model and of the law.
        mmd_error: Its standard error.
        ess_per_second: Effective samples a second of the processor that the recipe's sampler draws from the model.
        steps_per_second: Of training.
        failed: Why the run is not to be counted; empty if it is.
    """

    law: str
    method: str
    seed: int
    kl: float
    kl_error: float
    worst_mode: float
    mmd: float
    mmd_error: float
    ess_per_second: float
    steps_per_second: float
    failed: str

    def said(self) -> str:
        """Return the result in a line for people."""
        reached = (
            f"failed: {self.failed}" if self.failed else f"KL {shown(self.kl)}, worst mode {shown(self.worst_mode)}"
        )
        return f"{self.law}, {self.method}, seed {self.seed}: {reached}"


def method_names() -> list[str]:
    """Return the names of the methods that can be compared: those whose energy quadrature can ask for the truth."""
    methods = [name for name in recipe_names() if name.startswith(PREFIX)]
    return [name.removeprefix(PREFIX) for name in methods if "solver" not in Recipe.named(name).tables["sampler"]]


@final
@dataclass(frozen=True)
class MethodCell(Cell[Score]):
    """One method on one law with one seed.

    Args:
        law: Which.
        method: Which.
        seed: Of everything random.
        recipe: What it trains.
        folder: Of its run.
    """

    law: str
    method: str
    seed: int
    recipe: Recipe
    folder: Path
    told: ClassVar[Any] = Score

    def work(self, stopping: Callable[[], bool]) -> Score | None:
        experiment = Experiment(self.recipe)
        begun, steps, reason = time.process_time(), 0, ""
        with Session(Run.create(self.folder, experiment), experiment) as session:
            for report in session:
                steps += 1
                if report.verdict == Verdict.STOP:
                    reason = f"stopped by a guard: {report.reason}"
                if stopping():
                    session.keep()
                    return None
        rate = steps / (time.process_time() - begun) if steps else math.nan
        return measured(self, rate, reason)


def measured(cell: MethodCell, rate: float, reason: str) -> Score:
    """Measure a run that has ended."""
    run = Run.open(cell.folder)
    unknown = math.nan
    nothing = Score(
        law=cell.law,
        method=cell.method,
        seed=cell.seed,
        kl=unknown,
        kl_error=unknown,
        worst_mode=unknown,
        mmd=unknown,
        mmd_error=unknown,
        ess_per_second=unknown,
        steps_per_second=rate,
        failed=reason or "it kept no checkpoint",
    )
    if run.latest() is None:
        return nothing
    experiment = run.experiment()
    trained, law = experiment.trained, _truth(experiment)
    energy, temperature = trained.require_energy(), trained.temperature
    divergence = kl(law, energy, temperature=temperature)
    if not reason and not math.isfinite(divergence.value):
        reason = f"the energy is not finite everywhere: KL {divergence.value}"
    if not reason and not divergence.edge_mass <= EDGE:
        reason = f"{divergence.edge_mass:.1%} of the mass is beyond the widest box"
    if reason:
        return nothing._replace(kl=divergence.value, kl_error=divergence.error, failed=reason)
    difference = mmd(*_clouds(experiment))
    return nothing._replace(
        kl=divergence.value,
        kl_error=divergence.error,
        worst_mode=math.nan if law.modes is None else min(mode_shares(law, energy, temperature=temperature)),
        mmd=difference.value,
        mmd_error=difference.error,
        ess_per_second=_ess_per_second(experiment),
        failed="",
    )


def _truth(experiment: Experiment) -> Distribution:
    assert experiment.source.density is not None  # methods are compared on known densities only
    return experiment.source.density


def _clouds(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Return draws of the distribution, and samples of the model."""
    real = experiment.source.draw(SAMPLES, generator=experiment.trained.stream("compare", device="cpu"))
    return real, experiment.trained.sample(SAMPLES).x


def _ess_per_second(experiment: Experiment) -> float:
    """Return effective samples a second: 32 chains that begin in a generated sample, the worse coordinate."""
    trained = experiment.trained
    assert isinstance(trained.sampler, Chains)
    x = trained.sample(32).x.to(trained.device)
    kernel, generator = trained.sampler.kernel(trained.require_energy()), trained.stream("ess")
    begun = time.process_time()
    chain = sample(kernel, x, steps=200, generator=generator)
    return float(diagnose(chain).ess.min()) / (time.process_time() - begun)


def laws_named(words: str) -> list[str]:
    """Return the names of laws."""
    if words == "all":
        return [name for name in DISTRIBUTIONS if name not in WITHOUT]
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in DISTRIBUTIONS:
            hint = did_you_mean(name, DISTRIBUTIONS)
            raise UserError(
                f"{name!r} is no law in the plane, so there is no exact truth to compare with{hint} "
                f"Known: {', '.join(DISTRIBUTIONS)}, all."
            )
    return names


def plan(
    laws: Sequence[str],
    *,
    which: str,
    seeds: int,
    budget: str,
    folder: Path,
    settings: Mapping[str, str] | None = None,
) -> list[MethodCell]:
    """Return the cells of a comparison."""
    names = method_names() if which == "all" else [name.strip() for name in which.split(",")]
    for name in names:
        if name not in method_names():
            raise UserError(
                f"there is no method {name!r}{did_you_mean(name, method_names())} "
                f"Known: {', '.join(method_names())}, all."
            )
    if seeds < 1:
        raise UserError(f"seeds is at least 1; it was {seeds}")
    own = {key.removeprefix("data."): value for key, value in (settings or {}).items() if key.startswith("data.")}
    other = {key: value for key, value in (settings or {}).items() if not key.startswith("data.")}
    cells = []
    for law in laws:
        told = [f"{key}={value}" for key, value in sorted((settings or {}).items())]
        place = folder / "+".join([f"{law}-{budget}", *told]).replace("/", "_").replace(" ", "")
        for name in names:
            for seed in range(seeds):
                overrides = {**placed(law, own), **other, "train.budget": budget, "train.seed": str(seed)}
                recipe = Recipe.named(PREFIX + name, overrides)
                cells.append(MethodCell(law, name, seed, recipe, place / f"{name}-{seed}"))
    return cells


def placed(law: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a recipe's ``[data]`` that give it a law, at the size that recipes were made for."""
    if law == "8gaussians" and not settings:
        return {"data.name": law}
    inner = {f"data.law.{key}": value for key, value in settings.items()}
    return {"data.name": "rescaled", "data.law.name": law, **inner, "data.std": str(STD)}


HEAD: Final = (
    "method",
    "KL above entropy, nats",
    "worst mode",
    "MMD²",
    "ESS/s",
    "steps/s",
    "failed",
)


def table(scores: Sequence[Score]) -> list[list[str]]:
    """Return the scoreboard of one law, the best method first: means ± standard errors over seeds, and the rest."""
    rows = []
    for method in dict.fromkeys(score.method for score in scores):
        mine = [score for score in scores if score.method == method]
        good = [score for score in mine if not score.failed]
        mean, error = mean_and_error([score.kl for score in good])
        cells = [
            method,
            shown_with_error(mean, error),
            shown(min((score.worst_mode for score in good), default=math.nan)),
            shown_with_error(*mean_and_error([score.mmd for score in good]), digits=2),
            shown(mean_and_error([score.ess_per_second for score in good])[0]),
            shown(mean_and_error([score.steps_per_second for score in good])[0]),
            f"{len(mine) - len(good)} of {len(mine)}",
        ]
        rows.append(Row(method, mean if good else math.inf, cells))
    return board(HEAD, rows)


def matrix(scores: Sequence[Score]) -> list[list[str]]:
    """Return the mean KL of every method on every law, a row for each method."""
    laws = list(dict.fromkeys(score.law for score in scores))
    rows = []
    for method in dict.fromkeys(score.method for score in scores):
        kls = [[s.kl for s in scores if (s.law, s.method) == (law, method) and not s.failed] for law in laws]
        means = [mean_and_error(values)[0] for values in kls]
        known = [value for value in means if math.isfinite(value)]
        # Laws differ in what can be reached on them: the ranks are by geometric means.
        rank = math.exp(sum(math.log(max(value, 1e-6)) for value in known) / len(known)) if known else math.inf
        rows.append(Row(method, rank, [method, *map(shown, means)]))
    return board(["KL, nats", *laws], rows)


def failures(scores: Sequence[Score]) -> list[str]:
    """Return a line for each run that failed, with its reason."""
    return [f"{score.law}, {score.method}, seed {score.seed}: {score.failed}" for score in scores if score.failed]


def multiples(cells: Sequence[MethodCell], scores: Sequence[Score]) -> Figure:
    """Draw data, landscape and sample of each method's first seed on one law, the best method first."""
    firsts = [(cell, score) for cell, score in zip(cells, scores, strict=True) if cell.seed == 0]
    firsts.sort(key=lambda pair: math.inf if pair[1].failed else pair[1].kl)
    law = _truth(Experiment(cells[0].recipe))
    rows = []
    for cell, score in firsts:
        if Run.open(cell.folder).latest() is None:
            continue
        experiment = Run.open(cell.folder).experiment()
        real, generated = _clouds(experiment)
        said = "failed" if score.failed else f"KL {shown(score.kl)}"
        rows.append(
            plotting.Multiple(cell.method, said, real, energies_on_grid(experiment.trained, law.box), generated)
        )
    return plotting.small_multiples(rows, law.box, title=f"{cells[0].law}: data, landscape and samples, seed 0")


def entropy_of(cells: Sequence[MethodCell]) -> float:
    """Return the entropy of the law as it was, in nats."""
    data = cells[0].recipe.resolved().tables["data"]
    inner = dict(data["law"]) if data["name"] == "rescaled" else dict(data)
    law: Distribution = build(DISTRIBUTIONS, inner.pop("name"), inner)
    return law.entropy
