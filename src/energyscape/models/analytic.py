r"""Energies with exact samples and exact :math:`\log Z`.

They give every sampler, objective and estimator a ground truth, on plane, vector and image shapes alike.
"""

import math
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from energyscape.data.distributions import mixture_log_prob
from energyscape.models.energy import Energy
from energyscape.noise import normal_like


@final
class Gaussian(Energy):
    r"""A multivariate normal law.

    .. math:: E(x) = \tfrac12 (x - \mu)^\top \Sigma^{-1} (x - \mu), \qquad \log Z = \tfrac12 \log\det(2 \pi \Sigma)

    Args:
        mean: :math:`\mu`, of the event's shape, ``(*)``; images too.
        covariance: :math:`\Sigma`, ``(d, d)`` over the flattened event; symmetric and positive definite.

    Raises:
        ValueError: If the shapes do not fit or the covariance is not positive definite.

    Examples:
        >>> energy = Gaussian(torch.zeros(2), torch.eye(2))
        >>> energy(torch.tensor([[1.0, 2.0]]))
        tensor([2.5000])
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        d = mean.numel()
        if covariance.shape != (d, d):
            raise ValueError(
                f"a mean of {d} numbers goes with a covariance ({d}, {d}); it was {tuple(covariance.shape)}"
            )
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if bool(failed) or not torch.allclose(covariance, covariance.mT):
            raise ValueError("the covariance is not symmetric and positive definite")
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        centred = (x - self.mean).flatten(1)
        white: Tensor = torch.linalg.solve_triangular(self.factor, centred.mT, upper=False)
        return white.square().sum(0) / 2

    @property
    def log_z(self) -> float:
        """The logarithm of the normalising constant, in nats."""
        return float(self.factor.diagonal().log().sum() + self.mean.numel() / 2 * math.log(2 * math.pi))

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Return exact draws, ``(n, *)``."""
        z = torch.empty(n, self.mean.numel(), dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + (z.normal_(generator=generator) @ self.factor.mT).reshape(n, *self.mean.shape)


@final
class GaussianMixture(Energy):
    r"""A mixture of round normal laws, normalised: :math:`\log Z = 0`.

    .. math:: E(x) = -\log \sum_m w_m\, N(x; \mu_m, \sigma^2 I)

    Args:
        means: :math:`\mu_m`, ``(M, *)``.
        std: :math:`\sigma`, in units of ``x``.
        weights: :math:`w_m`, ``(M,)``, scaled here to sum to one; equal by default.

    Raises:
        ValueError: If ``std`` or a weight is not positive, or the number of weights is not that of means.
    """

    means: Tensor
    weights: Tensor

    def __init__(self, means: Tensor, *, std: float, weights: Tensor | None = None) -> None:
        super().__init__()
        weights = means.new_ones(len(means)) if weights is None else weights.to(means)
        if not std > 0:
            raise ValueError(f"std is positive; it was {std}")
        if weights.shape != (len(means),) or not bool((weights > 0).all()):
            raise ValueError(f"there are {len(means)} means, so weights are {len(means)} positive numbers")
        self.std = std
        self.register_buffer("means", means)
        self.register_buffer("weights", weights / weights.sum())

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return -mixture_log_prob(x.flatten(1), self.means.flatten(1), self.std, self.weights)

    @property
    def log_z(self) -> float:
        """Zero: the energy is minus a log density."""
        return 0.0

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Return exact draws, ``(n, *)``."""
        mode = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        x = self.means[mode]
        return x + self.std * normal_like(x, generator=generator)


@final
class GaussianBernoulliRBM(Energy):
    r"""A restricted Boltzmann machine with continuous visible and binary hidden units, the latter summed out.

    .. math::
        E(x, h) &= \frac{\|x - b\|^2}{2 \sigma^2} - \sum_j h_j \left( c_j + \frac{w_j \cdot x}{\sigma^2} \right),
        \qquad h \in \{0, 1\}^H \\
        E(x) &= -\log \sum_h e^{-E(x, h)}
        = \frac{\|x - b\|^2}{2 \sigma^2} - \sum_j \operatorname{softplus}(c_j + w_j \cdot x / \sigma^2)

    It equals a mixture of :math:`2^H` round Gaussians: given :math:`h` the mean is
    :math:`b + \sum_j h_j w_j`, and completing the square gives the weight of each,

    .. math::
        Z = (2 \pi \sigma^2)^{d / 2} \sum_h
        \exp\left( c \cdot h + \frac{b \cdot W h}{\sigma^2} + \frac{\|W h\|^2}{2 \sigma^2} \right).

    Conventions differ in the power of :math:`\sigma` under :math:`w_j \cdot x`: with :math:`\sigma^2` the columns of
    :math:`W` are in units of ``x``. The truth costs :math:`2^H` terms, the energy only :math:`H`.

    Args:
        weights: :math:`w_j`, in units of ``x``, ``(H, *)`` with :math:`1 \le H \le 16`.
        visible: :math:`b`, of the event's shape, ``(*)``.
        hidden: :math:`c_j`, ``(H,)``.
        std: :math:`\sigma`, in units of ``x``.

    Raises:
        ValueError: If the shapes do not fit, there are more than 16 hidden units, or ``std`` is not positive.

    Examples:
        >>> energy = GaussianBernoulliRBM(torch.tensor([[3.0, 0.0]]), torch.zeros(2), torch.tensor([-4.5]), std=1.0)
        >>> energy(torch.tensor([[0.0, 1.0], [3.0, 1.0]]))  # two Gaussians of equal weight, at 0 and at (3, 0)
        tensor([0.4890, 0.4890])

    References:
        Improved learning of Gaussian-Bernoulli restricted Boltzmann machines (Cho, Ilin & Raiko, 2011), equation 3.
        https://doi.org/10.1007/978-3-642-21735-7_2
    """

    weights: Tensor
    visible: Tensor
    hidden: Tensor

    def __init__(self, weights: Tensor, visible: Tensor, hidden: Tensor, *, std: float) -> None:
        super().__init__()
        units = len(weights) if weights.ndim else 0
        if not 1 <= units <= 16:
            raise ValueError(f"from 1 to 16 hidden units, whose states are all visited; there were {units}")
        if weights.shape[1:] != visible.shape or hidden.shape != (units,):
            raise ValueError(
                f"weights (H, *), visible (*) and hidden (H,); they were {tuple(weights.shape)}, "
                f"{tuple(visible.shape)} and {tuple(hidden.shape)}"
            )
        if not std > 0:
            raise ValueError(f"std is positive; it was {std}")
        self.std = std
        self.register_buffer("weights", weights)
        self.register_buffer("visible", visible)
        self.register_buffer("hidden", hidden)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        field = self.hidden + x.flatten(1) @ self.weights.flatten(1).mT / self.std**2
        return (x - self.visible).flatten(1).square().sum(1) / (2 * self.std**2) - softplus(field).sum(1)

    @property
    def log_z(self) -> float:
        """The logarithm of the normalising constant, in nats."""
        _, log_weights = self._states()
        d = self.visible.numel()
        return float(log_weights.logsumexp(0)) + d / 2 * math.log(2 * math.pi * self.std**2)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Return exact draws, ``(n, *)``."""
        states, log_weights = self._states()
        h = states[torch.multinomial(log_weights.softmax(0), n, replacement=True, generator=generator)]
        mean = self.visible.flatten() + h.to(self.weights) @ self.weights.flatten(1)
        x = mean.reshape(n, *self.visible.shape)
        return x + self.std * normal_like(x, generator=generator)

    def _states(self) -> tuple[Tensor, Tensor]:
        """Return all states of the hidden units, ``(2^H, H)``, and the unnormalised log weight of each, in float64."""
        bit = torch.arange(len(self.weights), device=self.weights.device)
        h = (torch.arange(2 ** len(self.weights), device=bit.device).unsqueeze(1) >> bit & 1).double()
        w, b = self.weights.flatten(1).double(), self.visible.flatten().double()
        linear = self.hidden.double() + w @ b / self.std**2
        return h, h @ linear + (h @ (w @ w.mT) * h).sum(1) / (2 * self.std**2)
