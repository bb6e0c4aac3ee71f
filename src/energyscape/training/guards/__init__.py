"""Guards: checks of each training step that decide how to go on, and which settings to change."""

from energyscape.training.guards.base import GO, NOTHING, SLOWER, Guard, Judgement, Report, Verdict
from energyscape.training.guards.chains import (
    CollapsedChains,
    DegenerateData,
    LostChains,
    RunawayChains,
    StrongRegulariser,
)
from energyscape.training.guards.numbers import Finite, GradientNorm, RunawayEnergies
from energyscape.training.guards.remedies import Remedies
from energyscape.training.guards.steps import StandingChains, StepSize


def usual(
    *,
    patience: int = 3,
    gradient_factor: float = 100.0,
    energy_factor: float = 10_000.0,
    least_acceptance: float = 0.02,
) -> list[Guard]:
    """Return one of each guard."""
    return [
        Finite(patience=patience),
        GradientNorm(factor=gradient_factor),
        RunawayEnergies(factor=energy_factor),
        StandingChains(least=least_acceptance),
        StepSize(),
        LostChains(),
        RunawayChains(),
        StrongRegulariser(),
        CollapsedChains(),
        DegenerateData(),
    ]


__all__ = [
    "GO",
    "NOTHING",
    "SLOWER",
    "CollapsedChains",
    "DegenerateData",
    "Finite",
    "GradientNorm",
    "Guard",
    "Judgement",
    "LostChains",
    "Remedies",
    "Report",
    "RunawayChains",
    "RunawayEnergies",
    "StandingChains",
    "StepSize",
    "StrongRegulariser",
    "Verdict",
    "usual",
]
