"""Cases, name → thunk: the tables that tests are parametrised with. Adding a component is one row.

A name is that of the registry, or ``name:variant`` for a second set of settings.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from energyscape.data import Banana, DoubleWell, EightGaussians, Funnel, GaussianGrid
from energyscape.models import (
    MLP,
    ConvEnergyNet,
    Energy,
    EnergyDenoiser,
    Gaussian,
    GaussianMixture,
    NeuralEnergy,
    NoiseMLP,
    ResidualEnergyNet,
    ScalarEnergyDenoiser,
)
from energyscape.objectives import (
    ConstantInit,
    ContrastiveDivergence,
    DataInit,
    Denoising,
    DenoisingScoreMatching,
    DiffusionRecoveryLikelihood,
    EDMWeight,
    EnergyDiscrepancy,
    FiniteDifferenceScoreMatching,
    MixtureInit,
    MultiscaleDenoisingScoreMatching,
    NoiseContrastiveEstimation,
    NoiseContrastiveScoreMatching,
    NoiseInit,
    NoiseWeight,
    RankingNCE,
    ReplayBuffer,
    ScoreMatching,
    SlicedScoreMatching,
    SlicedScoreMatchingVR,
    UncertaintyWeightedDenoising,
    Weighted,
)
from energyscape.objectives.weighted import narrow_variance
from energyscape.rng import global_seed
from energyscape.samplers import (
    HMC,
    MALA,
    AnnealedLangevin,
    GradientDescent,
    Langevin,
    ParallelTempering,
    UnderdampedLangevin,
)
from energyscape.schedules import Geometric

DEVICE = torch.device("cpu")
"""Set by ``pytest --device``."""

SHAPES = {"plane": (2,), "grey": (1, 8, 8), "colour": (3, 32, 32)}
"""Shapes of an event."""


def generator(seed=0):
    return torch.Generator(DEVICE).manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype, device=DEVICE)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def laid_out(shape, seed=0, dtype=torch.float64):
    """Points in three memory layouts: contiguous, the chains' dimension last, and channels last."""
    x = normal(6, *shape, seed=seed, dtype=dtype)
    turned = x.movedim(0, -1).contiguous().movedim(-1, 0)
    last = x.contiguous(memory_format=torch.channels_last) if len(shape) == 3 else x.t().contiguous().t()
    assert turned.stride() != x.stride() != last.stride()
    return x, turned, last


def z_score(values, truth=0.0):
    """Returns how many standard errors the mean of independent values lies from the truth.

    Five of them are passed by chance once in two million statistics.
    """
    values = values.double()
    return float((values.mean() - truth) / (values.std() / math.sqrt(len(values))))


class Quadratic(Energy):
    """E = p |x|² / 2: a normal law of variance 1 / p in any number of dimensions, with one parameter to learn."""

    def __init__(self, p, dtype=torch.float64):
        super().__init__()
        self.p = torch.nn.Parameter(torch.tensor(float(p), dtype=dtype, device=DEVICE))

    def forward(self, x, label=None):
        return self.p * x.flatten(1).square().sum(1) / 2


class QuadraticDenoiser(EnergyDenoiser):
    """E = |x|² / 2 (1 / p - level² + σ²): noised normal laws, of variance 1 / p at one level, with one parameter."""

    def __init__(self, p, level, dtype=torch.float64):
        super().__init__()
        self.p = torch.nn.Parameter(torch.tensor(float(p), dtype=dtype, device=DEVICE))
        self.level = level

    def energy(self, x, sigma, label=None):
        return x.flatten(1).square().sum(1) / (2 * (1 / self.p - self.level**2 + sigma**2))


class Counted:
    """An energy that counts how often it is called."""

    def __init__(self, energy):
        self.energy, self.calls = energy, 0

    def __call__(self, x):
        self.calls += 1
        return self.energy(x)


# --- targets: energies with exact draws, in float64 -------------------------------------------------------------------


