r"""One number from a network that maps points to points.

An energy needs a scalar. Read off a denoising network's output :math:`f(u)` as an inner product or a squared distance,
its slope is near :math:`f` itself,

.. math:: -\nabla_u \bigl( -\langle u, f(u) \rangle \bigr) = f(u) + J_f(u)^\top u,

so that an architecture that is good at denoising stays good at it.

References:
    Should EBMs model the energy or the score? (Salimans & Ho, 2021), section 3.
    https://openreview.net/forum?id=9AS-TF2jRNb

    Reduce, reuse, recycle: compositional generation with energy-based diffusion models and MCMC (Du et al., 2023),
    section 4. https://arxiv.org/abs/2302.11552
"""

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from energyscape.models.preconditioning import DenoisingNetwork


@final
class InnerProduct(nn.Module):
    r"""The inner product of what goes in and what comes out, :math:`-\langle u, f(u) \rangle`.

    Args:
        network: :math:`f`.

    Examples:
        >>> import torch
        >>> InnerProduct(lambda u, noise, label: u)(torch.tensor([[3.0, 4.0]]), torch.zeros(1))
        tensor([-25.])
    """

    def __init__(self, network: DenoisingNetwork) -> None:
        super().__init__()
        self.network: DenoisingNetwork = network
        self.classes = int(getattr(network, "classes", 0))

    def forward(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return -(u * self.network(u, noise, label)).flatten(1).sum(1)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor: ...


@final
class Reconstruction(nn.Module):
    r"""How far what comes out is from what goes in, :math:`\tfrac12 \|u - f(u)\|^2 - \tfrac12 \|u\|^2`.

    Without its last term it would not vanish with :math:`f`, and the quadratic part of the energy would be there twice.

    Args:
        network: :math:`f`.

    Examples:
        >>> import torch
        >>> Reconstruction(lambda u, noise, label: 2 * u)(torch.tensor([[3.0, 4.0]]), torch.zeros(1))
        tensor([0.])
    """

    def __init__(self, network: DenoisingNetwork) -> None:
        super().__init__()
        self.network: DenoisingNetwork = network
        self.classes = int(getattr(network, "classes", 0))

    def forward(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        f = self.network(u, noise, label)
        return (f.square() / 2 - u * f).flatten(1).sum(1)

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor: ...
