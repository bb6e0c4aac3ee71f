"""Run TorchEBM 0.8.9 as its documentation says and, beside that, as well as we know how.

A user of TorchEBM writes an energy (here that of our recipe, with the same weights), passes it to a loss and, for
contrastive divergence, to a sampler, and writes the loop. The numbers of each setting are plain data, which identify a
finished training.
"""

import itertools
import math
import time
from typing import Any, Final, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam
from torchebm import losses, samplers
from torchebm.core import BaseModel
from torchebm.datasets import EightGaussiansDataset
from torchebm.utils import EMA

import energyscape as es
from energyscape.calculus import score
from energyscape.models.networks import ACTIVATIONS
from energyscape.recipe import Experiment, Recipe
from energyscape.recipe.settings import Training
from energyscape.rng import generator_for

DOCUMENTED: Final[dict[str, dict[str, Any]]] = {
    "sm": {"name": "ScoreMatching", "hessian_method": "exact"},
    "ssm": {"name": "SlicedScoreMatching", "n_projections": 5},
    "dsm": {"name": "DenoisingScoreMatching", "noise_scale": 0.1},
    "cd": {"name": "ContrastiveDivergence", "k_steps": 10},
    "pcd": {"name": "ContrastiveDivergence", "k_steps": 10, "persistent": True, "buffer_size": 8192},
}
"""The peer's losses by our names of the objectives, as in its README."""

DOCUMENTED_SAMPLER: Final = {"name": "LangevinDynamics", "step_size": 0.1, "noise_scale": 1.0}
DOCUMENTED_TRAINING: Final = {"batch_size": 256, "learning_rate": 1e-3, "beta1": 0.9, "decay": "none", "warmup": 0}
DOCUMENTED_EMA: Final = 0.9999

SAME_TRAINING: Final = (
    "batch_size",
    "learning_rate",
    "beta1",
    "beta2",
    "decay",
    "warmup",
    "clip",
    "ema_half_life",
)
"""Settings of ``[train]`` that the peer's loop can have too."""

AGREEMENT: Final = 1e-5
"""Largest difference between the libraries' values of one quantity, over its largest value or one."""


class Setting(NamedTuple):
    """A way to use the peer.

    Args:
        loss: Name and parameters of its loss.
        sampler: Name and parameters of the sampler that draws the negatives; none for score matching.
        training: Settings of our ``[train]`` that its loop obeys.
    """

    loss: dict[str, Any]
    sampler: dict[str, Any] | None
    training: dict[str, Any]

    @property
    def temperature(self) -> float:
        """At which the energy is learned."""
        return 1.0 if self.sampler is None else float(self.sampler.get("noise_scale", 1.0)) ** 2


class Learned(NamedTuple):
    """The result of a training by the peer.

    Args:
        last: The model.
        average: The same with averaged weights.
        steps: Of the optimiser.
        cpu_seconds: Processor time of training.
    """

    last: nn.Module
    average: nn.Module
    steps: int
    cpu_seconds: float


class Landscape(BaseModel):
    """Our recipe's energy, written as the peer's documentation writes one, with the same weights."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        table = experiment.recipe.tables["model"]
        network = table["network"]
        hidden = [
            layer
            for inside, outside in itertools.pairwise([2] + [network["width"]] * network["depth"])
            for layer in (nn.Linear(inside, outside), ACTIVATIONS[network["activation"]]())
        ]
        self.net = nn.Sequential(*hidden, nn.Linear(network["width"], 1, bias=False))
        self.scale = table["scale"]
        # Without this term the model's mass need not be finite. The peer's examples have none: here it is given one.
        self.curvature = 0.0 if table["reference_std"] is None else table["reference_std"] ** -2
        with torch.no_grad():
            for theirs, ours in zip(self.parameters(), experiment.model.parameters(), strict=True):
                theirs.copy_(ours)

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.scale * self.net(x).squeeze(-1)
        return f + self.curvature / 2 * x.square().sum(-1)


def settings_for(objective: str, recipe: Recipe) -> dict[str, Setting]:
    """Return the settings in which the peer runs an objective.

    ``documented`` is its README. ``decayed`` also lets the learning rate fall to zero. ``matched`` takes every number
    from our recipe; ``fine`` has Langevin steps of a fifth of that size, ten of them, which stay stable in narrower
    wells; ``hmc`` has the adjusted kernel too, for the peer's HMC of one leapfrog step is MALA.

    Args:
        objective: One of `DOCUMENTED`.
        recipe: Ours, resolved.
    """
    loss, ours = DOCUMENTED[objective], recipe.tables["objective"]
    matched = {**loss, **same_numbers(objective, ours)}
    training = {name: value for name, value in recipe.tables["train"].items() if name in SAME_TRAINING}
    sampler = DOCUMENTED_SAMPLER if "k_steps" in loss else None
    settings = {
        "documented": Setting(loss, sampler, DOCUMENTED_TRAINING),
        "decayed": Setting(loss, sampler, {**DOCUMENTED_TRAINING, "decay": "linear"}),
    }
    if sampler is None:
        return {**settings, "matched": Setting(matched, None, training)}
    step_size, temperature = langevin_step(ours["kernel"])
    langevin = {"name": "LangevinDynamics", "step_size": step_size, "noise_scale": math.sqrt(temperature)}
    settings["matched"] = Setting(matched, langevin, training)
    short, k_steps = {**langevin, "step_size": step_size / 5}, loss["k_steps"]
    settings["fine"] = Setting({**matched, "k_steps": k_steps}, short, training)
    if temperature == 1:  # the only one that the peer's HMC has
        hmc = {"name": "HamiltonianMonteCarlo", "step_size": math.sqrt(2 * step_size), "n_leapfrog_steps": 1}
        settings["hmc"] = Setting(matched, hmc, training)
    return settings


def same_numbers(objective: str, ours: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the peer's loss that say what our objective's say.

    Args:
        objective: One of `DOCUMENTED`.
        ours: The section of our recipe.
    """
    if objective == "sm":
        return {}
    if objective == "ssm":
        return {"n_projections": ours["projections"], "projection_type": ours["projection"]}
    if objective == "dsm":
        return {"noise_scale": ours["sigma"]}
    noise = {"add_noise_to_real": True, "noise_scale": ours["data_noise"]} if ours["data_noise"] else {}
    chains = {"k_steps": ours["steps"], "energy_reg_weight": ours["alpha"], **noise}
    if objective == "cd":
        return chains
    return {**chains, "buffer_size": ours["start"]["capacity"], "new_sample_ratio": ours["start"]["refresh"]}


