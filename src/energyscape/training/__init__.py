"""The training loop, its guards, and everything a run is."""

from energyscape.training.averages import averaged
from energyscape.training.fit import Fit, fit
from energyscape.training.guards import (
    Finite,
    GradientNorm,
    Guard,
    Judgement,
    Report,
    RunawayEnergies,
    StandingChains,
    Verdict,
)
from energyscape.training.snapshot import Snapshot

__all__ = [
    "Finite",
    "Fit",
    "GradientNorm",
    "Guard",
    "Judgement",
    "Report",
    "RunawayEnergies",
    "Snapshot",
    "StandingChains",
    "Verdict",
    "averaged",
    "fit",
]
