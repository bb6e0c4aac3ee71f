"""A run before the doctor: its record, its landscape's answers, and what they come to."""

import math
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.utils import get_total_norm

from energyscape.doctor import Chains, Finding, Probes, Record, diagnose, merged, probe
from energyscape.doctor.settings import updates
from energyscape.errors import UserError
from energyscape.files import read_tensors
from energyscape.inference import Chains as Sampled
from energyscape.metrics.evaluation import DRAWS, protocol_of
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.plane import mode_shares
from energyscape.objectives import ContrastiveDivergence, DiffusionRecoveryLikelihood, NoiseInit
from energyscape.objectives.chain_init import persistent_chains
from energyscape.recipe import Experiment, Recipe
from energyscape.recipe.recipe import LEAPFROG, langevin_step
from energyscape.runs import Run
from energyscape.samplers import KERNELS

POINTS: Final = 512
"""Data points for the probes; all data are checked for non-finite numbers."""

TRAINED: Final = ("batch_size", "flips", "learning_rate", "warmup", "decay", "beta1", "beta2", "clip", "log_every")
"""Settings of the training that rules read."""

FEWEST: Final = 20
"""Lines of metrics below which a record is inconclusive."""


class Examination(NamedTuple):
    """The findings of the doctor, with the record and probes behind them."""

    findings: list[Finding]  # The most causal one first
    probes: Probes  # Measurements of the landscape
    record: Record  # The record of the run
    lacking: str = ""  # Missing evidence; if empty, no finding means a healthy run

    @property
    def certain(self) -> bool:
        """Whether no finding means good health."""
        return not self.lacking


def examine(run: Run, *, seed: int | None = None) -> Examination:
    """Examine a run; one that died before its first checkpoint from its record alone."""
    snapshot = run.latest()
    experiment = Experiment(run.recipe(), shape=run.shape())
    record = settings_of(experiment, columns=run.metrics(), interventions=run.interventions())
    initial = [each.detach().clone() for each in experiment.best.parameters()]
    if snapshot is None:
        probes = ask(experiment, learned=False, seed=seed)
    else:
        experiment.load(snapshot)
        moved = [new.detach() - old for new, old in zip(experiment.best.parameters(), initial, strict=True)]
        share = float(get_total_norm(moved) / get_total_norm(initial))
        probes = _kept(Evidence(experiment, folder=run.path / DRAWS, **protocol_of(run, seed=seed)), share)
    few = f"{record.lines} lines of metrics are fewer than {FEWEST}: train it longer" if record.lines < FEWEST else ""
    few += f", or with --train.log_every {max(1, int(updates(record) or 0) // 100)}" if few else ""
    none = "" if snapshot is not None else "there is no checkpoint: train it longer"
    chains = isinstance(experiment.sampler, Sampled)
    chainless = "" if chains else "a denoiser has no chains to ask, its record and data alone were read"
    lacking = "; ".join(each for each in (few, none, chainless) if each)
    return Examination(merged((record, probes), *planned(experiment, seed=seed)[1:]), probes, record, lacking)


def _kept(evidence: Evidence, moved: float) -> Probes:
    """Return the answers of a landscape, from their file if it was asked before."""

    def draw() -> tuple[dict[str, Tensor], dict[str, Any]]:
        probes = ask(evidence.experiment, seed=evidence.seed)._replace(moved=moved)
        answers = {name: each for name, each in probes._asdict().items() if name != "energies" and each is not None}
        tensors = {name: torch.tensor(each, dtype=torch.float64) for name, each in answers.items()}
        energies = {f"energies {name}": torch.tensor(each).double() for name, each in probes.energies.items()}
        return tensors | energies, {"energies": [*probes.energies]}

    tensors, facts = evidence.kept("probes", draw)
    energies = {name: tuple(tensors.pop(f"energies {name}").tolist()) for name in facts["energies"]}
    answers: dict[str, Any] = {name: each.item() for name, each in tensors.items()}
    return Probes(**answers, energies=energies)


