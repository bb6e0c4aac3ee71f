"""What training minimises, and where negative chains begin."""

from energyscape.objectives.base import Loss, Objective
from energyscape.objectives.contrastive import ContrastiveDivergence
from energyscape.objectives.denoising import DenoisingScoreMatching, MultiscaleDenoisingScoreMatching
from energyscape.objectives.noise_contrastive import EnergyDiscrepancy, NoiseContrastiveEstimation, RankingNCE
from energyscape.objectives.recovery import DiffusionRecoveryLikelihood
from energyscape.objectives.score_matching import (
    FiniteDifferenceScoreMatching,
    ScoreMatching,
    SlicedScoreMatching,
    SlicedScoreMatchingVR,
)
from energyscape.objectives.starts import Constant, Data, Mixture, Noise, ReplayBuffer, Start
from energyscape.registry import Registry

STARTS = Registry(
    "start",
    {"data": Data, "noise": Noise, "constant": Constant, "buffer": ReplayBuffer, "mixture": Mixture},
    kind=Start,
)

OBJECTIVES = Registry(
    "objective",
    {
        "cd": ContrastiveDivergence,
        "dsm": DenoisingScoreMatching,
        "msdsm": MultiscaleDenoisingScoreMatching,
        "drl": DiffusionRecoveryLikelihood,
        "sm": ScoreMatching,
        "ssm": SlicedScoreMatching,
        "ssm-vr": SlicedScoreMatchingVR,
        "fd-ssm": FiniteDifferenceScoreMatching,
        "nce": NoiseContrastiveEstimation,
        "ranking-nce": RankingNCE,
        "ed": EnergyDiscrepancy,
    },
    kind=Objective,
)

__all__ = [
    "OBJECTIVES",
    "STARTS",
    "Constant",
    "ContrastiveDivergence",
    "Data",
    "DenoisingScoreMatching",
    "DiffusionRecoveryLikelihood",
    "EnergyDiscrepancy",
    "FiniteDifferenceScoreMatching",
    "Loss",
    "Mixture",
    "MultiscaleDenoisingScoreMatching",
    "Noise",
    "NoiseContrastiveEstimation",
    "Objective",
    "RankingNCE",
    "ReplayBuffer",
    "ScoreMatching",
    "SlicedScoreMatching",
    "SlicedScoreMatchingVR",
    "Start",
]
