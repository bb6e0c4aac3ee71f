"""Divergence of an energy in the plane from the truth, by quadrature."""

from typing import final

from energyscape.calculus import EnergyFn
from energyscape.data import Distribution
from energyscape.evaluation import kl, mode_masses, total_variation
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.metric import Measure, Metric

QUADRATURE = "Gauss-Legendre quadrature; error: half the nodes"


class InThePlane(Measure):
    """Numbers that compare an energy with a known density."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.source.density is not None and evidence.trained.energy is not None


def truth(evidence: Evidence) -> Distribution:
    """Return the known density."""
    assert evidence.source.density is not None
    return evidence.source.density


@final
class KL(InThePlane):
    """Kullback-Leibler divergence of the model from the data, and the mass at the edge of the box."""

    def measure(self, evidence: Evidence) -> list[Metric]:
        trained = evidence.trained
        divergence = kl(truth(evidence), trained.require_energy(), temperature=trained.temperature)
        edge = "of the model, in the box's rim; KL holds where it is small"
        return [
            Metric("KL(data‖model)", divergence.value, divergence.error, QUADRATURE, unit="nats", better="lower"),
            Metric("mass at the edge", divergence.edge_mass, None, edge, better="lower"),
        ]


@final
class TotalVariation(InThePlane):
    """Total variation between the densities of data and model."""

    def measure(self, evidence: Evidence) -> list[Metric]:
        trained = evidence.trained
        found = total_variation(truth(evidence), trained.require_energy(), temperature=trained.temperature)
        protocol = f"between the densities; {QUADRATURE}"
        return [Metric("total variation", found.value, found.error, protocol, better="lower")]


@final
class Modes(InThePlane):
    """Mass of the mode that got the least of its share."""

    def applies(self, evidence: Evidence) -> bool:
        return super().applies(evidence) and truth(evidence).modes is not None

    def measure(self, evidence: Evidence) -> list[Metric]:
        protocol, trained = "its mass over what it should be; 1 is right", evidence.trained
        shares = mode_shares(truth(evidence), trained.require_energy(), temperature=trained.temperature)
        return [Metric("worst mode", min(shares), None, protocol, better="near 1")]


def mode_shares(law: Distribution, energy: EnergyFn, *, temperature: float) -> list[float]:
    """Return the mass of each mode under the model over its true mass."""
    masses = mode_masses(law, energy, temperature=temperature)
    shares: list[float] = (masses / mode_masses(law, lambda x: -law.log_prob(x))).tolist()
    return shares
