"""A run before the doctor: its record, its landscape's answers, and what they come to."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from matplotlib.figure import Figure as Picture
from torch import Generator, Tensor
from torch.nn.utils import get_total_norm

from energyscape import plotting
from energyscape.data import Distribution
from energyscape.doctor import RULES, Chains, Finding, Probes, Record, diagnose, merged, probe
from energyscape.doctor.record import WINDOW, autocorrelation
from energyscape.doctor.settings import updates
from energyscape.errors import UserError
from energyscape.evaluation import mode_masses
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.generation import draw_data
from energyscape.experiment.recipe import Recipe
from energyscape.experiment.run import Run
from energyscape.files import read_tensors
from energyscape.objectives import ContrastiveDivergence, DiffusionRecoveryLikelihood, NoiseInit, ReplayBuffer
from energyscape.report import Section
from energyscape.samplers import KERNELS

POINTS: Final = 512
"""Data points that probes look at; all of them are looked at for numbers that are not finite."""

TRAINED: Final = ("batch_size", "flips", "learning_rate", "warmup", "decay", "beta1", "beta2", "clip", "log_every")
"""Settings of the training that rules look at."""

LEAPFROG: Final = ("hmc", "underdamped")
"""Kernels whose step is a length: a Langevin step of half its square."""

FEWEST: Final = 20
"""Lines of metrics below which a record says nothing."""


class Examination(NamedTuple):
    """What the doctor found, and from what."""

    findings: list[Finding]  # The most causal one first
    probes: Probes  # What the landscape answered
    record: Record  # What the run left behind
    lacking: str = ""  # What there was too little of; empty where no finding means good health

    @property
    def certain(self) -> bool:
        """Whether no finding means good health."""
        return not self.lacking


def examine(run: Run, *, seed: int | None = None) -> Examination:
    """Examines a run; one that died before its first checkpoint from its record alone."""
    snapshot = run.latest()
    experiment = Experiment(run.recipe(), shape=run.shape())
    record = settings_of(experiment, columns=run.metrics(), interventions=run.interventions())
    initial = [each.detach().clone() for each in experiment.best.parameters()]
    if snapshot is not None:
        experiment.load(snapshot)
    moved = [new.detach() - old for new, old in zip(experiment.best.parameters(), initial, strict=True)]
    probes = ask(experiment, learned=snapshot is not None, seed=seed)
    probes = probes._replace(moved=None if snapshot is None else float(get_total_norm(moved) / get_total_norm(initial)))
    few = f"{record.lines} lines of metrics are fewer than {FEWEST}: train it longer" if record.lines < FEWEST else ""
    few += f", or with --train.log_every {max(1, int(updates(record) or 0) // 100)}" if few else ""
    none = "" if snapshot is not None else "there is no checkpoint: train it longer"
    chainless = "" if experiment.has_chains else "a denoiser has no chains to ask, its record and data alone were read"
    lacking = "; ".join(each for each in (few, none, chainless) if each)
    return Examination(merged((record, probes), *planned(experiment, seed=seed)[1:]), probes, record, lacking)


def examine_energy(weights: Path, recipe: Recipe, *, seed: int | None = None) -> Examination:
    """Examines an energy that no run of ours has left, by probes alone."""
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
    """Returns what rules find in a run that is not yet trained, from its settings and data alone."""
    return merged(*planned(experiment))


def examined(run: Run, *, seed: int | None = None) -> Section:
    """Returns what the doctor says of a run, as a section of its report."""
    told = examine(run, seed=seed)
    pictures: list[tuple[Picture, str]] = []
    if any(math.isfinite(each) for values in told.probes.energies.values() for each in values):
        title = "Energies over temperature" if told.record.temperature in (None, 1.0) else "Energies"
        drawn = plotting.histogram(_shown(told.probes.energies), "energy", title=title)
        pictures.append((drawn, "Energies of data, of chains and of what chains from noise came to: alike is well"))
    gaps = told.record.columns.get("gap", ())
    if len(gaps) >= 2 * WINDOW:
        pictures.append((_swing(told.record), "Lag-1 autocorrelation of the gap: 0 is noise, near 1 it drifts"))
    if not told.findings:
        text = f"{len(RULES)} rules are silent." if told.certain else f"Nothing can be told: {told.lacking}."
        return Section("The doctor", text, figures=tuple(pictures))
    rows = [("what one sees", "evidence", "likely cause", "remedy")]
    rows += [(each.symptom, each.evidence, each.cause, each.remedy) for each in told.findings]
    text = f"{len(told.findings)} findings, causes before what they cause."
    return Section("The doctor", text, figures=tuple(pictures), table=rows)


def _shown(energies: Mapping[str, tuple[float, ...]]) -> dict[str, Tensor]:
    """Returns energies without the few that would flatten all others to a line."""
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in energies.items()}
    pooled = torch.cat([each[each.isfinite()] for each in tensors.values()])
    low, high = pooled.quantile(0.005), pooled.quantile(0.995)
    margin = (high - low).clamp(min=1e-9) / 4
    return {name: each.clamp(low - margin, high + margin) for name, each in tensors.items()}


def _swing(record: Record) -> Picture:
    """Draws the autocorrelation of the gap over windows of the record."""
    gaps, samples = record.columns["gap"], record.columns["samples"]
    at = range(WINDOW, len(gaps) + 1, max(1, len(gaps) // 200))
    rho = [autocorrelation(gaps[end - WINDOW : end]) for end in at]
    series = {"gap": [math.nan if each is None else each for each in rho]}
    title = f"Lag-1 autocorrelation of the gap, over {WINDOW} lines"
    return plotting.curves([samples[end - 1] for end in at], series, title=title, ylabel="autocorrelation", smooth=1)


def planned(experiment: Experiment, *, seed: int | None = None) -> list[tuple[Record, Probes]]:
    """Returns the settings of a run and what its data say of them: of training, then of generation by other chains."""
    data = draw_data(experiment.source, POINTS, generator=seeded(experiment, seed, "doctor data", device="cpu"))
    both = "kernel" in experiment.recipe.tables["objective"] and experiment.has_chains and not experiment.chains.descent
    asked = []
    for section in ("objective", "sampler") if both else (None,):
        noise = _noise(experiment, seeded(experiment, seed, "doctor noise"), section=section)
        how = chains_of(experiment, treated=False, section=section)
        probes = probe(None, data, how, level=planned_level(experiment), noise=None if noise is None else noise.cpu())
        asked.append((settings_of(experiment, section=section), probes))
    return asked


def settings_of(experiment: Experiment, *, section: str | None = None, **more: Any) -> Record:
    """Returns the record of a run that is not yet trained, with the chains of a section, and more of it."""
    tables, how = experiment.recipe.tables, chains_of(experiment, treated=False, section=section)
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
        adjusted=how is not None and getattr(KERNELS[kernel["name"]], "adjusted", False),
        step_size=None if how is None else how.step_size,
        typed=(kernel.get("step_size", 1.0), 0.5 if kernel["name"] in LEAPFROG else 1.0),
        temperature=None if how is None else how.temperature,
        drift_clip=kernel.get("drift_clip"),
        bounds=kernel.get("bounds"),
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
    """Asks a landscape its few questions."""
    device = experiment.training.torch_device
    generator = seeded(experiment, seed, "doctor")
    data = draw_data(experiment.source, POINTS, generator=seeded(experiment, seed, "doctor data", device="cpu"))
    before = planned(experiment, seed=seed)[0][1]
    if not learned or not experiment.has_chains:
        return before  # a solver has no chains to follow
    how = chains_of(experiment)
    probes = probe(
        experiment.energy,
        data.to(device),
        how,
        level=experiment.level,
        temperature=experiment.objective.temperature or 1.0,
        chains=_kept(experiment, generator),
        noise=_noise(experiment, generator),
        held_out=_unseen(experiment, seed),
        generator=generator,
    )
    # What the data are good for is asked of the recipe, not of what guards have made of it.
    asked = {name: getattr(before, name) for name in ("data_std", "narrowest", "degenerate", "cut", "away", "mirrored")}
    return probes._replace(worst_mode=_worst_mode(experiment), **asked)


def planned_level(experiment: Experiment) -> float:
    """Returns the noise on the data that the recipe asks for, in units of ``x``; guards may have added to it."""
    trained = experiment.objective
    return trained.data_noise if isinstance(trained, ContrastiveDivergence) else trained.level


def chains_of(experiment: Experiment, *, treated: bool = True, section: str | None = None) -> Chains | None:
    """Returns how a run makes chains: those of a section, of its training, or where it has none, of its generation."""
    tables, trained = experiment.recipe.tables, experiment.objective
    objective, sampler = tables["objective"], tables["sampler"]
    kernel = objective.get("kernel", {}) if section != "sampler" else {}
    kernel = kernel or sampler.get("kernel", {})
    step_size = step_of(kernel)
    if step_size is None:
        return None
    if treated and isinstance(trained, ContrastiveDivergence):
        step_size *= trained.adjustment.step  # what guards have made of it
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


def step_of(kernel: Mapping[str, Any]) -> float | None:
    """Returns a kernel's step as one of Langevin, in squared units of ``x``, or none where it has none."""
    if "kernel" in kernel:  # that of one replica
        return step_of(kernel["kernel"])
    size = kernel.get("step_size")
    if size is None:
        return None
    return float(size**2 / 2 if kernel["name"] in LEAPFROG else size)


