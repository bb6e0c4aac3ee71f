"""Markov kernels, and the loop that drives them."""

from energyscape.registry import Registry
from energyscape.samplers.annealed import AnnealedLangevin
from energyscape.samplers.base import Chain, Info, Kernel, KernelFactory, Point, run, sample, simulate
from energyscape.samplers.hmc import HMC
from energyscape.samplers.langevin import MALA, GradientDescent, Langevin
from energyscape.samplers.recovery import DescentFactory, RecoveryDescent
from energyscape.samplers.tempering import ParallelTempering
from energyscape.samplers.underdamped import UnderdampedLangevin
from energyscape.samplers.warmup import Adapted, warmup

KERNELS = Registry(
    "sampler",
    {
        "langevin": Langevin,
        "mala": MALA,
        "hmc": HMC,
        "underdamped": UnderdampedLangevin,
        "gd": GradientDescent,
        "annealed": AnnealedLangevin,
        "tempering": ParallelTempering,
    },
    kind=KernelFactory,
    late=("energy",),
)
DESCENTS = Registry("descent", {"recovery": RecoveryDescent}, kind=DescentFactory, late=("energy", "steps"))
"""Kernels that come down the noise levels of an energy denoiser."""

__all__ = [
    "DESCENTS",
    "HMC",
    "KERNELS",
    "MALA",
    "Adapted",
    "AnnealedLangevin",
    "Chain",
    "DescentFactory",
    "GradientDescent",
    "Info",
    "Kernel",
    "KernelFactory",
    "Langevin",
    "ParallelTempering",
    "Point",
    "RecoveryDescent",
    "UnderdampedLangevin",
    "run",
    "sample",
    "simulate",
    "warmup",
]