def examine_energy(weights: Path, recipe: Recipe, *, seed: int | None = None) -> Examination:
    """Examine an energy that no run of ours has left, by probes alone."""
    experiment = Experiment(recipe)
    try:
        experiment.model.load_state_dict(read_tensors(weights, "weights (.safetensors)")[0])
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{weights}: expected the weights of the model of {recipe.name!r}: {what}") from None
    experiment.average = None
    experiment.model.eval()
    record, probes = settings_of(experiment), ask(experiment, learned=True, seed=seed)
    return Examination(diagnose(record, probes), probes, record)


def forewarned(experiment: Experiment) -> list[Finding]:
    """Return what rules find in a run that is not yet trained, from its settings and data alone."""
    return merged(*planned(experiment))


def planned(experiment: Experiment, *, seed: int | None = None) -> list[tuple[Record, Probes]]:
    """Return the settings of a run and what its data say of them: of training, then of generation by other chains."""
    data = experiment.source.draw(POINTS, generator=experiment.trained.stream("doctor data", seed=seed, device="cpu"))
    sampler = experiment.sampler
    both = "kernel" in experiment.recipe.tables["objective"] and isinstance(sampler, Sampled) and not sampler.descent
    asked = []
    for section in ("objective", "sampler") if both else (None,):
        noise = _noise(experiment, experiment.trained.stream("doctor noise", seed=seed), section=section)
        chains = chains_of(experiment, with_guards=False, section=section)
        probes = probe(
            None, data, chains, level=planned_level(experiment), noise=None if noise is None else noise.cpu()
        )
        asked.append((settings_of(experiment, section=section), probes))
    return asked


def settings_of(experiment: Experiment, *, section: str | None = None, **more: Any) -> Record:
    """Return the record of a run that is not yet trained, with the chains of a section, and more of it."""
    tables, chains = experiment.recipe.tables, chains_of(experiment, with_guards=False, section=section)
    objective, train, sampler, guard = (tables[name] for name in ("objective", "train", "sampler", "guard"))
    section = section or ("objective" if "kernel" in objective else "sampler")
    outer = tables[section].get("kernel", sampler.get("solver", {}))
    kernel = outer.get("kernel", outer)
    network = tables["model"].get("network", {})
    start = tables[section].get("start", {})
    limits = guard["gradient_factor"] / 5, guard["energy_factor"] / 100, 0.5 / max(guard["least_acceptance"], 1e-9)
    trained: dict[str, Any] = {key: train.get(key) for key in TRAINED}
    return Record(
        objective=objective["name"],
        kernel=kernel["name"],
        chains=section,
        inner="kernel." * (outer is not kernel),
        adjusted=chains is not None and getattr(KERNELS[kernel["name"]], "adjusted", False),
        step_size=None if chains is None else chains.step_size,
        typed=(kernel.get("step_size", 1.0), 0.5 if kernel["name"] in LEAPFROG else 1.0),
        temperature=None if chains is None else chains.temperature,
        drift_clip=kernel.get("drift_clip"),
        steps=objective.get("steps"),
        sampler_steps=sampler["steps"],
        start=start.get("name"),
        capacity=start.get("capacity"),
        refresh=start.get("refresh"),
        data_noise=next((objective[key] for key in ("data_noise", "sigma", "sigma_min") if key in objective), None),
        tweedie=sampler.get("tweedie"),
        reference_std=tables["model"].get("reference_std"),
        scale=tables["model"].get("scale"),
        alpha=objective.get("alpha"),
        regulariser=objective.get("regulariser"),
        budget=experiment.budget.samples,
        network=network.get("name"),
        width=network.get("width"),
        activation=network.get("activation"),
        spectral_norm=network.get("spectral_norm"),
        guarded=min(limits) if guard["enabled"] else None,
        **trained,
        **more,
    )


