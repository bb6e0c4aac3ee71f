r"""Learning to classify data against noise.

Between data from :math:`p` and noise from a known law :math:`q`, the best classifier's logit is the log-ratio
:math:`\log p(x) - \log q(x)` and a constant. A classifier of the form :math:`G(x) = -E_\theta(x) - \log q(x)` is
optimal only if :math:`E_\theta` is the data's energy. It needs no chain and no gradient in ``x``.

Success depends on the noise. Nothing is learned where no noise falls, and noise that is easily recognised teaches
nothing more. The noise should look like the data, only wider; beyond some tens of dimensions no fitted law does. Energy
discrepancy makes its noise from the data themselves.
"""

import math
from typing import Literal, final

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from energyscape.errors import UserError, check_count, check_positive
from energyscape.models.energy import Energy
from energyscape.noise import noised, normal_like, uniform_like
from energyscape.objectives.base import Loss, Objective, lazily_shaped
from energyscape.objectives.facts import Facts

NoiseLaw = Literal["gaussian", "uniform", "mixture"]

SHARES: dict[NoiseLaw, float] = {"gaussian": 1.0, "uniform": 0.0, "mixture": 0.5}
"""Share of normal noise; the rest is uniform."""

FULL = 128
"""Dimensions up to which the normal law has a full covariance; beyond, it is diagonal."""

FLOOR = 0.01
"""Smallest variance of the noise, relative to the mean variance: a pixel that is always black is a little noisy."""


@final
class NoiseContrastiveEstimation(Objective):
    r"""Noise-contrastive estimation: classifies single points as data or noise.

    .. math:: L(\theta, c) = -E_{\text{data}}[\log \sigma(G(x) - c - \log \nu)]
              - \nu\, E_q[\log \sigma(\log \nu + c - G(y))], \qquad G = -E_\theta - \log q

    At the optimum the learned :math:`c` is :math:`\log Z`, so that :math:`-E_\theta - c` is a normalised log density.
    Without the :math:`\log \nu` of the classes' sizes the energy would be the same, but :math:`c` would not.

    The noise law is fitted to the first batch and then stays; :math:`c` begins at its importance estimate there.

    Args:
        noise: A normal law with the data's mean and covariance, uniform on the box around the data, or half of each.
            A box teaches nothing about points outside it.
        ratio: :math:`\nu`, noise points for each data point.
        spread: Factor on the normal law's standard deviations and on the box's sides.

    Raises:
        ValueError: If ``noise`` is unknown, or ``ratio`` or ``spread`` is not positive.

    References:
        Noise-contrastive estimation of unnormalized statistical models, with applications to natural image statistics
        (Gutmann & Hyvärinen, 2012), section 2. https://www.jmlr.org/papers/v13/gutmann12a.html
    """

    log_z: nn.Parameter

    def __init__(self, *, noise: NoiseLaw = "gaussian", ratio: int = 1, spread: float = 1.2) -> None:
        super().__init__()
        check_count(ratio=ratio)
        self.ratio = ratio
        self.contrast = Contrast(noise, spread=spread)
        self.log_z = nn.Parameter(torch.zeros(()))

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        first = not self.contrast.fitted
        if first:
            self.contrast.fit(x)
        data, noise = _log_ratios(model, self.contrast, x, self.ratio, generator=generator)
        if first:
            self.log_z.data.copy_(_log_mean_exp(noise.detach()))
        data, noise = (each - self.log_z - math.log(self.ratio) for each in (data, noise))
        value = -logsigmoid(data).mean() - self.ratio * logsigmoid(-noise).mean()
        # Balanced: one half for an uninformed classifier, at any ratio.
        accuracy = ((data > 0).to(x).mean() + (noise < 0).to(x).mean()) / 2
        return Loss(value, {"accuracy": accuracy, "log_z": self.log_z.detach().clone()})


