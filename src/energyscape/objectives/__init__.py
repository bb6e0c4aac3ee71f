"""What training minimises, and where negative chains begin."""

from energyscape.objectives.base import Loss, Objective
from energyscape.objectives.contrastive import ContrastiveDivergence
from energyscape.objectives.denoising import (
    Denoising,
    DenoisingScoreMatching,
    MultiscaleDenoisingScoreMatching,
    UncertaintyWeightedDenoising,
)
from energyscape.objectives.levels import (
    ChainLevels,
    CleanWeight,
    CosineLevels,
    EDMWeight,
    FlowLevels,
    FlowWeight,
    Ladder,
    Levels,
    LogNormal,
    LogUniform,
    MinSNRWeight,
    NoiseWeight,
    VelocityWeight,
    Weight,
)
from energyscape.objectives.noise_contrastive import EnergyDiscrepancy, NoiseContrastiveEstimation, RankingNCE
from energyscape.objectives.recovery import DiffusionRecoveryLikelihood
from energyscape.objectives.score_matching import (
    FiniteDifferenceScoreMatching,
    ScoreMatching,
    SlicedScoreMatching,
    SlicedScoreMatchingVR,
)
from energyscape.objectives.starts import Constant, Data, Mixture, Noise, ReplayBuffer, Start
from energyscape.objectives.weighted import NoiseContrastiveScoreMatching, Weighted
from energyscape.registry import Registry

STARTS = Registry(
    "start",
    {"data": Data, "noise": Noise, "constant": Constant, "buffer": ReplayBuffer, "mixture": Mixture},
    kind=Start,
)

LEVELS = Registry(
    "law of noise levels",
    {
        "log-normal": LogNormal,
        "log-uniform": LogUniform,
        "ladder": Ladder,
        "chain": ChainLevels,
        "cosine": CosineLevels,
        "flow": FlowLevels,
    },
    kind=Levels,
)
WEIGHTS = Registry(
    "weight",
    {
        "edm": EDMWeight,
        "noise": NoiseWeight,
        "velocity": VelocityWeight,
        "clean": CleanWeight,
        "flow": FlowWeight,
        "min-snr": MinSNRWeight,
    },
    kind=Weight,
)

OBJECTIVES = Registry(
    "objective",
    {
        "cd": ContrastiveDivergence,
        "dsm": DenoisingScoreMatching,
        "msdsm": MultiscaleDenoisingScoreMatching,
        "denoising": Denoising,
        "uncertain-denoising": UncertaintyWeightedDenoising,
        "drl": DiffusionRecoveryLikelihood,
        "sm": ScoreMatching,
        "ssm": SlicedScoreMatching,
        "ssm-vr": SlicedScoreMatchingVR,
        "fd-ssm": FiniteDifferenceScoreMatching,
        "nce": NoiseContrastiveEstimation,
        "ranking-nce": RankingNCE,
        "ed": EnergyDiscrepancy,
        "nce-ssm": NoiseContrastiveScoreMatching,
        "weighted": Weighted,
    },
    kind=Objective,
)

__all__ = [
    "LEVELS",
    "OBJECTIVES",
    "STARTS",
    "WEIGHTS",
    "ChainLevels",
    "CleanWeight",
    "Constant",
    "ContrastiveDivergence",
    "CosineLevels",
    "Data",
    "Denoising",
    "DenoisingScoreMatching",
    "DiffusionRecoveryLikelihood",
    "EDMWeight",
    "EnergyDiscrepancy",
    "FiniteDifferenceScoreMatching",
    "FlowLevels",
    "FlowWeight",
    "Ladder",
    "Levels",
    "LogNormal",
    "LogUniform",
    "Loss",
    "MinSNRWeight",
    "Mixture",
    "MultiscaleDenoisingScoreMatching",
    "Noise",
    "NoiseContrastiveEstimation",
    "NoiseContrastiveScoreMatching",
    "NoiseWeight",
    "Objective",
    "RankingNCE",
    "ReplayBuffer",
    "ScoreMatching",
    "SlicedScoreMatching",
    "SlicedScoreMatchingVR",
    "Start",
    "UncertaintyWeightedDenoising",
    "VelocityWeight",
    "Weight",
    "Weighted",
]