def ask(experiment: Experiment, *, learned: bool = True, seed: int | None = None) -> Probes:
    """Ask a landscape its few questions."""
    device = experiment.training.torch_device
    generator = experiment.trained.stream("doctor", seed=seed)
    data = experiment.source.draw(POINTS, generator=experiment.trained.stream("doctor data", seed=seed, device="cpu"))
    before = planned(experiment, seed=seed)[0][1]
    trained = experiment.trained
    if not learned or not isinstance(trained.sampler, Sampled):
        return before  # a solver has no chains to follow
    chains = chains_of(experiment)
    probes = probe(
        trained.require_energy(),
        data.to(device),
        chains,
        level=trained.level,
        temperature=trained.temperature or 1.0,
        chains=_old_chains(experiment, generator),
        noise=_noise(experiment, generator),
        held_out=_unseen(experiment, seed),
        generator=generator,
    )
    # Data are judged by the recipe's settings, not by those that guards changed.
    asked = {name: getattr(before, name) for name in ("data_std", "narrowest", "degenerate", "cut", "away", "mirrored")}
    return probes._replace(mode_factor=_mode_factor(experiment), **asked)


def planned_level(experiment: Experiment) -> float:
    """Return the noise on the data that the recipe asks for, in units of ``x``; guards may have added to it."""
    trained = experiment.objective
    return trained.data_noise if isinstance(trained, ContrastiveDivergence) else trained.level


def chains_of(experiment: Experiment, *, with_guards: bool = True, section: str | None = None) -> Chains | None:
    """Return the settings of a run's chains: of a section, of its training, or else of its generation."""
    tables, trained = experiment.recipe.tables, experiment.objective
    objective, sampler = tables["objective"], tables["sampler"]
    kernel = objective.get("kernel", {}) if section != "sampler" else {}
    kernel = kernel or sampler.get("kernel", {})
    step_size = langevin_step(kernel)
    if step_size is None:
        return None
    if with_guards and isinstance(trained, ContrastiveDivergence):
        step_size *= trained.adjustment.step  # as changed by guards
    if isinstance(trained, DiffusionRecoveryLikelihood):
        low, above = trained.sigmas[:2]
        step_size *= low**2 * (1 - (low / above) ** 2)  # its kernel's length is s₀, see samplers.recovery
    return Chains(
        step_size=step_size,
        temperature=0.0 if kernel["name"] == "gd" else kernel.get("kernel", kernel).get("temperature", 1.0),
        drift_clip=kernel.get("drift_clip"),
        bounds=kernel.get("bounds"),
        walls=kernel.get("walls", "reflect"),
        steps=objective.get("steps", 20) if "kernel" in objective else 20,
        sampler_steps=sampler["steps"],
    )


def _old_chains(experiment: Experiment, generator: Generator) -> Tensor | None:
    """Return some of the older half of the persistent chains, since the young are still on their way; or None."""
    buffer = persistent_chains(experiment.objective)
    if buffer is None:
        return None
    old = (buffer.age >= buffer.age.median()).nonzero().squeeze(1)
    order = torch.randperm(len(old), generator=generator, device=old.device)
    return buffer.positions(old[order[:POINTS]], generator=generator)


def _noise(experiment: Experiment, generator: Generator, *, section: str | None = None) -> Tensor | None:
    """Return where chains start that come from nowhere; none where they come from data, or down the noise levels."""
    sampler = experiment.sampler
    if not isinstance(sampler, Sampled) or sampler.descent is not None:
        return None
    starts = [*experiment.objective.modules(), *([] if section == "objective" else [sampler.start])]
    noise = next((each for each in reversed(starts) if isinstance(each, NoiseInit)), None)
    if noise is None:
        return None
    like = torch.zeros(1, *experiment.space.shape, device=experiment.training.torch_device)
    return noise.draw(POINTS, like=like, generator=generator)[0]


def _unseen(experiment: Experiment, seed: int | None) -> Tensor | None:
    """Return held-out rows; None if every draw is new, or nothing is held out."""
    if experiment.source.size is None or experiment.unseen is None:
        return None
    generator = experiment.trained.stream("doctor unseen", seed=seed, device="cpu")
    return experiment.unseen.draw(POINTS, generator=generator).to(experiment.training.torch_device)


def _mode_factor(experiment: Experiment) -> float | None:
    """Return the largest factor by which a mode's mass is off, or None without known modes."""
    trained, law = experiment.trained, experiment.source.density
    if law is None or law.modes is None or trained.level > 0:
        return None
    off = torch.tensor(mode_shares(law, trained.require_energy(), temperature=trained.temperature or 1.0))
    worst = float(torch.maximum(off, 1 / off.clamp(min=1e-12)).max())
    return worst if math.isfinite(worst) else None