def _kept(experiment: Experiment, generator: Generator) -> Tensor | None:
    """Returns some of the persistent chains, or none: of the older half, for the young are still on their way."""
    for module in experiment.objective.modules():
        if isinstance(module, ReplayBuffer) and module.chains.numel():
            old = (module.age >= module.age.median()).nonzero().squeeze(1)
            order = torch.randperm(len(old), generator=generator, device=old.device)
            return module.positions(old[order[:POINTS]], generator=generator)
    return None


def _noise(experiment: Experiment, generator: Generator, *, section: str | None = None) -> Tensor | None:
    """Returns where chains start that come from nowhere; none where they come from data, or down the noise levels."""
    if not experiment.has_chains or experiment.chains.descent is not None:
        return None
    starts = [*experiment.objective.modules(), *([] if section == "objective" else [experiment.chains.start])]
    noise = next((each for each in reversed(starts) if isinstance(each, NoiseInit)), None)
    if noise is None:
        return None
    like = torch.zeros(1, *experiment.shape, device=experiment.training.torch_device)
    return noise.draw(POINTS, like=like, generator=generator)[0]


def _unseen(experiment: Experiment, seed: int | None) -> Tensor | None:
    if isinstance(experiment.source, Distribution):
        return None
    try:
        source = experiment.held_out
    except UserError:
        return None  # nothing is held out
    unseen = draw_data(source, POINTS, generator=seeded(experiment, seed, "doctor unseen", device="cpu"))
    return unseen.to(experiment.training.torch_device)


def _worst_mode(experiment: Experiment) -> float | None:
    law = experiment.source
    if not isinstance(law, Distribution) or law.modes is None or experiment.level > 0:
        return None
    shares = mode_masses(law, experiment.energy, temperature=experiment.objective.temperature or 1.0)
    off = shares / mode_masses(law, lambda x: -law.log_prob(x))
    worst = float(torch.maximum(off, 1 / off.clamp(min=1e-12)).max())
    return worst if math.isfinite(worst) else None