@final
class RankingNCE(Objective):
    r"""Ranking noise-contrastive estimation: picks the data point among noise points.

    .. math:: L(\theta) = -E\, \log \frac{e^{G(x)}}{e^{G(x)} + \sum_{k=1}^K e^{G(y_k)}},
              \qquad G = -E_\theta - \log q, \quad y_k \sim q

    A constant added to the energy cancels, so there is no :math:`\log Z` to learn. Without :math:`\log q` in
    :math:`G`, as in contrastive representation learning, the result is the energy of :math:`p / q`.

    The noise law is fitted to the first batch and then stays.

    Args:
        noise: A normal law with the data's mean and covariance, uniform on the box around the data, or half of each.
            A box teaches nothing about points outside it.
        ratio: :math:`K`, noise points for each data point.
        spread: Factor on the normal law's standard deviations and on the box's sides.

    Raises:
        ValueError: If ``noise`` is unknown, or ``ratio`` or ``spread`` is not positive.

    References:
        Noise contrastive estimation and negative sampling for conditional models: consistency and statistical
        efficiency (Ma & Collins, 2018), the ranking objective. https://arxiv.org/abs/1809.01812
    """

    def __init__(self, *, noise: NoiseLaw = "gaussian", ratio: int = 4, spread: float = 1.2) -> None:
        super().__init__()
        check_count(ratio=ratio)
        self.ratio = ratio
        self.contrast = Contrast(noise, spread=spread)

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        if not self.contrast.fitted:
            self.contrast.fit(x)
        data, noise = _log_ratios(model, self.contrast, x, self.ratio, generator=generator)
        # Not a softmax: a point outside the box has an infinite ratio, and its loss is zero.
        value = softplus(noise.logsumexp(1) - data).mean()
        accuracy = (data[:, None] > noise).all(1).to(x).mean()
        return Loss(value, {"accuracy": accuracy, "log_z": _log_mean_exp(noise.detach())})


@final
class EnergyDiscrepancy(Objective):
    r"""Energy discrepancy: compares data points with noised copies of themselves.

    .. math:: L(\theta) = E \log \Bigl( \frac w M + \frac 1 M \sum_{j=1}^M e^{E_\theta(x) - E_\theta(x_j)} \Bigr),
              \qquad x_j = x + \sqrt t\, z + \sqrt t\, z_j

    Data are spread by :math:`\sqrt t\, z`, and the :math:`x_j` are guesses of its origin. As :math:`M` grows it is the
    difference between the data's mean energy before and after a step of diffusion, which is least at the truth.
    :math:`w` keeps the logarithm from :math:`-\infty`.

    The weight also removes a bias. At :math:`w = 1` the point and its guesses are exchangeable but for the data's
    density, so the loss ranks them, a conditional form of `RankingNCE`. Its gradient then vanishes at the truth for
    every :math:`M`; at any other weight it does so only as :math:`M` grows.

    Args:
        time: :math:`t > 0`, variance of each of the two steps, in squared units of ``x``; a small one sees only the
            energy's local shape, as score matching does.
        samples: :math:`M`, guesses for each point.
        weight: :math:`w \ge 0`.

    Raises:
        ValueError: If ``time`` or ``samples`` is not positive, or ``weight`` is negative.

    References:
        Energy discrepancies: a score-independent loss for energy-based models (Schröder et al., 2023), section 4.
        https://arxiv.org/abs/2307.06431
        Conditional noise-contrastive estimation of unnormalised models (Ceylan & Gutmann, 2018), section 2.
        https://arxiv.org/abs/1806.03664
    """

    def __init__(self, *, time: float, samples: int = 16, weight: float = 1.0) -> None:
        super().__init__()
        check_positive(time=time)
        check_count(samples=samples)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is at least 0; it was {weight}")
        self.time, self.samples, self.weight = time, samples, weight

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        n, sigma = len(x), math.sqrt(self.time)
        y, _ = noised(x, sigma, generator=generator)
        guess, _ = noised(y.repeat_interleave(self.samples, 0), sigma, generator=generator)
        e, e_guess = model(torch.cat([x, guess])).split([n, len(guess)])
        fall = e[:, None] - e_guess.reshape(n, self.samples)
        weight = fall.new_full((n, 1), self.weight).log()
        value = torch.cat([weight, fall], 1).logsumexp(1).mean() - math.log(self.samples)
        facts: Facts[Tensor] = {"accuracy": (fall < 0).all(1).to(x).mean(), "gap": -fall.detach().mean()}
        return Loss(value, facts)


