"""Markov kernels, and the loop that drives them."""

from energyscape.registry import Registry
from energyscape.samplers.annealed import AnnealedLangevin
from energyscape.samplers.base import Info, Kernel, KernelFactory, Point
from energyscape.samplers.compiled import Steps
from energyscape.samplers.diffusion import DDIM, DDPM, Euler, Solution, Solver, SolverFactory, solve
from energyscape.samplers.driver import Chain, run, sample, simulate
from energyscape.samplers.hmc import HMC
from energyscape.samplers.ladder import Rested, descend
from energyscape.samplers.langevin import MALA, GradientDescent, Langevin
from energyscape.samplers.noise_langevin import ConsistentAnnealedLangevin, NoiseAnnealedLangevin, PredictorCorrector
from energyscape.samplers.posterior import levels_from, repaint
from energyscape.samplers.recovery import DescentFactory, RecoveryDescent
from energyscape.samplers.second_order import DPMSolver, DPMSolverSDE, Heun
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
"""Kernels that descend the noise levels of an energy denoiser."""

SOLVERS = Registry(
    "solver",
    {
        "euler": Euler,
        "ddim": DDIM,
        "ddpm": DDPM,
        "heun": Heun,
        "dpm++": DPMSolver,
        "dpm++-sde": DPMSolverSDE,
        "pc": PredictorCorrector,
        "ald": NoiseAnnealedLangevin,
        "ald-consistent": ConsistentAnnealedLangevin,
    },
    kind=SolverFactory,
    late=("denoise", "sigmas"),
)
"""Ways down the noise levels of any denoiser."""

__all__ = [
    "DDIM",
    "DDPM",
    "DESCENTS",
    "HMC",
    "KERNELS",
    "MALA",
    "SOLVERS",
    "Adapted",
    "AnnealedLangevin",
    "Chain",
    "ConsistentAnnealedLangevin",
    "DPMSolver",
    "DPMSolverSDE",
    "DescentFactory",
    "Euler",
    "GradientDescent",
    "Heun",
    "Info",
    "Kernel",
    "KernelFactory",
    "Langevin",
    "NoiseAnnealedLangevin",
    "ParallelTempering",
    "Point",
    "PredictorCorrector",
    "RecoveryDescent",
    "Rested",
    "Solution",
    "Solver",
    "SolverFactory",
    "Steps",
    "UnderdampedLangevin",
    "descend",
    "levels_from",
    "repaint",
    "run",
    "sample",
    "simulate",
    "solve",
    "warmup",
]