def langevin_step(kernel: dict[str, Any]) -> tuple[float, float]:
    """Return the step size and the temperature of the Langevin kernel that is nearest to ours.

    Args:
        kernel: The table of our recipe.
    """
    # A leapfrog step of length h is a Langevin step of size h² / 2.
    step_size = kernel["step_size"] if kernel["name"] in ("langevin", "mala") else kernel["step_size"] ** 2 / 2
    return step_size, kernel.get("temperature", 1.0)


def loss_of(model: BaseModel, setting: Setting) -> nn.Module:
    """Return the peer's loss, with its sampler.

    Args:
        model: What it trains.
        setting: Which.
    """
    parameters = dict(setting.loss)
    if setting.sampler is not None:
        chain = dict(setting.sampler)
        parameters["sampler"] = getattr(samplers, chain.pop("name"))(model=model, **chain)
    loss: nn.Module = getattr(losses, parameters.pop("name"))(model=model, **parameters)
    return loss


def train(experiment: Experiment, setting: Setting, *, seed: int, seconds: float) -> Learned:
    """Train by the peer.

    Neither the making of its objects nor the filling of its replay buffer counts as training.

    Args:
        experiment: Ours, for the law and the initial weights.
        setting: How to use the peer.
        seed: Of the batches and all that training draws.
        seconds: Of processor time.
    """
    model, training = Landscape(experiment), Training(**setting.training)
    loss, generator = loss_of(model, setting), generator_for(seed, "peer")
    betas = training.beta1, training.beta2
    adam = Adam(model.parameters(), lr=training.learning_rate, betas=betas, fused=True)
    half_life = setting.training.get("ema_half_life")
    decay = DOCUMENTED_EMA if half_life is None else 0.5 ** (training.batch_size / half_life)
    average = EMA(model, decay=decay, decay_schedule="warmup")
    data, steps = es.batches(experiment.source, training.batch_size, seed=seed), 0
    if isinstance(loss, losses.ContrastiveDivergence):
        loss.initialize_buffer((2,), generator=generator)
    begun = time.process_time()
    while (progress := (time.process_time() - begun) / seconds) < 1:
        adam.param_groups[0]["lr"] = training.learning_rate * training.rate_factor(progress, data.position)
        value = loss(next(data).x, generator=generator)
        adam.zero_grad()
        (value[0] if isinstance(value, tuple) else value).backward()
        if training.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        adam.step()
        average.update(model)
        steps += 1
    return Learned(model, average.module, steps, time.process_time() - begun)


def disagreements(experiment: Experiment) -> dict[str, float]:
    """Return how far the libraries are apart where they must agree, in units of what is allowed.

    Args:
        experiment: Ours, at its initial weights.
    """
    law, model, peer = experiment.source, experiment.model, Landscape(experiment)
    assert isinstance(law, es.Distribution)
    assert isinstance(model, es.Energy)
    x = law.sample(1_000, generator=generator_for(0, "agreement"))

    def stream() -> Generator:
        return generator_for(0, "agreement", "noise")

    kernel, langevin = es.Langevin(model, step_size=0.05), samplers.LangevinDynamics(peer, step_size=0.05)
    exact, denoising = losses.ScoreMatching(peer), losses.DenoisingScoreMatching(peer, noise_scale=0.3)
    pairs = {
        "energy": (model(x), peer(x)),
        "score": (score(model, x), -peer.gradient(x)),
        "exact score matching": (es.ScoreMatching()(model, x).value, exact(x)),
        "denoising score matching": (
            es.DenoisingScoreMatching(sigma=0.3)(model, x, generator=stream()).value,
            denoising(x.clone(), generator=stream()),
        ),
        "a Langevin step": (
            kernel.step(kernel.init(x), generator=stream())[0].x,
            langevin.sample(x=x, n_steps=1, generator=stream()),
        ),
    }
    apart = {what: float(((a - b).abs().max() / a.abs().max().clamp(min=1)).detach()) for what, (a, b) in pairs.items()}
    found = {what: value / AGREEMENT for what, value in apart.items()}
    if isinstance(law, es.EightGaussians):
        # Its own sampler of this law draws from the density that is integrated here, within five standard errors.
        log_p = law.log_prob(EightGaussiansDataset(100_000, std=law.std, scale=law.radius, seed=0).get_data()).double()
        found["law"] = abs(float(log_p.mean()) + law.entropy) / (5 * float(log_p.std()) / math.sqrt(len(log_p)))
    return found
