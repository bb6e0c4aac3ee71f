"""The sections of a recipe that are not components: how to train, how to guard.

Their fields are a recipe's settings, like the parameters of a component.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, final

import torch

from energyscape.errors import UserError, check_count, check_positive, shortened
from energyscape.registry import UNITS, Samples
from energyscape.samplers.compiled import Compile
from energyscape.training import Guard
from energyscape.training.guards import usual
from energyscape.training.precision import Precision

MOST_THREADS: Final = 4 * (os.cpu_count() or 1)

MOST_SAMPLES: Final = 1e15

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Budget(NamedTuple):
    """The budget of training, in samples or seconds.

    Args:
        samples: Data points, or none.
        seconds: Seconds of training, or none.
        processor: Whether the seconds are processor time of all threads instead of wall time, so that other processes
            do not matter.
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
        budget: Budget of training: samples (400k, 1.5M), a time (60s, 10min), a time of the processor (60cpu-s) or
            epochs (20 epochs). Only runs whose budget is in samples or epochs give the same bits again, because the
            learning rate follows the budget.
        batch_size: Data points a step.
        flips: Mirror each image left to right, or not, with equal chances; not for digits or letters.
        learning_rate: Highest learning rate of Adam.
        beta1: Adam's decay of the gradient's mean; 0 for adversarially moving targets such as chains.
        beta2: Adam's decay of the gradient's square.
        warmup: Samples over which the learning rate rises from 0.
        decay: Shape of the fall of the learning rate to 0 over the budget.
        clip: Largest norm of the parameters' gradient.
        ema_half_life: Half-life of the averaged weights, in samples; none keeps no average.
        checkpoint_every: Samples between checkpoints.
        log_every: Steps between lines of the metrics.
        tensorboard: Write the metrics for TensorBoard too, into the run's folder.
        frames: Number of times during training to store samples of the model: for a film of a law in the plane, or as
            pictures, from the same noise every time.
        seed: Seed of all random streams.
        precision: Precision of products and convolutions in training: float32, bfloat16, or auto, which is bfloat16
            where the hardware multiplies it.
        compile: Whether to compile the network of a denoiser that is no energy (others are differentiated twice, or by
            chains). auto compiles on a GPU if two minutes of training are left.
        device: Device of training: auto uses a GPU if available.
        threads: Processor threads of the whole process; torch's own choice by default. Small networks are fastest
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
        """Device of training and inference: a GPU if available, unless the setting is cpu."""
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    def rate_factor(self, progress: float, samples: int) -> float:
        """Return the factor on the learning rate."""
        rising = min(1.0, (samples + self.batch_size) / self.warmup) if self.warmup else 1.0
        falling = {"none": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[self.decay]
        return rising * falling


@final
@dataclass(frozen=True, kw_only=True)
class Guarding:
    """The ``[guard]`` section.

    Args:
        enabled: Whether anything is guarded; a run without trouble is the same either way.
        patience: Steps in a row with numbers that are not finite before a rollback.
        gradient_factor: Multiple of the usual gradient norm that is too large.
        energy_factor: Multiple of the smallest gap and spread of the energies that is too large.
        least_acceptance: Acceptance probability below which chains stand still.
        rollbacks: Rollbacks before the run stops.
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
