"""Similarity of samples and held-out points, for points that are no images."""

from abc import abstractmethod
from typing import Any, final

from torch import Tensor

from energyscape.evaluation import energy_distance, mmd, sliced_wasserstein
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.metric import Measure, Metric


class TwoSamples(Measure):
    """A discrepancy of samples and as many held-out points, estimated without bias: 0 if they are alike."""

    name: str

    def applies(self, evidence: Evidence) -> bool:
        return not evidence.source.space.is_image

    def measure(self, evidence: Evidence) -> list[Metric]:
        y = evidence.held_out.draw(evidence.n, generator=evidence.stream("law"))
        found = self.compare(evidence.generated.x, y, evidence)
        protocol = f"{evidence.protocol}, and {evidence.n:,} of the data; 0: alike"
        return [Metric(self.name, found.value, found.error, protocol, better="lower")]

    @abstractmethod
    def compare(self, x: Tensor, y: Tensor, evidence: Evidence) -> Any:
        """Return the discrepancy with its error."""


@final
class MMD(TwoSamples):
    """Squared maximum mean discrepancy."""

    name = "MMD²"

    def compare(self, x: Tensor, y: Tensor, evidence: Evidence) -> Any:
        return mmd(x, y)


@final
class EnergyDistance(TwoSamples):
    """Energy distance."""

    name = "energy distance"

    def compare(self, x: Tensor, y: Tensor, evidence: Evidence) -> Any:
        return energy_distance(x, y)


@final
class SlicedWasserstein(TwoSamples):
    """Squared sliced Wasserstein distance."""

    name = "sliced Wasserstein²"

    def compare(self, x: Tensor, y: Tensor, evidence: Evidence) -> Any:
        return sliced_wasserstein(x, y, generator=evidence.stream("slices"))
