r"""Denoising score matching.

The score of noised data is learned by regressing on the noise that was added: for :math:`y = x + \sigma z`,
:math:`\nabla_y \log p_\sigma(y) = E[-z / \sigma \mid y]`. In terms of the denoiser
:math:`D(y, \sigma) = y + \sigma^2 s(y, \sigma)`,

.. math:: \tfrac12 \Bigl\| s(y, \sigma) + \frac{z}{\sigma} \Bigr\|^2 = \frac{1}{2 \sigma^4} \| D(y, \sigma) - x \|^2,

so a weight on one is a weight on the other.
"""

import math
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.calculus import score
from energyscape.errors import check_count, check_positive
from energyscape.models.denoiser import Denoiser, EnergyDenoiser, column
from energyscape.models.energy import Energy
from energyscape.noise import noised, normal_like
from energyscape.objectives.base import Loss, Objective
from energyscape.objectives.facts import Fact, Facts
from energyscape.objectives.level_weights import Weight
from energyscape.schedules import SigmaDistribution

BANDS: tuple[Fact, ...] = ("relative_low", "relative_middle", "relative_high")
"""Thirds of the range of noise levels, on a logarithmic scale."""


@final
class DenoisingScoreMatching(Objective[Energy]):
    r"""Denoising score matching at one noise level.

    .. math:: L(\theta) = E\, \tfrac12 \Bigl\| -\nabla_y E_\theta(y) + \frac{z}{\sigma} \Bigr\|^2,
              \qquad y = x + \sigma z

    It learns the energy of data *noised at* :math:`\sigma`, not of clean data. The score points towards the data,
    against the noise. Labels are not used.

    Args:
        sigma: :math:`\sigma > 0`, in units of ``x``.

    Raises:
        ValueError: If ``sigma`` is not positive.

    References:
        A connection between score matching and denoising autoencoders (Vincent, 2011), equation 9.
        https://doi.org/10.1162/NECO_a_00142
    """

    def __init__(self, *, sigma: float) -> None:
        super().__init__()
        check_positive(sigma=sigma)
        self.level = sigma

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        sigma = self.level
        y, z = noised(x, sigma, generator=generator)
        s = score(model, y, create_graph=True)
        residual = (sigma * s + z).flatten(1).square()
        # One for a zero score, at any sigma and dimension.
        facts: Facts[Tensor] = {
            "relative": residual.mean().detach(),
            "score_norm": s.detach().flatten(1).norm(dim=1).mean(),
        }
        return Loss(residual.sum(1).mean() / (2 * sigma**2), facts)