class Target(NamedTuple):
    """An energy, exact draws from exp(-energy / factor), and the length of a good leapfrog step where that is 1.

    ``sample(n, factor=1.0, *, generator)``
    """

    energy: Callable
    sample: Callable
    scale: float


def gaussian(law, scale):
    def sample(n, factor=1.0, *, generator):
        return law.mean + factor**0.5 * (law.sample(n, generator=generator) - law.mean)

    return Target(law, sample, scale)


def mixture(law, scale):
    def sample(n, factor=1.0, *, generator):
        """By rejection: (Σ p_m)^β ≤ Σ p_m^β for β < 1, and p_m^β is a normal law again."""
        kept, beta = [], 1 / factor
        wide = GaussianMixture(law.means, std=law.std * factor**0.5, weights=law.weights**beta)
        while sum(map(len, kept)) < n:
            x = wide.sample(4 * n, generator=generator)
            log_each = law.weights.log() - (x[:, None] - law.means).square().sum(2) / (2 * law.std**2)
            accept_prob = (beta * log_each.logsumexp(1) - (beta * log_each).logsumexp(1)).exp()
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=DEVICE)
            kept.append(x[u < accept_prob])
        return torch.cat(kept)[:n]

    return Target(law, sample, scale)


def correlated():
    return gaussian(Gaussian(tensor([1.0, -2.0]), tensor([[1.0, 0.8], [0.8, 2.0]])), 0.5)


def uneven():
    """An asymmetric mixture whose modes chains do cross between."""
    means = tensor([[0.0, 0.0], [2.5, 0.5], [-1.0, 2.0]])
    return mixture(GaussianMixture(means, std=0.7, weights=tensor([0.5, 0.2, 0.3])), 0.6)


def gumbel():
    """A product of Gumbel laws: no symmetry, which would hide a wrong sign."""

    def sample(n, factor=1.0, *, generator):
        if factor == 1:
            return -torch.empty(n, 3, dtype=torch.float64, device=DEVICE).exponential_(generator=generator).log()
        # u = exp(-x) / factor has a gamma law of shape 1 / factor.
        shape = torch.full((n, 3), 1 / factor, dtype=torch.float64, device=DEVICE)
        return -(factor * torch._standard_gamma(shape, generator=generator)).log()

    return Target(lambda x: (x + (-x).exp()).sum(1), sample, 0.6)


def image():
    a = normal(16, 16, seed=99)
    covariance = torch.eye(16, dtype=torch.float64, device=DEVICE) + a @ a.mT / 16
    return gaussian(Gaussian(normal(1, 4, 4, seed=98), covariance), 0.45)


def stiff(dimension=100, condition=1e4, rotated=True):
    """Variances from 1 down to 1 / condition."""
    std = torch.logspace(-math.log10(condition) / 2, 0, dimension, dtype=torch.float64, device=DEVICE)
    turn = torch.linalg.qr(normal(dimension, dimension, seed=97))[0] if rotated else torch.eye(dimension).to(std)
    factor = turn * std
    return gaussian(Gaussian(torch.zeros_like(std), factor @ factor.mT), 0.75 * condition**-0.5)


def funnel():
    def sample(n, factor=1.0, *, generator):
        # Given x_1, x_2 is normal of variance factor exp(x_1); what is left of x_1 is normal about (factor - 1) / 2.
        z = torch.randn(n, 2, generator=generator, dtype=torch.float64, device=DEVICE)
        v = factor**0.5 * z[:, 0] + (factor - 1) / 2
        return torch.stack([v, factor**0.5 * (v / 2).exp() * z[:, 1]], 1)

    return Target(lambda x: -Funnel().log_prob(x), sample, 0.5)


def banana():
    law = Banana()

    def sample(n, factor=1.0, *, generator):
        # The bend keeps areas, so that what is normal before it is normal of a larger variance.
        z = factor**0.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64, device=DEVICE)
        x = law.scale * z[:, 0]
        return torch.stack([x, law.std * z[:, 1] + law.bend * (x.square() - law.scale**2)], 1)

    return Target(lambda x: -law.log_prob(x), sample, 0.2)


