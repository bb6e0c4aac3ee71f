"""One measured number, and what measures some."""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from energyscape.metrics.evidence import Evidence


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of independent values and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


class Metric(NamedTuple):
    """One measured number.

    Args:
        name: Name of the measured quantity.
        value: The number.
        error: Its standard error, or an estimate of the numerical error; None if there is none to give.
        protocol: The protocol, in one line.
        unit: Unit of value and error; empty for a pure number.
        better: The better direction: ``"lower"``, ``"higher"``, ``"near 1"`` or such; empty for a reference value.
        biased: Whether few samples bias the number, so that only equal numbers of samples compare.
    """

    name: str
    value: float
    error: float | None
    protocol: str
    unit: str = ""
    better: str = ""
    biased: bool = False

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def shown(self) -> str:
        """The value for people."""
        return f"{self.value:.4g}"

    @property
    def shown_error(self) -> str:
        """The error for people."""
        return "" if self.error is None else f"{self.error:.2g}"


class Measure(ABC):
    """One entry of `METRICS`: a family of numbers that belong together."""

    @abstractmethod
    def applies(self, evidence: "Evidence") -> bool:
        """Return whether the numbers mean something for a run."""

    @abstractmethod
    def measure(self, evidence: "Evidence") -> list[Metric]:
        """Return the numbers."""
