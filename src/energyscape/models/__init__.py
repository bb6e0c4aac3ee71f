"""Energies, and the networks inside them."""

from energyscape.models.analytic import Gaussian, GaussianBernoulliRBM, GaussianMixture
from energyscape.models.denoiser import (
    AtLevel,
    CleanEnergyDenoiser,
    Denoiser,
    EnergyDenoiser,
    NoiseNetwork,
    ScalarEnergyDenoiser,
)
from energyscape.models.energy import Energy, Network, NeuralEnergy
from energyscape.models.networks import MLP, ConvEnergyNet, NoiseMLP, ResidualEnergyNet
from energyscape.models.noise_networks import NoiseConvNet
from energyscape.registry import Registry

ENERGIES = Registry("model", {"neural": NeuralEnergy}, kind=Energy)
DENOISERS = Registry(
    "model", {"energy-denoiser": ScalarEnergyDenoiser, "clean-denoiser": CleanEnergyDenoiser}, kind=Denoiser
)
MODELS = Registry("model", {**ENERGIES, **DENOISERS})
"""Whatever an objective may train."""

NETWORKS = Registry("network", {"mlp": MLP, "conv": ConvEnergyNet, "residual": ResidualEnergyNet}, kind=Network)
NOISE_NETWORKS = Registry("network", {"noise-mlp": NoiseMLP, "noise-conv": NoiseConvNet}, kind=NoiseNetwork)
"""Networks that are told the noise level."""

__all__ = [
    "DENOISERS",
    "ENERGIES",
    "MLP",
    "MODELS",
    "NETWORKS",
    "NOISE_NETWORKS",
    "AtLevel",
    "CleanEnergyDenoiser",
    "ConvEnergyNet",
    "Denoiser",
    "Energy",
    "EnergyDenoiser",
    "Gaussian",
    "GaussianBernoulliRBM",
    "GaussianMixture",
    "Network",
    "NeuralEnergy",
    "NoiseConvNet",
    "NoiseMLP",
    "NoiseNetwork",
    "ResidualEnergyNet",
    "ScalarEnergyDenoiser",
]