@final
class MultiscaleDenoisingScoreMatching(Objective[EnergyDenoiser]):
    r"""Denoising score matching at all noise levels at once, with one model.

    .. math:: L(\theta) = E_\sigma\, \tfrac12 \Bigl( \frac{1}{\sigma^2} + \frac{1}{\sigma_d^2} \Bigr)
              E\, \| D_\theta(x + \sigma z, \sigma) - x \|^2,
              \qquad \ln \sigma \sim U[\ln \sigma_{\min}, \ln \sigma_{\max}]

    The result is a family of laws, of which ``model.at(sigma_min)`` is nearest to the data: that of data *noised at*
    :math:`\sigma_{\min}`. Low noise determines the score near the data, but not how separate modes share the mass. High
    noise does, and the model must carry this down from level to level. So the levels are dense, and
    :math:`\sigma_{\max}` is as large as the distance of the modes.

    The noise levels of a batch are a randomly shifted even grid, so that none is missed by chance. Labels are not
    used.

    Args:
        sigma_min: :math:`\sigma_{\min} > 0`, in units of ``x``.
        sigma_max: :math:`\sigma_{\max} > \sigma_{\min}`, in units of ``x``.
        data_std: :math:`\sigma_d > 0`, the deviation of each coordinate of the data; None drops its term from
            the weight, which is then that of noise-conditional score networks instead of EDM's.

    Raises:
        ValueError: If the levels are not positive and rising, or ``data_std`` is not positive.

    References:
        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), equation 2 and table 1:
        the weight. https://arxiv.org/abs/2206.00364

        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), equation 6: the
        weight without :math:`\sigma_d`. https://arxiv.org/abs/1907.05600

        Variational diffusion models (Kingma et al., 2021), appendix I.1: the shifted grid.
        https://arxiv.org/abs/2107.00630
    """

    def __init__(self, *, sigma_min: float, sigma_max: float, data_std: float | None = None) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"0 < sigma_min < sigma_max; they were {sigma_min} and {sigma_max}")
        if data_std is not None and not 0 < data_std < math.inf:
            raise ValueError(f"data_std is positive or none; it was {data_std}")
        self.level, self.sigma_max, self.data_std = sigma_min, sigma_max, data_std

    def forward(
        self, model: EnergyDenoiser, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        share = shifted_grid(x, generator=generator)
        sigma = self.level * (share * math.log(self.sigma_max / self.level)).exp()
        y = x + column(sigma, x) * normal_like(x, generator=generator)
        losses, relative = score_losses(model, y, x, sigma, data_std=self.data_std)
        return Loss(losses.mean(), _by_band(relative, share))


def score_losses(
    model: Denoiser, y: Tensor, x: Tensor, sigma: Tensor, *, data_std: float | None
) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\tfrac12 (1 / \sigma^2 + 1 / \sigma_d^2) \| D(y, \sigma) - x \|^2` of each point, ``(B,)``.

    Also return the squared error over the noise's own, detached: one if no noise is removed, at any level.
    """
    relative = ((model(y, sigma) - x) / column(sigma, x)).flatten(1).square()
    weight = 1 if data_std is None else 1 + (sigma / data_std).square()
    return weight * relative.sum(1) / 2, relative.detach().mean(1)


@final
class Denoising(Objective[Denoiser]):
    r"""Denoising score matching at all levels of a law: NCSN, DDPM, EDM and flow matching.

    .. math:: L(\theta) = E_{\sigma} \frac{\lambda(\sigma)}{d} E\, \| D_\theta(x + \sigma z, \sigma) - x \|^2

    The names of the literature are rows of levels, weight and preconditioning: a ladder with :math:`1 / \sigma^2` is
    NCSN, the chain's levels with it DDPM, log-normal levels with EDM's weight EDM.

    The levels of a batch are a randomly shifted even grid of quantiles, so that none is missed by chance. This lowers
    the variance of the value and keeps its expectation.

    Args:
        levels: The law of :math:`\sigma`, in units of ``x``.
        weight: :math:`\lambda(\sigma)`.
        label_dropout: Probability with which a point's class is withheld, so that one network learns the conditional
            and the unconditional denoiser; none uses no classes at all. Guidance, restoration and likelihood need the
            unconditional one, which is not trained at 0.

    Raises:
        ValueError: If ``label_dropout`` is no probability.

    References:
        Generative modeling by estimating gradients of the data distribution (Song & Ermon, 2019), equation 6.
        https://arxiv.org/abs/1907.05600

        Denoising diffusion probabilistic models (Ho, Jain & Abbeel, 2020), equation 14.
        https://arxiv.org/abs/2006.11239

        Elucidating the design space of diffusion-based generative models (Karras et al., 2022), equation 8.
        https://arxiv.org/abs/2206.00364

        Classifier-free diffusion guidance (Ho & Salimans, 2022), algorithm 1: the dropout.
        https://arxiv.org/abs/2207.12598
    """

    def __init__(self, *, levels: SigmaDistribution, weight: Weight, label_dropout: float | None = None) -> None:
        super().__init__()
        _check_dropout(label_dropout)
        self.levels, self.weight, self.label_dropout = levels, weight, label_dropout
        self.conditional = label_dropout is not None

    def forward(
        self, model: Denoiser, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        shown = _withheld(label, self.label_dropout, generator)
        sigma, squared, facts = _errors(model, x, self.levels, shown, generator)
        return Loss((self.weight(sigma) * squared).mean(), facts)


@final
class UncertaintyWeightedDenoising(Objective[Denoiser]):
    r"""Denoising score matching at all levels, each weighted by its attainable error.

    .. math:: L(\theta, w) = E_\sigma \Bigl[ \frac{\lambda(\sigma)}{d\, e^{w(\sigma)}}
              E\, \| D_\theta(x + \sigma z, \sigma) - x \|^2 + w(\sigma) \Bigr]

    At the best :math:`w` every level's term is one, so the gradients of all levels have one size, however hard each
    level is. Beyond the levels of training :math:`w` is arbitrary. The loss falls below zero in training; the fact
    ``loss`` is the weighted error without :math:`w`.

    Args:
        levels: The law of :math:`\sigma`, in units of ``x``.
        weight: :math:`\lambda(\sigma)`, from which :math:`w` departs.
        label_dropout: Probability with which a point's class is withheld; none uses no classes at all.
        frequencies: Pairs of waves in :math:`\tfrac14 \ln \sigma` that sum to :math:`w`.

    Raises:
        ValueError: If ``label_dropout`` is no probability or ``frequencies`` is not positive.

    References:
        Analyzing and improving the training dynamics of diffusion models (Karras et al., 2024), equations 14 to 16.
        https://arxiv.org/abs/2312.02696

        Multi-task learning using uncertainty to weigh losses (Kendall, Gal & Cipolla, 2018), equation 5.
        https://arxiv.org/abs/1705.07115
    """

    def __init__(
        self, *, levels: SigmaDistribution, weight: Weight, label_dropout: float | None = None, frequencies: int = 8
    ) -> None:
        super().__init__()
        _check_dropout(label_dropout)
        check_count(frequencies=frequencies)
        self.levels, self.weight, self.label_dropout = levels, weight, label_dropout
        self.conditional = label_dropout is not None
        self.waves = torch.nn.Parameter(torch.zeros(2 * frequencies + 1))

    def uncertainty(self, sigma: Tensor) -> Tensor:
        r"""Return :math:`w(\sigma)` of noise levels, ``(B,)``."""
        angle = (sigma.log() / 4).unsqueeze(1) * torch.arange(1, len(self.waves) // 2 + 1).to(sigma)
        waves = torch.cat([torch.ones_like(angle[:, :1]), angle.cos(), angle.sin()], 1)
        return waves @ self.waves.to(sigma)

    def forward(
        self, model: Denoiser, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        shown = _withheld(label, self.label_dropout, generator)
        sigma, squared, facts = _errors(model, x, self.levels, shown, generator)
        weighted, w = self.weight(sigma) * squared, self.uncertainty(sigma)
        return Loss((weighted / w.exp() + w).mean(), {**facts, "loss": weighted.detach().mean()})


def _check_dropout(label_dropout: float | None) -> None:
    if label_dropout is not None and not 0 <= label_dropout <= 1:
        raise ValueError(f"label_dropout is a probability or none; it was {label_dropout}")


def _withheld(label: Tensor | None, dropout: float | None, generator: Generator | None) -> Tensor | None:
    """Return the classes, some of them replaced by -1, which means none; None without a dropout."""
    if label is None or dropout is None:
        return None
    u = torch.empty(len(label), device=label.device).uniform_(generator=generator)
    return torch.where(u < dropout, -1, label)


def _errors(
    model: Denoiser, x: Tensor, levels: SigmaDistribution, label: Tensor | None, generator: Generator | None
) -> tuple[Tensor, Tensor, Facts[Tensor]]:
    """Return noise levels ``(B,)``, the denoiser's mean squared error over each point's coordinates, and facts."""
    u = shifted_grid(x, generator=generator)
    sigma = levels.quantile(u)
    y = x + column(sigma, x) * normal_like(x, generator=generator)
    squared = (model(y, sigma, label) - x).flatten(1).square().mean(1)
    return sigma, squared, _by_band((squared / sigma.square()).detach(), u)


def shifted_grid(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    r"""Return evenly spread numbers, each of them uniform on [0, 1).

    .. math:: t_i = (u + i / B) \bmod 1, \qquad u \sim U[0, 1)
    """
    u = torch.empty(1, dtype=x.dtype, device=x.device).uniform_(generator=generator)
    return (u + torch.arange(len(x), dtype=x.dtype, device=x.device) / len(x)) % 1


def _by_band(relative: Tensor, share: Tensor) -> Facts[Tensor]:
    """Return the mean of each point's value, and that of each third of the levels; zero if a third is empty."""
    band = (share * len(BANDS)).long()
    inside = torch.nn.functional.one_hot(band, len(BANDS)).to(relative)
    means = relative @ inside / inside.sum(0).clamp(min=1)
    return {"relative": relative.mean(), **{name: means[i] for i, name in enumerate(BANDS)}}