def grid():
    law = GaussianGrid(spacing=1.0, std=0.2)
    drawn = mixture(GaussianMixture(law.modes.to(DEVICE).double(), std=law.std), 0.2)
    return drawn._replace(energy=lambda x: -law.log_prob(x))


def eight():
    law = EightGaussians(radius=2.0, std=0.5)
    drawn = mixture(GaussianMixture(law.modes.to(DEVICE).double(), std=law.std), 0.4)
    return drawn._replace(energy=lambda x: -law.log_prob(x))


def wells():
    law = DoubleWell(barrier=2.0)

    def sample(n, factor=1.0, *, generator):
        hot = DoubleWell(barrier=law.barrier / factor, std=law.std * factor**0.5)
        return hot.sample(n, generator=generator).double()

    return Target(lambda x: -law.log_prob(x), sample, 0.4)


TARGETS = {
    "correlated": correlated,
    "uneven": uneven,
    "gumbel": gumbel,
    "image": image,
    "stiff": stiff,
    "funnel": funnel,
    "banana": banana,
    "grid": grid,
    "eight": eight,
    "wells": wells,
}


def eight_modes():
    angle = torch.arange(8, dtype=torch.float64, device=DEVICE) * math.pi / 4
    return GaussianMixture(4 * torch.stack([angle.cos(), angle.sin()], 1), std=0.3)


# --- kernels ----------------------------------------------------------------------------------------------------------

KERNELS = {
    "langevin": lambda scale, **rest: functools.partial(Langevin, step_size=scale**2 / 2, **rest),
    "langevin:clipped": lambda scale, **rest: functools.partial(
        Langevin, step_size=scale**2 / 2, drift_clip=0.1, bounds=(-1.5, 1.5), **rest
    ),
    "mala": lambda scale, **rest: functools.partial(MALA, step_size=scale**2, **rest),
    "mala:boxed": lambda scale, **rest: functools.partial(MALA, step_size=scale**2, bounds=(-1.5, 1.5), **rest),
    "hmc": lambda scale, **rest: functools.partial(HMC, step_size=scale, leapfrog_steps=4, **rest),
    "hmc:boxed": lambda scale, **rest: functools.partial(
        HMC, step_size=scale, leapfrog_steps=4, bounds=(-1.5, 1.5), **rest
    ),
    "hmc:jittered": lambda scale, **rest: functools.partial(
        HMC, step_size=1.2 * scale, leapfrog_steps=4, jitter=0.6, **rest
    ),
    "underdamped": lambda scale, **rest: functools.partial(UnderdampedLangevin, step_size=scale, **rest),
    "underdamped:boxed": lambda scale, **rest: functools.partial(
        UnderdampedLangevin, step_size=scale, bounds=(-1.5, 1.5), **rest
    ),
    "gd": lambda scale: functools.partial(GradientDescent, step_size=scale**2 / 2),
    "annealed": lambda scale, **rest: functools.partial(
        AnnealedLangevin, step_size=scale**2 / 2, hottest=3.0, anneal_steps=4, **rest
    ),
    "tempering": lambda scale, **rest: functools.partial(
        ParallelTempering, kernel=functools.partial(MALA, step_size=scale**2, **rest), temperatures=(1.0, 1.6, 2.5)
    ),
    "tempering:hmc": lambda scale, **rest: functools.partial(
        ParallelTempering,
        kernel=functools.partial(HMC, step_size=scale, leapfrog_steps=2, jitter=0.5, **rest),
        temperatures=(1.0, 1.4),
        swap_every=2,
    ),
}
"""Name → a kernel factory of a given leapfrog length and other settings."""

EXACT = ("mala", "hmc", "hmc:jittered", "tempering", "tempering:hmc")
"""The kernels that leave their target exactly invariant."""

NOISELESS = ("gd",)
"""The kernels that draw nothing."""


# --- networks, energies -----------------------------------------------------------------------------------------------

