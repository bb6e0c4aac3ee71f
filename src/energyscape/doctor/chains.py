"""The chains of a run, as the doctor reproduces them."""

import math
from typing import Any, Final, NamedTuple

from energyscape.calculus import EnergyFn
from energyscape.doctor.record import Record
from energyscape.samplers import Langevin
from energyscape.samplers.base import Walls

LONGEST: Final = 600
"""Steps of a probe's longest chain."""


class Chains(NamedTuple):
    """Settings of the chains of training, or of generation if training has none."""

    step_size: float  # \eta > 0, in squared units of ``x``
    temperature: float = 1.0  # T \ge 0
    drift_clip: float | None = None  # Largest element of the drift, in units of ``x``
    bounds: tuple[float, float] | None = None  # Lowest and highest value of an element of ``x``
    walls: Walls = "clamp"  # Effect of the walls on a step beyond them
    steps: int = 20  # Transitions in a training step, or of generation if training has none
    sampler_steps: int = 200  # Transitions from noise to a sample

    @property
    def noise(self) -> float:
        r"""Standard deviation :math:`\sqrt{2 \eta T}` of one step's noise."""
        return math.sqrt(2 * self.step_size * self.temperature)

    @property
    def long(self) -> int:
        """Steps of a long chain: ten times as many as in training, and no fewer than a sample takes."""
        return min(max(10 * self.steps, self.sampler_steps), LONGEST)

    def kernel(self, energy: EnergyFn, *, temperature: float | None = None) -> Langevin:
        """Return the transition."""
        t = self.temperature if temperature is None else temperature
        limits: dict[str, Any] = {"drift_clip": self.drift_clip, "bounds": self.bounds, "walls": self.walls}
        return Langevin(energy, step_size=self.step_size, temperature=t, **limits)

    def record(self, **more: Any) -> Record:
        """Return the record of an untrained landscape, or one of unknown training, sampled by these chains.

        Examples:
            >>> Chains(step_size=0.1, temperature=50.0).record(objective="dsm").temperature
            50.0
        """
        return Record(
            kernel="langevin",
            chains="sampler",
            step_size=self.step_size,
            temperature=self.temperature,
            drift_clip=self.drift_clip,
            sampler_steps=self.sampler_steps,
            **more,
        )
