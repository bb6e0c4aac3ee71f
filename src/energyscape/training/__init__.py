"""The training loop, its guards and its snapshots."""

from energyscape.training.averages import averaged
from energyscape.training.fit import Fit, fit
from energyscape.training.guards import (
    CollapsedChains,
    DegenerateData,
    Finite,
    GradientNorm,
    Guard,
    Judgement,
    LostChains,
    Report,
    RunawayChains,
    RunawayEnergies,
    StandingChains,
    StepSize,
    StrongRegulariser,
    Verdict,
)
from energyscape.training.snapshot import Snapshot

__all__ = [
    "CollapsedChains",
    "DegenerateData",
    "Finite",
    "Fit",
    "GradientNorm",
    "Guard",
    "Judgement",
    "LostChains",
    "Report",
    "RunawayChains",
    "RunawayEnergies",
    "Snapshot",
    "StandingChains",
    "StepSize",
    "StrongRegulariser",
    "Verdict",
    "averaged",
    "fit",
]
