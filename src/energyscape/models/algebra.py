r"""An algebra of energies: the laws' product, mixture, negation and tempering.

.. math::
    \begin{aligned}
    \text{product} \quad & E = \textstyle\sum_i a_i E_i & p &\propto \textstyle\prod_i p_i^{a_i} \\
    \text{mixture} \quad & E = -\log \textstyle\sum_i w_i\, e^{-E_i} / Z_i & p &= \textstyle\sum_i w_i\, p_i \\
    \text{negation} \quad & E = E_1 - c\, E_2 & p &\propto p_1 / p_2^c \\
    \text{tempering} \quad & E = E_1 / T & p &\propto p_1^{1 / T}
    \end{aligned}

These are exact for energies of clean data. At a noise level :math:`\sigma` only the mixture is exact: noise is added to
a sum term by term, but a product of noised laws is not the noised product,

.. math:: \prod_i (p_i * N_\sigma) \ne \Bigl( \prod_i p_i \Bigr) * N_\sigma .

So the sum of scores is no score of noised data, and a solver must not follow it down. Composed levels give a ladder
instead: laws that lead from noise to the composition, each sampled separately (`samplers.descend`).

References:
    Compositional visual generation with energy based models (Du, Li & Mordatch, 2020), section 3.
    https://arxiv.org/abs/2004.06030; Reduce, reuse, recycle: compositional generation with energy-based diffusion
    models and MCMC (Du et al., 2023), sections 3 and 4. https://arxiv.org/abs/2302.11552
"""

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energyscape.models.denoiser import Denoiser, EnergyDenoiser
from energyscape.models.energy import Energy


class Rule(ABC):
    """A function from the energies of several laws to one energy; a frozen value."""

    @abstractmethod
    def __call__(self, energies: Tensor) -> Tensor:
        """Return the composed energy of each point."""


@final
@dataclass(frozen=True)
class Product(Rule):
    r"""A product of experts: the region on which all laws agree.

    .. math:: E = \sum_i a_i E_i

    A law of power above 1 counts more than once; all powers together sharpen or flatten as a temperature does.

    Args:
        powers: :math:`a_i > 0`, one for each law; all 1 by default.

    Raises:
        ValueError: If a power is not positive; on a call, if there are not as many laws.

    Examples:
        >>> Product()(torch.tensor([[1.0], [2.5]]))
        tensor([3.5000])

    References:
        Training products of experts by minimizing contrastive divergence (Hinton, 2002), equation 1.
        https://doi.org/10.1162/089976602760128018
    """

    powers: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _positive(self.powers, "powers")

    def __call__(self, energies: Tensor) -> Tensor:
        return energies.sum(0) if self.powers is None else _row(self.powers, energies) @ energies


@final
@dataclass(frozen=True)
class Mixture(Rule):
    r"""One law or the other, with given odds.

    .. math:: E = -\log \sum_i w_i\, e^{-E_i - \log Z_i}

    Without the constants the odds are not those of the weights. An energy is known up to a constant, and a law whose
    energy is 3 lower everywhere would come 20 times as often. Trained energies have arbitrary constants. Find them by
    quadrature or annealed importance sampling, or draw from each law in proportion, which needs no composed energy.

    Args:
        weights: :math:`w_i > 0`, scaled here to sum to one; equal by default.
        log_z: :math:`\log Z_i` of each energy, in nats; all 0, for normalised energies by default.

    Raises:
        ValueError: If a weight is not positive or a constant is not finite; on a call, if there are not as many laws.

    Examples:
        >>> Mixture((1.0, 3.0))(torch.tensor([[0.0], [torch.inf]])).exp()  # a quarter of the first law, whose E is 0
        tensor([4.])
    """

    weights: tuple[float, ...] | None = None
    log_z: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _positive(self.weights, "weights")
        if self.log_z is not None and not all(map(math.isfinite, self.log_z)):
            raise ValueError(f"log_z are finite numbers; they were {self.log_z}")

    def __call__(self, energies: Tensor) -> Tensor:
        weights = _row(self.weights or (1.0,) * len(energies), energies)
        log_weights = (weights / weights.sum()).log() - _row(self.log_z or (0.0,) * len(energies), energies)
        return -(log_weights.unsqueeze(1) - energies).logsumexp(0)


