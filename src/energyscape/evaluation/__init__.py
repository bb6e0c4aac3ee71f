"""Metrics with standard errors, robust against broken models."""

from energyscape.evaluation.annealing import Base, Path, pilot
from energyscape.evaluation.chains import Diagnosis, acceptance, diagnose
from energyscape.evaluation.classifier import Classifier, classifier_for
from energyscape.evaluation.detection import (
    DensityOfStates,
    Detection,
    aupr,
    fpr_at,
    outliers,
    overlap,
    trivial_scores,
)
from energyscape.evaluation.discrepancies import (
    Discrepancy,
    SteinDiscrepancy,
    energy_distance,
    kernel_stein,
    mmd,
    sliced_wasserstein,
)
from energyscape.evaluation.distances import auc, haze, nearest
from energyscape.evaluation.exact import Divergence, LogZ, kl, log_z, mode_masses, total_variation
from energyscape.evaluation.feature_distances import Frechet, frechet_distance, kernel_distance
from energyscape.evaluation.flow_likelihood import (
    FlowLikelihood,
    ProbabilityFlow,
    flow_likelihood,
    image_likelihood,
)
from energyscape.evaluation.inception import Inception, read_inception
from energyscape.evaluation.likelihood import Annealed, Bracket, bracket, forward_ais, reverse_ais
from energyscape.evaluation.recognition import Recognition, recognise
from energyscape.evaluation.restoration import (
    calibrated_denoiser,
    calibrated_step,
    inpaint,
    median_filtered,
    psnr,
    restore,
    ssim,
)

__all__ = [
    "Annealed",
    "Base",
    "Bracket",
    "Classifier",
    "DensityOfStates",
    "Detection",
    "Diagnosis",
    "Discrepancy",
    "Divergence",
    "FlowLikelihood",
    "Frechet",
    "Inception",
    "LogZ",
    "Path",
    "ProbabilityFlow",
    "Recognition",
    "SteinDiscrepancy",
    "acceptance",
    "auc",
    "aupr",
    "bracket",
    "calibrated_denoiser",
    "calibrated_step",
    "classifier_for",
    "diagnose",
    "energy_distance",
    "flow_likelihood",
    "forward_ais",
    "fpr_at",
    "frechet_distance",
    "haze",
    "image_likelihood",
    "inpaint",
    "kernel_distance",
    "kernel_stein",
    "kl",
    "log_z",
    "median_filtered",
    "mmd",
    "mode_masses",
    "nearest",
    "outliers",
    "overlap",
    "pilot",
    "psnr",
    "read_inception",
    "recognise",
    "restore",
    "reverse_ais",
    "sliced_wasserstein",
    "ssim",
    "total_variation",
    "trivial_scores",
]