NETWORKS = {
    "mlp": lambda shape: MLP(shape, width=16),
    "mlp:deep": lambda shape: MLP(shape, width=8, depth=3, activation="softplus"),
    "conv": lambda shape: ConvEnergyNet(shape, width=4),
    "conv:normalised": lambda shape: ConvEnergyNet(shape, width=4, spectral_norm=True, activation="elu"),
    "residual": lambda shape: ResidualEnergyNet(shape, width=4),
    "residual:normalised": lambda shape: ResidualEnergyNet(shape, width=4, blocks=2, spectral_norm=True),
}
"""Name → a network for events of a shape."""


def network(name, shape, seed=0):
    with global_seed(seed):
        return NETWORKS[name](shape)


def neural(shape=(2,), *, seed=0, dtype=torch.float32, name="mlp", reference_std=2.0):
    return NeuralEnergy(network(name, shape, seed), reference_std=reference_std).to(DEVICE, dtype)


def denoiser(shape=(2,), *, seed=0, dtype=torch.float32, data_std=1.5, detail=0.0):
    with global_seed(seed):
        net = NoiseMLP(shape, width=16)
    return ScalarEnergyDenoiser(net, data_std=data_std, detail=detail).to(DEVICE, dtype)


ENERGIES = {
    "gaussian": lambda: (correlated().energy, (2,)),
    "gaussian-image": lambda: (image().energy, (1, 4, 4)),
    "mixture": lambda: (uneven().energy, (2,)),
    "neural": lambda: (neural(dtype=torch.float64), (2,)),
    "neural-free": lambda: (neural(dtype=torch.float64, reference_std=None), (2,)),
    "neural-conv": lambda: (neural((1, 8, 8), dtype=torch.float64, name="conv"), (1, 8, 8)),
    "quadratic": lambda: (Quadratic(1.7), (3,)),
}
"""Name → an energy in float64 and the shape of its events."""


# --- starts, objectives -----------------------------------------------------------------------------------------------

STARTS = {
    "data": DataInit,
    "noise": lambda: NoiseInit(low=-2.0, high=0.5),
    "constant": lambda: ConstantInit(low=-2.0, high=0.5),
    "buffer": lambda: ReplayBuffer(32, refresh=0.2),
    "buffer:bytes": lambda: ReplayBuffer(32, refresh=0.2, stored="byte"),
    "buffer:from-data": lambda: ReplayBuffer(32, refresh=0.2, fresh=DataInit()),
    "mixture": lambda: MixtureInit(DataInit(), NoiseInit(), share=0.3),
    "mixture:with-buffer": lambda: MixtureInit(NoiseInit(), ReplayBuffer(32), share=0.3),
}

ALL_LEVELS = (
    Denoising,
    UncertaintyWeightedDenoising,
    MultiscaleDenoisingScoreMatching,
    DiffusionRecoveryLikelihood,
)
"""Objectives that train one model of all noise levels."""


def span(scale):
    return Geometric(sigma_min=scale, sigma_max=6 * scale)


