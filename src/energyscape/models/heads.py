r"""Scalar heads for networks that map points to points.

An energy needs a scalar. Read off a denoising network's output :math:`f(u)` as an inner product or a squared distance,
its slope is near :math:`f` itself,

.. math:: -\nabla_u \bigl( -\langle u, f(u) \rangle \bigr) = f(u) + J_f(u)^\top u,

so an architecture that denoises well also makes a good energy.

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
    r"""The inner product of input and output, :math:`-\langle u, f(u) \rangle`.

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
    r"""The distance of output and input, :math:`\tfrac12 \|u - f(u)\|^2 - \tfrac12 \|u\|^2`.

    The last term makes it vanish with :math:`f`; otherwise the quadratic part of the energy would count twice.

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