@final
class Contrast(nn.Module):
    r"""The law of the noise, :math:`q = a\, N(m, s^2 \Sigma) + (1 - a)\, U(\text{box})`, fitted to data.

    :math:`\Sigma` is the data's covariance, shrunk towards its diagonal by :math:`d / (n + d)` because :math:`n` points
    may be fewer than :math:`d` dimensions, or the diagonal alone beyond `FULL` dimensions.

    Args:
        noise: The parts of the mixture.
        spread: :math:`s`, factor on standard deviations and on the sides of the box.

    Raises:
        ValueError: If ``noise`` is unknown or ``spread`` is not positive.

    Examples:
        >>> contrast = Contrast("gaussian")
        >>> contrast.fit(torch.randn(100, 1, 4, 4))
        >>> contrast.draw(5, like=torch.zeros(1, 1, 4, 4)).shape
        torch.Size([5, 1, 4, 4])
    """

    mean: Tensor
    factor: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, noise: NoiseLaw, *, spread: float = 1.0) -> None:
        super().__init__()
        if noise not in SHARES:
            raise ValueError(f"noise is one of {', '.join(SHARES)}; it was {noise!r}")
        check_positive(spread=spread)
        self.share, self.spread = SHARES[noise], spread
        for name in ("mean", "factor", "low", "high"):
            self.register_buffer(name, torch.empty(0))
        lazily_shaped(self, *(name for name, _ in self.named_buffers(recurse=False)))

    @property
    def fitted(self) -> bool:
        """Whether the law has been fitted."""
        return self.mean.numel() > 0

    def fit(self, x: Tensor) -> None:
        """Fit the law."""
        points = x.detach().flatten(1)
        n, d = points.shape
        self.mean = points.mean(0)
        centred = points - self.mean
        variance = centred.square().mean(0)
        floor = FLOOR * variance.mean()
        if not float(floor) > 0:
            raise UserError(f"noise cannot be fitted to a batch of {n} equal points: raise the batch size")
        if d <= FULL:
            covariance = (centred.mT @ centred + d * variance.diag()) / (n + d)
            self.factor = self.spread * torch.linalg.cholesky(covariance + floor * torch.eye(d).to(covariance))
        else:
            self.factor = self.spread * (variance + floor).sqrt()
        low, high = points.aminmax(dim=0)
        half = self.spread * ((high - low) / 2).clamp(min=float(floor.sqrt()))
        self.low, self.high = (low + high) / 2 - half, (low + high) / 2 + half

    def draw(self, n: int, *, like: Tensor, generator: Generator | None = None) -> Tensor:
        """Return exact draws, ``(n, *)``."""
        blank = like.new_empty(n, self.mean.numel())
        z = normal_like(blank, generator=generator)
        normal = self.mean + (z @ self.factor.mT if self.factor.ndim > 1 else z * self.factor)
        uniform = self.low + (self.high - self.low) * uniform_like(blank, generator=generator)
        coin = uniform_like(blank[:, :1], generator=generator) < self.share
        return torch.where(coin, normal, uniform).reshape(n, *like.shape[1:])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density of each point, ``(B,)``, in nats."""
        points = x.detach().flatten(1)
        centred, diagonal = points - self.mean, self.factor
        if self.factor.ndim > 1:
            centred = torch.linalg.solve_triangular(self.factor, centred.mT, upper=False).mT
            diagonal = self.factor.diagonal()
        else:
            centred = centred / self.factor
        normal = -centred.square().sum(1) / 2 - diagonal.log().sum() - points.shape[1] / 2 * math.log(2 * math.pi)
        inside = ((points >= self.low) & (points <= self.high)).all(1)
        uniform = torch.where(inside, -(self.high - self.low).log().sum(), -math.inf)
        share = points.new_full((), self.share)
        return torch.logaddexp(normal + share.log(), uniform + (1 - share).log())


def _log_ratios(
    model: Energy, contrast: Contrast, x: Tensor, ratio: int, *, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Return G of the data, ``(B,)``, and of ``ratio`` noise points for each, ``(B, ratio)``."""
    y = contrast.draw(ratio * len(x), like=x, generator=generator)
    both = torch.cat([x, y])
    data, noise = (-model(both) - contrast.log_prob(both)).split([len(x), len(y)])
    return data, noise.reshape(len(x), ratio)


def _log_mean_exp(log_ratio: Tensor) -> Tensor:
    """Return the importance estimate of log Z from the noise."""
    return log_ratio.flatten().logsumexp(0) - math.log(log_ratio.numel())