@final
@dataclass(frozen=True)
class Negation(Rule):
    r"""The first law where the second is rare.

    .. math:: E = E_1 - c\, E_2

    :math:`p_1 / p_2^c` is normalisable only if :math:`E_1` grows faster than :math:`c E_2` far out. So the second law
    must have the heavier tails; normal laws need a variance above :math:`c` times the first one's.

    Args:
        strength: :math:`c > 0`.

    Raises:
        ValueError: If ``strength`` is not positive; on a call, if there are not two laws.

    Examples:
        >>> Negation(strength=0.5)(torch.tensor([[1.0], [4.0]]))
        tensor([-1.])
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        _positive((self.strength,), "strength")

    def __call__(self, energies: Tensor) -> Tensor:
        _count(2, energies)
        return energies[0] - self.strength * energies[1]


@final
@dataclass(frozen=True)
class Tempering(Rule):
    r"""One law, flatter or sharper.

    .. math:: E = E_1 / T

    Kernels have a temperature of their own, which does the same; this one composes further.

    Args:
        temperature: :math:`T > 0`; below 1 sharpens.

    Raises:
        ValueError: If ``temperature`` is not positive; on a call, if there is more than one law.

    Examples:
        >>> Tempering(2.0)(torch.tensor([[3.0]]))
        tensor([1.5000])
    """

    temperature: float

    def __post_init__(self) -> None:
        _positive((self.temperature,), "temperature")

    def __call__(self, energies: Tensor) -> Tensor:
        _count(1, energies)
        return energies[0] / self.temperature


@final
class Composed(Energy):
    r"""An energy made of others by a rule; it composes further.

    Args:
        rule: The rule of composition.
        energies: Energies of clean data, or all of data at one noise level; each maps ``(B, *)`` to ``(B,)``, and is
            called with ``(x, label)`` when there is a label.

    Raises:
        ValueError: If the rule is for another number of energies.

    Examples:
        >>> from energyscape.models import Gaussian
        >>> first, second = (Gaussian(torch.full((2,), mean), torch.eye(2)) for mean in (-1.0, 1.0))
        >>> both = Composed(Product(), first, second)  # N(0, I / 2) and a constant
        >>> both(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        tensor([2., 3.])
    """

    def __init__(self, rule: Rule, *energies: Energy) -> None:
        super().__init__()
        rule(torch.zeros(len(energies), 1))
        self.rule = rule
        self.energies = nn.ModuleList(energies)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.rule(torch.stack([energy(x, label) for energy in self.energies]))


@final
class ComposedLevels(nn.Module):
    r"""Energies composed at each noise level: a ladder from noise to the composition, and no denoiser.

    .. math:: E(x, \sigma) = \operatorname{rule}\bigl( E_1(x, \sigma), \ldots, E_n(x, \sigma) \bigr)

    Only the energy at the lowest level is meaningful: it is the composition of slightly noised data; see the module.
    A mixture needs constants :math:`\log Z_i` that hold at every level, as those of exact denoisers do.

    Args:
        rule: The rule of composition.
        denoisers: Energies at all levels, trained or known on a common range of them.

    Raises:
        ValueError: If the rule is for another number of denoisers.

    Examples:
        >>> from energyscape.models import GaussianDenoiser
        >>> laws = (GaussianDenoiser(torch.zeros(2), variance * torch.eye(2)) for variance in (1.0, 4.0))
        >>> levels = ComposedLevels(Product(), *laws)
        >>> levels(torch.zeros(1, 2), torch.tensor([0.5])).shape, levels.at(0.5)(torch.zeros(1, 2)).shape
        (torch.Size([1]), torch.Size([1]))
    """

    def __init__(self, rule: Rule, *denoisers: EnergyDenoiser) -> None:
        super().__init__()
        rule(torch.zeros(len(denoisers), 1))
        self.rule = rule
        self.denoisers = nn.ModuleList(denoisers)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the composed energy.

        Args:
            x: Points, ``(B, *)``.
            sigma: Noise level of each, ``(B,)``, in units of ``x``.
            label: Class of each point, ``(B,)``, for conditional energies.

        Returns:
            Energies, ``(B,)``.
        """
        return self.rule(torch.stack([each.energy(x, sigma, label) for each in self._members]))

    def at(self, sigma: float) -> Composed:
        r"""Return the composed energy at one level.

        Args:
            sigma: :math:`\sigma > 0`, in units of ``x``.

        Raises:
            ValueError: If ``sigma`` is not positive.
        """
        return Composed(self.rule, *(each.at(sigma) for each in self._members))

    @property
    def _members(self) -> list[EnergyDenoiser]:
        return [each for each in self.denoisers if isinstance(each, EnergyDenoiser)]

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor: ...


@final
class ScoreSum(Denoiser):
    r"""The plain sum of scores, for denoisers without an energy; it does *not* sample the product.

    .. math:: D(x, \sigma) = x + \sum_i a_i\, \bigl( D_i(x, \sigma) - x \bigr)

    A solver needs the denoiser of one law at all levels, and this is none. Of two normal laws of variance :math:`v`
    about one point the product has the variance :math:`v / 2`. The stochastic equation ends at :math:`v / 3`, and the
    ordinary one at :math:`v^2 / \sigma_{\max}^2`, in the point. Between modes the odds are wrong as well. With
    energies, use `ComposedLevels` and sample each level.

    Args:
        denoisers: Denoisers of the laws.
        powers: :math:`a_i`, one for each; all 1 by default.

    Raises:
        ValueError: If there are not as many powers.

    Warns:
        UserWarning: Always, on construction.

    References:
        Reduce, reuse, recycle (Du et al., 2023), section 3. https://arxiv.org/abs/2302.11552
    """

    def __init__(self, *denoisers: Denoiser, powers: tuple[float, ...] | None = None) -> None:
        super().__init__()
        if powers is not None and len(powers) != len(denoisers):
            raise ValueError(f"one power for each of {len(denoisers)} denoisers; they were {powers}")
        warnings.warn(
            "a sum of scores is the score of a product of noised laws, which is not the noised product: a solver does "
            "not sample the product with it, but something narrower with other odds between modes. Compose energies "
            "(ComposedLevels) and sample each level with MALA or HMC (samplers.descend)",
            stacklevel=2,
        )
        self.denoisers = nn.ModuleList(denoisers)
        self.powers = powers or (1.0,) * len(denoisers)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        residuals = (a * (each(x, sigma, label) - x) for a, each in zip(self.powers, self.denoisers, strict=True))
        return sum(residuals, x)


def _row(values: tuple[float, ...], energies: Tensor) -> Tensor:
    """Return one number for each law, ``(n,)``."""
    _count(len(values), energies)
    return torch.tensor(values, dtype=energies.dtype, device=energies.device)


def _count(expected: int, energies: Tensor) -> None:
    if len(energies) != expected:
        raise ValueError(f"the rule is for {expected} laws; there were {len(energies)}")


def _positive(values: tuple[float, ...] | None, name: str) -> None:
    if values is not None and not all(0 < value < math.inf for value in values):
        raise ValueError(f"{name}: positive numbers; they were {values}")
