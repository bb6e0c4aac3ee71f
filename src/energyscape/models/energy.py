r"""Energies: unnormalised densities :math:`p(x) \propto \exp(-E(x) / T)`; low is likely.

Only differences of energy mean anything: a constant added to :math:`E` changes no density, no score and no gap.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from energyscape.calculus import checked
from energyscape.errors import check_positive

Network = Callable[..., Tensor]
"""Any callable, usually an `torch.nn.Module`, from ``(B, *)`` to ``(B,)`` or ``(B, 1)``."""


class Energy(nn.Module, ABC):
    """A function from points to energies.

    Samplers take any callable ``(B, *) -> (B,)``; this class is for energies with parameters to train or a known
    truth.
    """

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the energy of each point.

        Args:
            x: Points, ``(B, *)``.
            label: Class of each point, ``(B,)``, for conditional energies.

        Returns:
            Energies, ``(B,)``.
        """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, label: Tensor | None = None) -> Tensor: ...


@final
class NeuralEnergy(Energy):
    r"""An energy computed by a network, optionally against a Gaussian reference.

    .. math:: E(x) = c\, f_\theta(x) + \frac{\|x\|^2}{2 s^2}

    Without the reference term nothing keeps :math:`\exp(-E)` integrable: a network with SiLU units is asymptotically
    linear, and may fall without limit in some direction.

    Data noised at :math:`\sigma` have scores of size :math:`1 / \sigma`. With :math:`s = \sigma` and
    :math:`c = 1 / \sigma^2`, the posterior mean is :math:`x - \sigma^2 \nabla E(x) = -\nabla f_\theta(x)`: the
    network's own gradient is a denoiser and starts at the right size.

    Args:
        network: Any callable from ``(B, *)`` to ``(B,)`` or ``(B, 1)``; called with ``(x, label)`` when there is a
            label.
        reference_std: :math:`s`, in units of ``x``; none leaves the term out.
        scale: :math:`c`, positive.

    Raises:
        ValueError: If ``reference_std`` or ``scale`` is not positive.

    Examples:
        >>> import torch
        >>> energy = NeuralEnergy(nn.Linear(2, 1), reference_std=3.0)
        >>> energy(torch.zeros(5, 2)).shape
        torch.Size([5])

    References:
        A theory of generative ConvNet (Xie et al., 2016), equation 2. https://arxiv.org/abs/1602.03264
    """

    def __init__(self, network: Network, *, reference_std: float | None = None, scale: float = 1.0) -> None:
        super().__init__()
        if reference_std is not None and not 0 < reference_std < math.inf:
            raise ValueError(f"reference_std is positive or none; it was {reference_std}")
        check_positive(scale=scale)
        self.network = network
        self.reference_std = reference_std
        self.scale = scale

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        f = self.network(x) if label is None else self.network(x, label)
        f = self.scale * checked(f.squeeze(1) if f.shape == (x.shape[0], 1) else f, x)
        if self.reference_std is None:
            return f
        return f + x.flatten(1).square().sum(1) / (2 * self.reference_std**2)
