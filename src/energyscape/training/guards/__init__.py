"""Guards: what looks at a training step's report and says whether to go on, and what to change."""

from energyscape.training.guards.base import NOTHING, SLOWER, Guard, Judgement, Report, Verdict
from energyscape.training.guards.chains import CollapsedChains, DegenerateData, LostChains, StandingChains, StepSize
from energyscape.training.guards.numbers import Finite, GradientNorm, RunawayEnergies


def usual() -> list[Guard]:
    """Returns one of each guard, with its defaults."""
    return [
        Finite(),
        GradientNorm(),
        RunawayEnergies(),
        StandingChains(),
        StepSize(),
        LostChains(),
        CollapsedChains(),
        DegenerateData(),
    ]


__all__ = [
    "NOTHING",
    "SLOWER",
    "CollapsedChains",
    "DegenerateData",
    "Finite",
    "GradientNorm",
    "Guard",
    "Judgement",
    "LostChains",
    "Report",
    "RunawayEnergies",
    "StandingChains",
    "StepSize",
    "Verdict",
    "usual",
]
