r"""Exact denoisers: ground truths for samplers, likelihoods and guidance.

Noise adds its variance to that of the data, :math:`p_\sigma = p * N(0, \sigma^2 I)`. So the law of noised data is known
if that of clean data is normal, a mixture of normal laws, or a finite set of points,

.. math:: p_\sigma(y) = \sum_m w_m\, N(y; \mu_m, \Sigma_m + \sigma^2 I), \qquad E(y, \sigma) = -\log p_\sigma(y).

Their energies are normalised at every level, so that here, and only here, levels can be compared. The denoiser is
:math:`D(y, \sigma) = y - \sigma^2\, \nabla E(y, \sigma)`, which is :math:`E[x \mid y]` exactly.
"""

import math
from typing import final

import torch
from torch import Tensor

from energyscape.data.distributions import mixture_log_prob
from energyscape.models.analytic import GaussianMixture
from energyscape.models.denoiser import EnergyDenoiser


@final
class GaussianDenoiser(EnergyDenoiser):
    r"""The exact denoiser of normal data.

    .. math:: D(y, \sigma) = \mu + \Sigma\, (\Sigma + \sigma^2 I)^{-1} (y - \mu)

    The covariance may be singular: data on a subspace, as images nearly are. It is diagonalised once, at a cost of
    :math:`d^3`; for a round law of many dimensions use a `MixtureDenoiser` of one mean.

    Args:
        mean: :math:`\mu`, of the event's shape, ``(*)``.
        covariance: :math:`\Sigma`, ``(d, d)`` over the flattened event, symmetric and positive semidefinite.

    Raises:
        ValueError: If the shapes do not fit or the covariance is not symmetric and positive semidefinite.

    Examples:
        >>> model = GaussianDenoiser(torch.zeros(2), torch.diag(torch.tensor([9.0, 0.0])))
        >>> model(torch.tensor([[5.0, 5.0]]), torch.tensor([4.0])).detach()
        tensor([[1.8000, 0.0000]])

    References:
        Tweedie's formula and selection bias (Efron, 2011), equation 2.8. https://doi.org/10.1198/jasa.2011.tm11181
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        d = mean.numel()
        if covariance.shape != (d, d):
            raise ValueError(
                f"a mean of {d} numbers goes with a covariance ({d}, {d}); it was {tuple(covariance.shape)}"
            )
        variances, axes = torch.linalg.eigh(covariance)
        rounding = d * torch.finfo(covariance.dtype).eps * float(variances.abs().max())
        if not torch.allclose(covariance, covariance.mT) or not float(variances.min()) >= -rounding:
            raise ValueError("the covariance is not symmetric and positive semidefinite")
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances.clamp(min=0))

    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        u = (x - self.mean).flatten(1) @ self.axes
        variance = self.variances + sigma.square().unsqueeze(1)
        return (u.square() / variance + (2 * math.pi * variance).log()).sum(1) / 2


@final
class MixtureDenoiser(EnergyDenoiser):
    r"""The exact denoiser of a mixture of round normal laws.

    .. math::
        D(y, \sigma) = \sum_m r_m(y)\, \frac{s^2 y + \sigma^2 \mu_m}{s^2 + \sigma^2}, \qquad
        r_m(y) \propto w_m\, N\bigl(y; \mu_m, (s^2 + \sigma^2) I\bigr)

    With a label it is conditional: the sum is over the components of that class, whose energy is
    :math:`-\log p_\sigma(y \mid \text{class})`. A label of :math:`-1` means all of them.

    Args:
        law: The mixture, of deviation :math:`s`.
        labels: Class of each component, ``(M,)``; by default each is its own class.

    Raises:
        ValueError: If there is not one label for each component.

    Examples:
        >>> law = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), std=0.5)
        >>> model = MixtureDenoiser(law)
        >>> model(torch.zeros(2, 2), torch.ones(2), torch.tensor([-1, 1])).detach()
        tensor([[0.0000, 0.0000], [1.6000, 0.0000]])
    """

    labels: Tensor

    def __init__(self, law: GaussianMixture, *, labels: Tensor | None = None) -> None:
        super().__init__()
        count = len(law.means)
        labels = torch.arange(count, device=law.means.device) if labels is None else labels
        if labels.shape != (count,):
            raise ValueError(f"there are {count} components, so as many labels; there were {tuple(labels.shape)}")
        self.law, self.classes = law, int(labels.max()) + 1
        self.register_buffer("labels", labels)

    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        std = (self.law.std**2 + sigma.square()).sqrt().unsqueeze(1)
        weights = self.law.weights if label is None else _within(label, self.labels, self.law.weights)
        return -mixture_log_prob(x.flatten(1), self.law.means.flatten(1), std, weights)


@final
class EmpiricalDenoiser(EnergyDenoiser):
    r"""The ideal denoiser of a finite data set, that of a network with a perfect fit.

    .. math:: D(y, \sigma) = \sum_i r_i(y)\, x_i, \qquad r_i(y) \propto \exp\bigl( -\|y - x_i\|^2 / 2 \sigma^2 \bigr)

    Sampling with it returns the data only: a trained denoiser gives new points through its errors.
    One evaluation costs a distance to every point. In single precision its energies at small levels are rough, its
    values are not.

    Args:
        points: :math:`x_i`, ``(N, *)``.
        labels: Class of each point, ``(N,)``; without them, a requested label is ignored.

    Raises:
        ValueError: If there are no points, or not one label for each.

    Examples:
        >>> model = EmpiricalDenoiser(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        >>> model(torch.tensor([[0.5, 7.0]]), torch.tensor([0.1])).detach()
        tensor([[1., 0.]])

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), equation 57.
        https://arxiv.org/abs/2206.00364
    """

    points: Tensor
    labels: Tensor | None

    def __init__(self, points: Tensor, *, labels: Tensor | None = None) -> None:
        super().__init__()
        if not len(points):
            raise ValueError("a data set has at least one point; there was none")
        if labels is not None and labels.shape != (len(points),):
            raise ValueError(f"there are {len(points)} points, so as many labels; there were {tuple(labels.shape)}")
        self.classes = 0 if labels is None else int(labels.max()) + 1
        self.register_buffer("points", points)
        self.register_buffer("labels", labels)

    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        y, points, variance = x.flatten(1), self.points.flatten(1), sigma.square()
        weights = points.new_full((1, len(points)), 1 / len(points))
        if label is not None and self.labels is not None:
            weights = _within(label, self.labels, weights)
        # -|y - x_i|² = 2 y·x_i - |x_i|² - |y|², whose last term is the same for all i: no (B, N, d) is needed.
        closeness = (y @ points.mT - points.square().sum(1) / 2) / variance.unsqueeze(1)
        log_sum = (weights.log() + closeness).logsumexp(1)
        return y.square().sum(1) / (2 * variance) - log_sum + y.shape[1] / 2 * (2 * math.pi * variance).log()


def _within(label: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weights of components given each point's class, ``(B, M)``; zero for other classes."""
    of_class = (labels == label.unsqueeze(1)) | (label.unsqueeze(1) == -1)
    inside = weights * of_class
    return inside / inside.sum(1, keepdim=True)
