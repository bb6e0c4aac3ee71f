"""Energies, and the networks inside them."""

from energyscape.models.algebra import (
    Composed,
    ComposedLevels,
    Mixture,
    Negation,
    Product,
    Rule,
    ScoreSum,
    Tempering,
)
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
from energyscape.models.exact_denoisers import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from energyscape.models.guidance import Autoguided, Conditional, ConditionalEnergy, Guided
from energyscape.models.heads import InnerProduct, Reconstruction
from energyscape.models.networks import MLP, ConvEnergyNet, NoiseMLP, ResidualEnergyNet
from energyscape.models.noise_networks import NoiseConvNet
from energyscape.models.preconditioning import (
    EDM,
    Clean,
    DenoisingNetwork,
    Epsilon,
    Flow,
    NetworkDenoiser,
    Preconditioning,
    Score,
    Velocity,
)
from energyscape.models.score_networks import DenoisingMLP, DenoisingResNet
from energyscape.models.unet import UNet
from energyscape.registry import Registry

ENERGIES = Registry("model", {"neural": NeuralEnergy}, kind=Energy)
DENOISERS = Registry(
    "model",
    {"denoiser": NetworkDenoiser, "energy-denoiser": ScalarEnergyDenoiser, "clean-denoiser": CleanEnergyDenoiser},
    kind=Denoiser,
)
PRECONDITIONINGS = Registry(
    "preconditioning",
    {"edm": EDM, "epsilon": Epsilon, "velocity": Velocity, "clean": Clean, "score": Score, "flow": Flow},
    kind=Preconditioning,
)
MODELS = Registry("model", {**ENERGIES, **DENOISERS})
"""Models that an objective may train."""

NETWORKS = Registry("network", {"mlp": MLP, "conv": ConvEnergyNet, "residual": ResidualEnergyNet}, kind=Network)
NOISE_NETWORKS = Registry(
    "network",
    {
        "noise-mlp": NoiseMLP,
        "noise-conv": NoiseConvNet,
        "inner-product": InnerProduct,
        "reconstruction": Reconstruction,
    },
    kind=NoiseNetwork,
)
"""Networks that are conditioned on the noise level."""
DENOISING_NETWORKS = Registry(
    "network", {"unet": UNet, "resnet": DenoisingResNet, "mlp": DenoisingMLP}, kind=DenoisingNetwork
)
"""Networks from points to points, conditioned on the noise level and the class."""

__all__ = [
    "DENOISERS",
    "DENOISING_NETWORKS",
    "EDM",
    "ENERGIES",
    "MLP",
    "MODELS",
    "NETWORKS",
    "NOISE_NETWORKS",
    "PRECONDITIONINGS",
    "AtLevel",
    "Autoguided",
    "Clean",
    "CleanEnergyDenoiser",
    "Composed",
    "ComposedLevels",
    "Conditional",
    "ConditionalEnergy",
    "ConvEnergyNet",
    "Denoiser",
    "DenoisingMLP",
    "DenoisingNetwork",
    "DenoisingResNet",
    "EmpiricalDenoiser",
    "Energy",
    "EnergyDenoiser",
    "Epsilon",
    "Flow",
    "Gaussian",
    "GaussianBernoulliRBM",
    "GaussianDenoiser",
    "GaussianMixture",
    "Guided",
    "InnerProduct",
    "Mixture",
    "MixtureDenoiser",
    "Negation",
    "Network",
    "NetworkDenoiser",
    "NeuralEnergy",
    "NoiseConvNet",
    "NoiseMLP",
    "NoiseNetwork",
    "Preconditioning",
    "Product",
    "Reconstruction",
    "ResidualEnergyNet",
    "Rule",
    "ScalarEnergyDenoiser",
    "Score",
    "ScoreSum",
    "Tempering",
    "UNet",
    "Velocity",
]
