"""Markov kernels, and the loop that drives them."""

from energyscape.registry import Registry
from energyscape.samplers.annealed import AnnealedLangevin
from energyscape.samplers.base import Chain, Info, Kernel, KernelFactory, Point, run, sample, simulate
from energyscape.samplers.hmc import HMC
from energyscape.samplers.langevin import MALA, GradientDescent, Langevin
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

__all__ = [
    "HMC",
    "KERNELS",
    "MALA",
    "Adapted",
    "AnnealedLangevin",
    "Chain",
    "GradientDescent",
    "Info",
    "Kernel",
    "KernelFactory",
    "Langevin",
    "ParallelTempering",
    "Point",
    "UnderdampedLangevin",
    "run",
    "sample",
    "simulate",
    "warmup",
]
