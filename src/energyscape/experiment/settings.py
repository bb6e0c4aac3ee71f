"""The sections of a recipe that are not components: how to train, how to sample, how to guard.

Their fields are a recipe's settings, like the parameters of a component.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, final

import torch
from torch import Tensor

from energyscape.calculus import DenoiseFn, EnergyFn
from energyscape.errors import UserError, check_count, check_positive, refused, shortened
from energyscape.experiment.precision import Precision
from energyscape.objectives import ChainInit
from energyscape.registry import UNITS, Samples
from energyscape.samplers import DescentFactory, Kernel, KernelFactory, Solver, SolverFactory
from energyscape.samplers.base import zero_energy
from energyscape.samplers.driver import Compile
from energyscape.schedules import Grid
from energyscape.training import Guard
from energyscape.training.guards import usual

MOST_THREADS: Final = 4 * (os.cpu_count() or 1)

MOST_SAMPLES: Final = 1e15

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Budget(NamedTuple):
    """When training ends: after so many samples or so many seconds.

    Args:
        samples: Data points, or none.
        seconds: Seconds of training, or none.
        processor: Whether the seconds are those of the processor, all threads together, and not of the clock on the
            wall: what others do on the same machine then takes nothing away.
    """

    samples: int | None
    seconds: float | None
    processor: bool = False

    @staticmethod
    def parse(text: int | str, *, epoch: int | None = None) -> "Budget":
        """Read a budget such as ``400k``, ``1.5M``, ``60s``, ``10min``, ``1h``, ``60cpu-s`` or ``20 epochs``.

        Examples:
            >>> Budget.parse("1.5M").samples, Budget.parse("10min").seconds, Budget.parse("30 cpu-s")
            (1500000, 600.0, Budget(samples=None, seconds=30.0, processor=True))
        """
        pattern = r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*(k|M|(?:cpu-)?(?:s|min|h)|epochs?)?\s*"
        match = re.fullmatch(pattern, text if isinstance(text, str) else shortened(text))
        number, unit = (float(match[1]), match[2] or "") if match else (math.nan, "")
        if not 0 < number * UNITS.get(unit, 1.0) <= MOST_SAMPLES:
            raise UserError(
                "a budget is a number of samples (400k, 1.5M), a time (60s, 10min), a time of the processor "
                f"(60cpu-s) or epochs, of at most {MOST_SAMPLES:g}; it was {shortened(text)}"
            )
        if unit.startswith("epoch"):
            if epoch is None:
                raise UserError(f"a law has no epochs: give the budget {text!r} in samples (400k) or as a time (60s)")
            return Budget(math.ceil(number * epoch), None)
        if (seconds := unit.removeprefix("cpu-")) in _SECONDS:
            return Budget(None, number * _SECONDS[seconds], processor=seconds != unit)
        return Budget(math.ceil(number * UNITS[unit]), None)


@final
@dataclass(frozen=True, kw_only=True)
class Training:
    """The ``[train]`` section.

    Args:
        budget: When to end: samples (400k, 1.5M), a time (60s, 10min), a time of the processor (60cpu-s) or epochs
            (20 epochs). Only runs whose budget is in samples or epochs give the same bits again, because the learning
            rate follows the budget.
        batch_size: Data points a step.
        flips: Mirror each image left to right, or not, with equal chances; not for digits or letters.
        learning_rate: Of Adam, at its highest.
        beta1: Adam's decay of the gradient's mean; 0 for adversarially moving targets such as chains.
        beta2: Adam's decay of the gradient's square.
        warmup: Samples over which the learning rate rises from 0.
        decay: How the learning rate falls to 0 over the budget.
        clip: Largest norm of the parameters' gradient.
        ema_half_life: Half-life of the averaged weights, in samples; none keeps no average.
        checkpoint_every: Samples between checkpoints.
        log_every: Steps between lines of the metrics.
        tensorboard: Write the metrics for TensorBoard too, into the run's folder.
        frames: How often on the way to keep what the model generates: for a film of a law in the plane, or as
            pictures, from the same noise every time.
        seed: Of everything random.
        precision: Of products and convolutions in training: float32, bfloat16, or auto, which is bfloat16 where the
            hardware multiplies it.
        compile: Whether to compile the network of a denoiser that is no energy (the others are differentiated twice, or
            by chains): true, false, or auto, which does on a GPU if two minutes of training are left.
        device: Where to train: auto takes a GPU where there is one.
        threads: Processor threads of the whole process; torch's own choice when left out. Small networks are fastest
            with one, and the same bits come again only with the same number.
    """

    budget: int | str = "400k"
    batch_size: int = 128
    flips: bool = False
    learning_rate: float = 1e-3
    beta1: float = 0.0
    beta2: float = 0.999
    warmup: Samples = 10_000
    decay: Literal["none", "linear", "cosine"] = "linear"
    clip: float | None = None
    ema_half_life: Samples | float | None = 20_000.0
    checkpoint_every: Samples = 50_000
    log_every: int = 10
    tensorboard: bool = False
    frames: int = 0
    seed: int = 0
    precision: Precision = "float32"
    compile: Compile = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "checkpoint_every", "log_every", "threads"):
            if getattr(self, name) is not None:
                check_count(**{name: getattr(self, name)}, most=10**15)
        for name in ("learning_rate", "clip", "ema_half_life"):
            if getattr(self, name) is not None:
                check_positive(**{name: getattr(self, name)})
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 are in [0, 1); they were {self.beta1} and {self.beta2}")
        if self.warmup < 0 or not 0 <= self.frames < 10_000:
            raise ValueError(f"warmup is not negative, frames are 0 to 9999; they were {self.warmup} and {self.frames}")
        Budget.parse(self.budget, epoch=1)

    def check_machine(self) -> None:
        """Refuse to train what this machine cannot; a trained run can be used anywhere."""
        if self.threads is not None and self.threads > MOST_THREADS:
            raise UserError(f"[train]: threads is at most {MOST_THREADS} on this machine; it was {self.threads}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("[train]: device is cuda, but torch sees no GPU here; use auto or cpu")
        budget = Budget.parse(self.budget, epoch=1)
        if budget.processor and self.torch_device.type != "cpu":
            raise UserError(
                "[train]: a budget in cpu-s says nothing of what a GPU does; give it in s, or the device as cpu"
            )

    @property
    def torch_device(self) -> torch.device:
        """Where to train and to use what was learned: a GPU only where there is one."""
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    def rate_factor(self, progress: float, samples: int) -> float:
        """Return the factor on the learning rate."""
        rising = min(1.0, (samples + self.batch_size) / self.warmup) if self.warmup else 1.0
        falling = {"none": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[self.decay]
        return rising * falling


@final
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The ``[sampler]`` section: how to generate from the trained model.

    Args:
        kernel: The transition.
        start: Where chains begin.
        steps: Transitions of each chain.
        descent: How chains from noise come down the noise levels of a model that has learned many; none lets the
            kernel find its way at the lowest.
        tweedie: End with one denoising step, where the model has learned noised data.
        precision: Of the network's products and convolutions in chains that generate, as in training; the energies of
            bfloat16 are too rough for a Metropolis test.
        compile: Whether to compile the steps of chains that generate, which takes half a minute the first time; those
            that come down noise levels go on uncompiled, and say so.
    """

    kernel: KernelFactory
    start: ChainInit
    steps: int = 200
    descent: DescentFactory | None = None
    tweedie: bool = False
    precision: Precision = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        check_count(steps=self.steps, most=1_000_000)
        self.kernel(zero_energy)  # a mistake in its settings is told before training, not after it
        if self.descent is not None:
            self.descend(zero_energy)

    def descend(self, energy: EnergyFn, steps: int | None = None) -> Kernel[Any]:
        """Return the transition that comes down the noise levels in so many steps, the recipe's when left out."""
        assert self.descent is not None
        with refused("[sampler]: descent"):
            return self.descent(energy, steps=self.steps if steps is None else steps)


