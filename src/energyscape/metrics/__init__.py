"""Measured numbers of trained runs, each with its error and protocol."""

from energyscape.metrics.chains import Acceptance, EnergiesAlike
from energyscape.metrics.denoisers import Classes, Likelihood
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.images import Features, Haze, InceptionFeatures, Recognised, TrainingDistance
from energyscape.metrics.metric import Measure, Metric
from energyscape.metrics.ood import Outliers
from energyscape.metrics.plane import KL, Modes, TotalVariation
from energyscape.metrics.points import MMD, EnergyDistance, SlicedWasserstein
from energyscape.metrics.restoration import Restoration
from energyscape.registry import Registry

METRICS = Registry(
    "metric",
    {
        "kl": KL,
        "total-variation": TotalVariation,
        "modes": Modes,
        "mmd": MMD,
        "energy-distance": EnergyDistance,
        "sliced-wasserstein": SlicedWasserstein,
        "recognised": Recognised,
        "features": Features,
        "inception": InceptionFeatures,
        "classes": Classes,
        "training-distance": TrainingDistance,
        "haze": Haze,
        "energies": EnergiesAlike,
        "likelihood": Likelihood,
        "acceptance": Acceptance,
        "restoration": Restoration,
        "outliers": Outliers,
    },
    kind=Measure,
)
"""Measures by the name that ``energyscape evaluate --only`` takes, in the order in which they are shown."""

__all__ = ["METRICS", "Evidence", "Measure", "Metric"]
