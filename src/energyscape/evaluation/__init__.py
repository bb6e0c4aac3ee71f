"""Honest measures: each with its error, none that a broken model can please by accident."""

from energyscape.evaluation.annealing import Base, Path, pilot
from energyscape.evaluation.chains import Diagnosis, acceptance, diagnose
from energyscape.evaluation.discrepancies import (
    Discrepancy,
    SteinDiscrepancy,
    energy_distance,
    kernel_stein,
    mmd,
    sliced_wasserstein,
)
from energyscape.evaluation.distances import auc, nearest
from energyscape.evaluation.exact import Divergence, LogZ, kl, log_z, mode_masses, total_variation
from energyscape.evaluation.likelihood import Annealed, Bracket, bracket, forward_ais, reverse_ais
from energyscape.evaluation.recognition import Judge, Recognition, recognise
from energyscape.evaluation.restoration import psnr, restore

__all__ = [
    "Annealed",
    "Base",
    "Bracket",
    "Diagnosis",
    "Discrepancy",
    "Divergence",
    "Judge",
    "LogZ",
    "Path",
    "Recognition",
    "SteinDiscrepancy",
    "acceptance",
    "auc",
    "bracket",
    "diagnose",
    "energy_distance",
    "forward_ais",
    "kernel_stein",
    "kl",
    "log_z",
    "mmd",
    "mode_masses",
    "nearest",
    "pilot",
    "psnr",
    "recognise",
    "restore",
    "reverse_ais",
    "sliced_wasserstein",
    "total_variation",
]
