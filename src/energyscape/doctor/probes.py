r"""Cheap measurements of a landscape: short runs of a few chains, and statistics of the data for the step.

Differences of energies are in units of :math:`s_E`, the standard deviation of the energies of data, so they mean the
same at any scale. Differences of positions are in units of ``x``. A score without an energy gets the measurements that
need a score only: :math:`-\langle s(x_0), x \rangle` is an energy whose gradient at :math:`x_0` is right.

References:
    On the anatomy of MCMC-based maximum likelihood learning of energy-based models (Nijkamp et al., 2020), section 3:
    long chains and the ratio of gradient to noise. https://arxiv.org/abs/1903.12370
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, score
from energyscape.doctor.chains import Chains
from energyscape.doctor.clouds import at_edges, duplicates, nearest_other, rms_radius, share
from energyscape.evaluation import acceptance
from energyscape.noise import noised, normal_like
from energyscape.samplers import run
from energyscape.samplers.base import ChainState, evaluate_at, finite, zero_energy

CHAINS: Final = 64
"""Chains of each probe."""

BATCH: Final = 256
"""Points in one evaluation of the energy."""

ScoreFn = Callable[[Tensor], Tensor]
"""Maps points ``(B, *)`` to scores ``(B, *)``."""


Answer = float | None
"""None if the probe could not be run."""


class Probes(NamedTuple):
    """Results of the probes; none for those that could not be run."""

    finite: Answer = None  # Share of the data that are finite
    sound: Answer = None  # Share of the data at which energy and score are finite
    data_std: Answer = None  # RMS standard deviation of the coordinates of noised data
    clean_std: Answer = None  # The same of the data themselves
    size: Answer = None  # Root mean square norm of the data
    narrowest: Answer = None  # Smallest standard deviation of a coordinate of noised data
    degenerate: Answer = None  # Share of coordinates of noised data that vary less than a step's noise and data_std / 4
    ratio: Answer = None  # R, noise over drift (never clipped) of a step at the chains
    ratio_data: Answer = None  # The same at noised data
    accept: Answer = None  # Mean acceptance of Metropolis-adjusted Langevin at the step, from the chains
    clipped: Answer = None  # Share of the drift's elements beyond the clip, at the chains
    steepest: Answer = None  # Largest element of a drift on the way from noise, over the noise's deviation at T=1
    long: Answer = None  # Change of the chains' energy after ten times as many steps, in s_E; falling is negative
    few: Answer = None  # The same after as many steps as in training
    quenched: Answer = None  # The same without noise
    fresh: Answer = None  # Energy of chains from noise less that of the chains, in s_E
    arrived: Answer = None  # Median distance of chains from noise to the nearest data, over that of other noised data
    outside: Answer = None  # Share of their coordinates at the bounds, or the data's extremes, less that of noised data
    shift: Answer = None  # Their mean less that of the data, over the data's range
    duplicates: Answer = None  # Share of chains whose nearest other is ten times nearer than data are to each other
    diversity: Answer = None  # Mean distance between chains over that between noised data
    spread: Answer = None  # s_E, in units of energy
    cut: Answer = None  # Share of the data's coordinates beyond the bounds of chains
    away: Answer = None  # RMS distance of noise from the data's mean, over that of the data
    mirrored: Answer = None  # Median distance of mirrored images to the nearest data, over that of other data
    moved: Answer = None  # Distance of the weights from their initial values over the norm of those
    held_out: Answer = None  # Energy of held-out less that of training data, both noised alike, in s_E
    kinks: Answer = None  # Spread of the exact curvature uᵀ∇²E u over its size; 0 for piecewise linear networks
    bends: Answer = None  # Relative change of the score over one step's noise beyond that curvature
    near: Answer = None  # E‖σ s(x + σ z) + z‖² / d at the learned noise level; 1 is a score of zero
    far: Answer = None  # The same at noise as wide as the chains' start
    noisy: Answer = None  # Share of the final chains' variance that the score attributes to noise, E‖σ²s‖² / d over it
    parted: Answer = None  # Widest gap between islands of noised data, over 95 % of the steps within them
    mode_factor: Answer = None  # Largest factor by which a mode's mass is off, where modes are known
    energies: dict[str, tuple[float, ...]] = {}  # Energies by what they are of, for pictures  # noqa: RUF012


def probe(
    energy: EnergyFn | None,
    data: Tensor,
    how: Chains | None,
    *,
    slope: ScoreFn | None = None,
    level: float = 0.0,
    temperature: float = 1.0,
    chains: Tensor | None = None,
    noise: Tensor | None = None,
    held_out: Tensor | None = None,
    generator: Generator | None = None,
) -> Probes:
    """Run every probe that applies.

    Args:
        slope: The score, where there is no energy.
        level: Standard deviation of the noise on the data whose law is learned, in units of ``x``.
        chains: Persistent chains, ``(C, *)``; noised data if there are none.
        noise: Starting points of chains from noise, ``(C, *)``.
    """
    found = _of_data(data, level, how, noise)
    data = data[data.flatten(1).isfinite().all(1)]
    if len(data) < FEWEST or (energy is None and slope is None):
        return found
    y = noised(data, level, generator=generator)[0] if level else data
    y = how.kernel(zero_energy).confined(y) if how else y
    landscape = energy if energy is not None else _surrogate(slope)
    subject = Subject(landscape, energy is not None, data, y, level, temperature, how, generator)
    found = _of_shape(found, subject, noise)._replace(parted=parted(y))
    point = evaluate_at(landscape, y)
    found = found._replace(sound=share(finite(point)))
    if how is None or not found.sound:
        return found
    found = found._replace(ratio_data=_ratio(point.score, how))
    found, end = _of_chains(found, subject, how, y[:CHAINS] if chains is None else chains[:CHAINS])
    if noise is not None:
        found, end["from noise"] = _from_noise(found, subject, how, noise[:CHAINS])
    return _of_energies(found, subject, end, noise, held_out) if subject.known else found


FEWEST: Final = 8
"""Finite data points below which no probe is run."""


class Subject(NamedTuple):
    """The landscape, data and chains to probe."""

    energy: EnergyFn  # Maps ``(B, *)`` to ``(B,)``; for a bare score, only its gradient is meaningful
    known: bool  # Whether its values are meaningful too
    data: Tensor  # Clean data, ``(B, *)``
    y: Tensor  # The same with noise
    level: float  # Standard deviation of that noise
    temperature: float  # Of the learned law
    how: Chains | None  # Settings of the chains
    generator: Generator | None  # The stream to draw from

    def slope(self, x: Tensor) -> Tensor:
        """Return the score."""
        return score(self.energy, x)


def _of_data(data: Tensor, level: float, how: Chains | None, noise: Tensor | None) -> Probes:
    good = data.flatten(1).isfinite().all(1)
    found = Probes(finite=share(good))
    if int(good.sum()) < FEWEST:
        return found
    # Noise adds its variance exactly: there is no need to draw it.
    clean = data[good].flatten(1).double().var(0, correction=0)
    varied = (clean + level**2).sqrt()
    spread = float(varied.square().mean().sqrt())
    found = found._replace(data_std=spread, narrowest=float(varied.min()))
    found = found._replace(
        clean_std=float(clean.mean().sqrt()), size=float(data[good].flatten(1).double().square().sum(1).mean().sqrt())
    )
    if data.ndim == 4:
        x, y = data[good].flatten(1), data[good].flip(-1).flatten(1)
        found = found._replace(
            mirrored=float(torch.cdist(y, x).amin(1).median() / nearest_other(x).median().clamp(1e-12))
        )
    if how is not None:
        limit = min(math.sqrt(2 * how.step_size), spread / 4)
        low, high = how.bounds or (-math.inf, math.inf)
        found = found._replace(degenerate=share(varied < limit), cut=share((data[good] < low) | (data[good] > high)))
    if noise is not None and spread > 0:
        away = (noise - data[good].mean(0)).double().square().mean().sqrt()
        found = found._replace(away=float(away) / spread)
    return found


def parted(y: Tensor) -> float | None:
    """Return the widest gap between islands of at least 2 % of the points, over 95 % of the steps within.

    Prim's order of the shortest tree visits one island after the other: islands are its runs between wide steps.
    """
    apart = torch.cdist(y.flatten(1).double(), y.flatten(1).double())
    near, outside = apart[0].clone(), torch.ones(len(y), dtype=torch.bool, device=y.device)
    steps, at = [], torch.zeros((), dtype=torch.long, device=y.device)
    for _ in range(len(y) - 1):
        outside[at] = False
        near = torch.minimum(near, apart[at]).masked_fill(~outside, torch.inf)
        at = near.argmin()
        steps.append(near[at])
    step = torch.stack(steps).cpu()
    for gap in step.sort(descending=True).values:
        ends = torch.cat([torch.tensor([0]), (step >= gap).nonzero()[:, 0] + 1, torch.tensor([len(y)])])
        if int((ends.diff() >= 0.02 * len(y)).sum()) > 1 and (within := step[step < gap]).numel():
            return float(gap / within.quantile(0.95)) if float(within.max()) else None
    return None


def _of_shape(found: Probes, subject: Subject, noise: Tensor | None) -> Probes:
    """Measure the score against noise, and its curvature."""
    x, level, generator = subject.data[: 2 * CHAINS], subject.level, subject.generator

    def slope(x: Tensor) -> Tensor:
        return subject.slope(x) / subject.temperature

    if level:
        found = found._replace(near=_relative(slope, x, level, generator))
    if noise is not None:
        away = float((noise.double().square().mean() + x.double().square().mean()).sqrt())
        if away > 2 * level:
            found = found._replace(far=_relative(slope, x, away, generator))
    if subject.known and subject.how is not None:
        length = math.sqrt(2 * subject.how.step_size)
        kinks, bends = _bending(subject.energy, subject.y[:CHAINS], length, generator)
        found = found._replace(kinks=kinks, bends=bends)
    return found


def _of_chains(found: Probes, subject: Subject, how: Chains, start: Tensor) -> tuple[Probes, dict[str, ChainState]]:
    """Run the chains from their states: few steps, many, without noise, and from data."""
    energy, y, generator = subject.energy, subject.y, subject.generator
    kernel, still = how.kernel(energy), how.kernel(energy, temperature=0.0)
    standing = evaluate_at(energy, start)
    few, _ = run(kernel, start, steps=how.steps, generator=generator)
    long, _ = run(kernel, few.x, steps=how.long, generator=generator)
    quenched, _ = run(still, start, steps=how.steps, generator=generator)
    found = found._replace(
        ratio=_ratio(standing.score, how),
        clipped=None if how.drift_clip is None else share((how.step_size * standing.score).abs() > how.drift_clip),
        duplicates=duplicates(start, y),
        diversity=rms_radius(start) / max(rms_radius(y[: len(start)]), 1e-12),
        noisy=_noisy(long, subject.level, subject.temperature) if subject.level else None,
    )
    if subject.known and how.temperature > 0:
        mala = {"step_size": how.step_size, "temperature": how.temperature, "bounds": how.bounds}
        accept = acceptance(energy, start, **mala, generator=generator)  # type: ignore[arg-type]
        found = found._replace(accept=accept)
    return found, {"chains": standing, "few": few, "chains, long": long, "quenched": quenched}


def _of_energies(
    found: Probes, subject: Subject, end: dict[str, ChainState], noise: Tensor | None, held_out: Tensor | None
) -> Probes:
    """Compare the final energies of the chains, in standard deviations of those of data."""
    of_data = energies(subject.energy, subject.y)
    found = found._replace(spread=float(of_data[of_data.isfinite()].double().std(correction=0)))
    unit = found.spread or 1.0
    standing = end["chains"].energy
    found = found._replace(
        few=_rise(end["few"].energy, standing, unit),
        long=_rise(end["chains, long"].energy, standing, unit),
        quenched=_rise(end["quenched"].energy, standing, unit),
    )
    shown = {"data": of_data, "chains": standing, "chains, long": end["chains, long"].energy}
    if noise is not None:
        shown["from noise"] = end["from noise"].energy
        found = found._replace(
            fresh=_rise(end["from noise"].energy, standing, unit),
        )
    if held_out is not None:
        level = subject.level
        unseen = noised(held_out, level, generator=subject.generator)[0] if level else held_out
        unseen = subject.how.kernel(zero_energy).confined(unseen) if subject.how else unseen
        shown["held-out data"] = energies(subject.energy, unseen)
        found = found._replace(held_out=_rise(shown["held-out data"], of_data, unit))
    return found._replace(energies={name: tuple(each.double().tolist()) for name, each in shown.items()})


def _from_noise(found: Probes, subject: Subject, how: Chains, noise: Tensor) -> tuple[Probes, ChainState]:
    """Run chains from noise for as many steps as a sample takes; measure their largest drift."""
    y, kernel = subject.y, how.kernel(subject.energy)
    unit, steepest = math.sqrt(2 * how.step_size), 0.0
    state = kernel.init(noise)
    for _ in range(how.sampler_steps):
        pull = float((how.step_size * state.score).abs().max()) / unit
        steepest = max(steepest, pull) if math.isfinite(pull) else math.inf
        state, _ = kernel.step(state, generator=subject.generator)
    reference = y.flatten(1)
    nearest = torch.cdist(state.x.flatten(1), reference).amin(1).median()
    usual = nearest_other(reference).median()
    low, high = float(y.min()), float(y.max())
    beyond = at_edges(state.x, how.bounds or (low, high)) - at_edges(y, how.bounds or (low, high))
    found = found._replace(
        steepest=steepest,
        arrived=float(nearest / usual) if float(usual) > 0 else None,
        outside=beyond,
        noisy=_noisy(state, subject.level, subject.temperature) if subject.level else None,
        shift=float((state.x.mean() - y.mean()) / max(high - low, 1e-12)),
    )
    return found, state


def _noisy(standing: ChainState, level: float, temperature: float) -> float | None:
    """Return the share of the variance of points that their score attributes to noise."""
    variance = float(standing.x.flatten(1).double().var(0, correction=0).mean())
    noise = float((level**2 / temperature * standing.score).double().square().mean())
    return noise / variance if variance > 0 and math.isfinite(noise) else None


def _surrogate(slope: ScoreFn | None) -> EnergyFn:
    assert slope is not None

    def energy(x: Tensor) -> Tensor:
        return -(slope(x.detach()).detach() * x).flatten(1).sum(1)

    return energy


def _ratio(s: Tensor, how: Chains) -> float | None:
    r"""Return :math:`\sqrt{2 \eta T} / \operatorname{rms}(\eta s)`."""
    drift = float((how.step_size * s[s.flatten(1).isfinite().all(1)]).double().square().mean().sqrt())
    return how.noise / drift if drift > 0 and math.isfinite(drift) else None


def _relative(gradient: ScoreFn, x: Tensor, sigma: float, generator: Generator | None) -> float | None:
    y, z = noised(x, sigma, generator=generator)
    value = float((sigma * gradient(y) + z).double().square().mean())
    return value if math.isfinite(value) else None


def _bending(
    energy: EnergyFn, x: Tensor, length: float, generator: Generator | None
) -> tuple[float | None, float | None]:
    """Return the relative spread of exact curvature, and the score's change over a length that it does not predict."""
    u = normal_like(x, generator=generator)
    u = u / u.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
    try:
        here = x.detach().requires_grad_()
        with torch.enable_grad():
            s = -torch.autograd.grad(energy(here).sum(), here, create_graph=True)[0]
            (turned,) = torch.autograd.grad((s * u).sum(), here)
    except RuntimeError:
        return None, None  # no second derivative: an energy that is linear, or not differentiable twice
    exact, s = -(turned * u).flatten(1).sum(1).double(), s.detach()
    size = length * math.sqrt(x[0].numel())
    changed = -((score(energy, x + size * u) - s) * u).flatten(1).sum(1).double() / size
    scale = float(exact.abs().mean())
    if not math.isfinite(scale):
        return None, None
    scale = scale or float(changed.abs().mean()) or 1.0
    return float(exact.std(correction=0)) / scale, float((changed - exact).abs().mean()) / scale


def _rise(after: Tensor, before: Tensor, unit: float) -> float | None:
    value = float(after.double().mean() - before.double().mean()) / unit
    return value if math.isfinite(value) else None


def energies(energy: EnergyFn, x: Tensor) -> Tensor:
    """Return energies, a few hundred points a time, ``(B,)``."""
    with torch.no_grad():
        return torch.cat([energy(part) for part in x.split(BATCH)])
