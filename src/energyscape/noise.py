r"""Noise levels, by :math:`\sigma` alone.

A noised point is :math:`y = x + \sigma z` with :math:`z \sim N(0, I)`. For the density :math:`p_\sigma` of noised
points, Tweedie's formula gives the mean of the clean point,

.. math:: E[x \mid y] = y + \sigma^2 \nabla_y \log p_\sigma(y).

References:
    An empirical Bayes approach to statistics (Robbins, 1956); Tweedie's formula and selection bias (Efron, 2011),
    equation 2.8. https://doi.org/10.1198/jasa.2011.tm11181
"""

import importlib
import warnings
from typing import Any

from torch import Generator, Tensor

from energyscape.calculus import EnergyFn, score


def normal_like(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Return standard normal numbers of the shape, dtype and device of ``x``."""
    return x.new_empty(x.shape).normal_(generator=generator)  # empty_like would copy the layout, and draw in its order


def uniform_like(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Return numbers uniform on [0, 1) of the shape, dtype and device of ``x``."""
    return x.new_empty(x.shape).uniform_(generator=generator)


def noised(x: Tensor, sigma: float, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Return :math:`y = x + \sigma z` and the noise :math:`z`."""
    z = normal_like(x, generator=generator)
    return x + sigma * z, z


def tweedie(energy: EnergyFn, y: Tensor, sigma: float, *, temperature: float = 1.0) -> Tensor:
    r"""Return the posterior mean :math:`y - \sigma^2\, \nabla E(y) / T` of the clean point.

    It is exact only if :math:`\exp(-E / T)` is the density of data noised at this same :math:`\sigma`.
    """
    return y + sigma**2 / temperature * score(energy, y)


def __getattr__(name: str) -> Any:
    """Return a schedule, which stood here before 0.2, with a warning."""
    schedules = importlib.import_module("energyscape.schedules")
    if name.startswith("_") or not hasattr(schedules, name):
        raise AttributeError(f"module 'energyscape.noise' has no attribute {name!r}")
    warnings.warn(f"energyscape.noise.{name} is now energyscape.schedules.{name}", DeprecationWarning, stacklevel=2)
    return getattr(schedules, name)