OBJECTIVES = {
    "dsm": lambda scale=0.5: DenoisingScoreMatching(sigma=scale),
    "msdsm": lambda scale=0.5: MultiscaleDenoisingScoreMatching(sigma_min=scale, sigma_max=6 * scale, data_std=1.5),
    "denoising": lambda scale=0.5: Denoising(levels=span(scale), weight=EDMWeight(data_std=1.5)),
    "uncertain-denoising": lambda scale=0.5: UncertaintyWeightedDenoising(levels=span(scale), weight=NoiseWeight()),
    "msdsm:ncsn": lambda scale=0.5: MultiscaleDenoisingScoreMatching(sigma_min=scale, sigma_max=6 * scale),
    "drl": lambda scale=0.5: DiffusionRecoveryLikelihood(
        KERNELS["hmc:jittered"](0.5), steps=3, sigma_min=scale, sigma_max=6 * scale, levels=4
    ),
    "cd": lambda scale=0.5: ContrastiveDivergence(DataInit(), KERNELS["mala"](scale), steps=2),
    "cd:noised": lambda scale=0.5: ContrastiveDivergence(DataInit(), KERNELS["hmc"](scale), steps=1, data_noise=0.4),
    "cd:cold": lambda scale=0.5: ContrastiveDivergence(DataInit(), KERNELS["mala"](scale, temperature=0.3), steps=2),
    "sm": lambda scale=0.5: ScoreMatching(),
    "ssm": lambda scale=0.5: SlicedScoreMatching(),
    "ssm:gaussian": lambda scale=0.5: SlicedScoreMatching(projections=2, projection="gaussian"),
    "ssm:sphere": lambda scale=0.5: SlicedScoreMatching(projection="sphere"),
    "ssm-vr": lambda scale=0.5: SlicedScoreMatchingVR(),
    "ssm-vr:gaussian": lambda scale=0.5: SlicedScoreMatchingVR(projection="gaussian"),
    "ssm-vr:sphere": lambda scale=0.5: SlicedScoreMatchingVR(projections=2, projection="sphere"),
    "fd-ssm": lambda scale=0.5: FiniteDifferenceScoreMatching(epsilon=scale),
    "nce": lambda scale=0.5: NoiseContrastiveEstimation(),
    "nce:uniform": lambda scale=0.5: NoiseContrastiveEstimation(noise="uniform"),
    "nce:mixture": lambda scale=0.5: NoiseContrastiveEstimation(noise="mixture", ratio=3),
    "ranking-nce": lambda scale=0.5: RankingNCE(),
    "ranking-nce:mixture": lambda scale=0.5: RankingNCE(noise="mixture", ratio=1),
    "ed": lambda scale=0.5: EnergyDiscrepancy(time=scale**2, samples=4),
    "nce-ssm": lambda scale=0.5: NoiseContrastiveScoreMatching(),
    "nce-ssm:one": lambda scale=0.5: NoiseContrastiveScoreMatching(noise="gaussian", ratio=2, weight=0.1, share=1.0),
    "weighted": lambda scale=0.5: Weighted((NoiseContrastiveEstimation(), SlicedScoreMatchingVR()), weights=(1.0, 0.3)),
    "weighted:chains": lambda scale=0.5: Weighted(
        (ContrastiveDivergence(DataInit(), KERNELS["mala"](scale), steps=2), RankingNCE()), last_weights=(1.0, 0.1)
    ),
}
"""Objectives that are unbiased at the truth: their chains, if any, start at the data or forget where they started,
and their kernels are exact."""

DETERMINISTIC = ("sm",)
"""Objectives that draw nothing."""


def learner(objective, shape=(2,), *, dtype=torch.float32):
    """Returns a network of the kind that an objective trains."""
    denoising = isinstance(objective, ALL_LEVELS)
    return denoiser(shape, dtype=dtype) if denoising else neural(shape, dtype=dtype)


def round_learner(objective, p):
    """Returns a model of the kind that an objective trains, whose law at the objective's level is N(0, I / p)."""
    denoising = isinstance(objective, ALL_LEVELS)
    return QuadraticDenoiser(p, objective.level) if denoising else Quadratic(p)


def settled(objective, p, x):
    """Returns an objective with its own parameters right for E = p |x|² / 2, and what it fits to data fitted."""
    for part in objective.modules():
        if isinstance(part, NoiseContrastiveEstimation | RankingNCE):
            part.contrast.fit(x)
        if isinstance(part, NoiseContrastiveEstimation):
            part.log_z.data.fill_(x[0].numel() / 2 * math.log(2 * math.pi / p))
        if isinstance(part, NoiseContrastiveScoreMatching):
            part.variance.copy_(narrow_variance(x))
    return objective


def same(left, right):
    """Whether two trees have the same structure, types and bits."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def learned(snapshot, *keys):
    keys = keys or ("model", "average", "objective", "optimiser", "guards")
    return {key: snapshot.tree[key] for key in keys}
