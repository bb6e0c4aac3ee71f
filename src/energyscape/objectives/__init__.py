"""Objectives of training, and the starting points of negative chains."""

from energyscape.objectives.base import Loss, Objective
from energyscape.objectives.chain_init import ChainInit, ConstantInit, DataInit, MixtureInit, NoiseInit, ReplayBuffer
from energyscape.objectives.contrastive import ContrastiveDivergence
from energyscape.objectives.denoising import (
    Denoising,
    DenoisingScoreMatching,
    MultiscaleDenoisingScoreMatching,
    UncertaintyWeightedDenoising,
)
from energyscape.objectives.level_weights import (
    CleanWeight,
    EDMWeight,
    FlowWeight,
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
from energyscape.objectives.weighted import NoiseContrastiveScoreMatching, Weighted
from energyscape.registry import Registry

STARTS = Registry(
    "start",
    {"data": DataInit, "noise": NoiseInit, "constant": ConstantInit, "buffer": ReplayBuffer, "mixture": MixtureInit},
    kind=ChainInit,
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
    "OBJECTIVES",
    "STARTS",
    "WEIGHTS",
    "ChainInit",
    "CleanWeight",
    "ConstantInit",
    "ContrastiveDivergence",
    "DataInit",
    "Denoising",
    "DenoisingScoreMatching",
    "DiffusionRecoveryLikelihood",
    "EDMWeight",
    "EnergyDiscrepancy",
    "FiniteDifferenceScoreMatching",
    "FlowWeight",
    "Loss",
    "MinSNRWeight",
    "MixtureInit",
    "MultiscaleDenoisingScoreMatching",
    "NoiseContrastiveEstimation",
    "NoiseContrastiveScoreMatching",
    "NoiseInit",
    "NoiseWeight",
    "Objective",
    "RankingNCE",
    "ReplayBuffer",
    "ScoreMatching",
    "SlicedScoreMatching",
    "SlicedScoreMatchingVR",
    "UncertaintyWeightedDenoising",
    "VelocityWeight",
    "Weight",
    "Weighted",
]