@final
@dataclass(frozen=True, kw_only=True)
class Solving:
    """The ``[sampler]`` section of a denoiser: how to come down the noise levels, from noise to data.

    Args:
        solver: The step from one level to the next.
        grid: The levels.
        steps: Of the solver; some evaluate the denoiser more than once in each.
        guidance: How far beyond the conditional denoiser, away from the unconditional one, samples of a class are
            taken; 1 is the conditional denoiser as it is, none the same at half the cost.
        guided_from: Noise level above which there is no guidance, in units of ``x``; none guides all levels.
        precision: Of the network's products and convolutions in sampling, as in training; likelihoods are always in
            float32.
    """

    solver: SolverFactory
    grid: Grid
    steps: int = 18
    guidance: float | None = None
    guided_from: float | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_count(steps=self.steps, most=100_000)
        for name, value in (("guidance", self.guidance), ("guided_from", self.guided_from)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is at least 0; it was {value}")
        self.descend(_nothing)  # a mistake in its settings is told before training

    def levels(self, steps: int | None = None) -> list[float]:
        """Return the noise levels, falling, the last one 0."""
        return self.grid(self.steps if steps is None else steps)

    def evaluations(self, steps: int | None = None) -> int:
        """Return how often the denoiser is evaluated for a sample."""
        return self.descend(_nothing, steps).nfe

    def descend(self, denoise: DenoiseFn, steps: int | None = None) -> Solver:
        """Return the solver of so many steps, the recipe's when left out."""
        with refused(f"[sampler]: {self.steps if steps is None else steps} steps"):
            return self.solver(denoise=denoise, sigmas=self.levels(steps))


def _nothing(x: Tensor, _: Tensor) -> Tensor:
    return x * 0


@final
@dataclass(frozen=True, kw_only=True)
class Guarding:
    """The ``[guard]`` section.

    Args:
        enabled: Whether anything is guarded; a run without trouble is the same either way.
        patience: Steps in a row with numbers that are not finite before a rollback.
        gradient_factor: How many times the usual gradient norm is too much.
        energy_factor: How many times the smallest gap and spread of the energies are too much.
        least_acceptance: Acceptance probability below which chains stand still.
        rollbacks: How many before the run stops.
    """

    enabled: bool = True
    patience: int = 3
    gradient_factor: float = 100.0
    energy_factor: float = 10_000.0
    least_acceptance: float = 0.02
    rollbacks: int = 5

    def __post_init__(self) -> None:
        if self.patience < 1 or self.rollbacks < 0 or not min(self.gradient_factor, self.energy_factor) > 1:
            raise ValueError(
                "patience ≥ 1, rollbacks ≥ 0, gradient_factor > 1 and energy_factor > 1; they were "
                f"{self.patience}, {self.rollbacks}, {self.gradient_factor} and {self.energy_factor}"
            )
        if not 0 <= self.least_acceptance < 1:
            raise ValueError(f"least_acceptance is a probability below 1; it was {self.least_acceptance}")

    def guards(self) -> list[Guard]:
        """Return the guards."""
        if not self.enabled:
            return []
        return usual(
            patience=self.patience,
            gradient_factor=self.gradient_factor,
            energy_factor=self.energy_factor,
            least_acceptance=self.least_acceptance,
        )
