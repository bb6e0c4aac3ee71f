r"""Noise levels: :math:`\sigma` is the only clock.

A noised point is :math:`y = x + \sigma z` with :math:`z \sim N(0, I)`; for the density :math:`p_\sigma` of noised
points, Tweedie's formula gives the mean of what was there before the noise,

.. math:: E[x \mid y] = y + \sigma^2 \nabla_y \log p_\sigma(y).

References:
    An empirical Bayes approach to statistics (Robbins, 1956); Tweedie's formula and selection bias (Efron, 2011),
    equation 2.8. https://doi.org/10.1198/jasa.2011.tm11181
"""

import math

import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, score


def normal_like(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Returns standard normal numbers of the shape, dtype and device of ``x``.

    Args:
        x: A tensor whose shape, dtype and device are copied.
        generator: The stream to draw from.
    """
    return torch.empty_like(x).normal_(generator=generator)


def uniform_like(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Returns numbers uniform on [0, 1) of the shape, dtype and device of ``x``.

    Args:
        x: A tensor whose shape, dtype and device are copied.
        generator: The stream to draw from.
    """
    return torch.empty_like(x).uniform_(generator=generator)


def noised(x: Tensor, sigma: float, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`y = x + \sigma z` and the noise :math:`z`.

    Args:
        x: Points, ``(B, *)``.
        sigma: Standard deviation of the noise, in units of ``x``.
        generator: The stream to draw from.

    Returns:
        ``y`` and ``z``, both ``(B, *)``.
    """
    z = normal_like(x, generator=generator)
    return x + sigma * z, z


def geometric(low: float, high: float, steps: int) -> list[float]:
    r"""Returns noise levels, evenly spaced in logarithm: :math:`\sigma_k = \sigma_0\, (\sigma_n / \sigma_0)^{k / n}`.

    Args:
        low: :math:`\sigma_0 > 0`, in units of ``x``.
        high: :math:`\sigma_n > \sigma_0`, in units of ``x``.
        steps: :math:`n \ge 1`; there is one level more.

    Raises:
        ValueError: If the levels do not rise, or there is no step.

    Examples:
        >>> [round(sigma, 9) for sigma in geometric(0.5, 4.0, 3)]
        [0.5, 1.0, 2.0, 4.0]
    """
    if not 0 < low < high < math.inf or steps < 1:
        raise ValueError(f"0 < sigma_min < sigma_max and at least one level; they were {low}, {high} and {steps}")
    return [low * (high / low) ** (k / steps) for k in range(steps)] + [high]


def tweedie(energy: EnergyFn, y: Tensor, sigma: float, *, temperature: float = 1.0) -> Tensor:
    r"""Returns the posterior mean :math:`y - \sigma^2\, \nabla E(y) / T` of the point before the noise.

    It is the truth only where :math:`\exp(-E / T)` is the density of data noised at this very :math:`\sigma`.

    Args:
        energy: Maps ``(B, *)`` to ``(B,)``.
        y: Noised points, ``(B, *)``.
        sigma: The noise level at which the energy was trained, in units of ``y``.
        temperature: :math:`T` of the energy.
    """
    return y + sigma**2 / temperature * score(energy, y)
