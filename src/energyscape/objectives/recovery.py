r"""Diffusion recovery likelihood: maximum likelihood, one noise level at a time.

With levels :math:`\sigma_0 < \dots < \sigma_L` and :math:`\tau_i^2 = \sigma_{i+1}^2 - \sigma_i^2`, a data point is
noised to :math:`x_i = x + \sigma_i z` and on to :math:`\tilde x = x_i + \tau_i z'`, which has the law of level
:math:`i + 1`. The model of level :math:`i` recovers the one from the other,

.. math:: p_\theta(x_i \mid \tilde x) = \frac{1}{Z_\theta(\tilde x)}
          \exp\Bigl( -E_\theta(x_i, \sigma_i) - \frac{\|\tilde x - x_i\|^2}{2 \tau_i^2} \Bigr),

and because the second term has no parameters, the gradient of the log-likelihood is that of contrastive divergence,

.. math:: -\nabla_\theta \log p_\theta(x_i \mid \tilde x) = \nabla_\theta E_\theta(x_i, \sigma_i)
          - E_{x^- \sim p_\theta(\cdot \mid \tilde x)}[\nabla_\theta E_\theta(x^-, \sigma_i)].

The right conditional law implies the right marginal one: :math:`E(x, \sigma_i) = -\log p_{\sigma_i}(x)` up to a
constant, wherever noised points lie.
"""

import math
from typing import final

import torch
from torch import Generator, Tensor

from energyscape.errors import check_count
from energyscape.models.denoiser import EnergyDenoiser
from energyscape.noise import normal_like
from energyscape.objectives.base import Adjustment, Loss, Objective
from energyscape.objectives.contrastive import energy_facts, evaluating
from energyscape.objectives.denoising import score_losses
from energyscape.objectives.facts import Facts
from energyscape.samplers.base import KernelFactory, expand, rms, with_step_factor
from energyscape.samplers.driver import run
from energyscape.samplers.recovery import NoiseLevel, check_temperature, conditional, rungs
from energyscape.schedules import geometric


@final
class DiffusionRecoveryLikelihood(Objective[EnergyDenoiser]):
    r"""Maximum likelihood of the points before one level's noise, at all noise levels at once.

    .. math:: L(\theta) = \frac{1}{L} \sum_{i < L} E\bigl[ E_\theta(x_i, \sigma_i) - E_\theta(x^-, \sigma_i) \bigr],
              \qquad x^- \sim p_\theta(\cdot \mid \tilde x)

    The negatives come from a short chain and are held fixed. The conditional law has hardly more than one mode, so the
    chain forgets its start: neither buffer nor clipping is needed, and longer chains give the same samples. This holds
    for a kernel with a Metropolis test. Do not follow the energy, or test, without the term of the noise.

    The chain runs on :math:`u = (x - \tilde x) / s_i` (see `samplers.recovery.conditional`), in which deviations are
    between 1 and the factor :math:`\sigma_{i+1} / \sigma_i` (keep it below two). It starts at the data's own
    :math:`x_i`, a draw of the true conditional law. A rejected proposal then leaves negative and data equal and has no
    gradient. A rejection at :math:`\tilde x` would raise the energy there, steepen the landscape, and lead to more
    rejections until the run diverges.

    With a ``score_weight`` :math:`\lambda` the same points also train by denoising score matching, which has the same
    optimum,

    .. math:: L(\theta) + \frac{\lambda}{L} \sum_{i < L}
              \frac12 \Bigl( \frac{1}{\sigma_i^2} + \frac{1}{\sigma_d^2} \Bigr)
              E\, \| D_\theta(x_i, \sigma_i) - x \|^2 ;

    it needs no chains and its gradients have little variance. So the whole batch trains the slopes, and a ``share`` of
    it suffices for chains, which compare the energies of distant places.

    The result is a family of laws, of which ``model.at(sigma_min)`` is nearest to the data: that of data *noised at*
    :math:`\sigma_{\min}`. `RecoveryDescent` samples from it, down the same levels. Labels are not used.

    Args:
        kernel: The transition of the conditional chains, its lengths in units of
            :math:`s_i = \sigma_i \tau_i / \sigma_{i+1}`: their law has deviations between 1 and the factor from level
            to level, at every level.
        steps: Transitions of each chain a training step.
        sigma_min: :math:`\sigma_0 > 0`, in units of ``x``.
        sigma_max: :math:`\sigma_L > \sigma_0`, in units of ``x``: beyond the size of the data.
        levels: Number of levels that are learned, :math:`L`, spaced geometrically; the topmost of all,
            :math:`\sigma_L`, is only drawn from.
        score_weight: :math:`\lambda \ge 0`.
        data_std: :math:`\sigma_d > 0`, the deviation of each coordinate of the data; None leaves its term out.
        share: The part of each batch that has a chain, above 0 and at most 1, rounded to at least one point.

    Raises:
        ValueError: If ``steps`` or ``levels`` is not positive, the levels do not rise, another setting is out of its
            range, or the kernel's temperature is not 1.

    References:
        Learning energy-based models by diffusion recovery likelihood (Gao, Song, Poole, Wu & Kingma, 2021), equations 4
        and 6 and algorithm 1. https://arxiv.org/abs/2012.08125
    """

    def __init__(
        self,
        kernel: KernelFactory,
        *,
        steps: int,
        sigma_min: float,
        sigma_max: float,
        levels: int = 6,
        score_weight: float = 0.0,
        data_std: float | None = None,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        check_count(steps=steps, levels=levels, most=1_000)
        if not 0 <= score_weight < math.inf or not 0 < share <= 1:
            raise ValueError(f"score_weight ≥ 0 and 0 < share ≤ 1; they were {score_weight} and {share}")
        if data_std is not None and not 0 < data_std < math.inf:
            raise ValueError(f"data_std is positive or none; it was {data_std}")
        check_temperature(kernel)
        self.sigmas = geometric(sigma_min, sigma_max, levels)
        self.kernel, self.steps, self.level = kernel, steps, sigma_min
        self.score_weight, self.data_std, self.share = score_weight, data_std, share
        self.adjust(Adjustment())

    def adjust(self, adjustment: Adjustment) -> None:
        self.adjustment = adjustment

    def forward(
        self, model: EnergyDenoiser, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        levels = len(self.sigmas) - 1
        # Every level gets an equal share of the batch; the remainder rotates.
        shift = torch.randint(levels, (1,), generator=generator, device=x.device)
        level = (torch.arange(len(x), device=x.device) + shift) % levels
        rung = rungs(self.sigmas, like=x).of(level)
        positive = x + expand(rung.sigma, x) * normal_like(x, generator=generator)
        value = x.new_zeros(())
        facts: Facts[Tensor] = {}
        if self.score_weight:
            losses, relative = score_losses(model, positive, x, rung.sigma, data_std=self.data_std)
            value, facts["relative"] = self.score_weight * losses.mean(), relative.mean()
        some = max(1, round(self.share * len(x)))
        x, positive, level, rung = x[:some], positive[:some], level[:some], NoiseLevel(*(each[:some] for each in rung))
        anchor = positive + expand(rung.noise, x) * normal_like(x, generator=generator)
        kernel = with_step_factor(self.kernel(conditional(model.energy, anchor, rung)), step=self.adjustment.step)
        with evaluating(model):
            start = (positive - anchor) / expand(rung.unit, x)
            point, sums = run(kernel, start, steps=self.steps, generator=generator)
        negative = anchor + expand(rung.unit, x) * point.x
        sigmas = torch.cat([rung.sigma, rung.sigma])
        e_data, e_model = model.energy(torch.cat([positive, negative]), sigmas).split([len(x), len(x)])
        accept_prob = sums.accept_prob / self.steps
        # Each level's energies have a free constant, so subtract the level's mean before comparing. It is the mean of
        # data and negatives together, because a level may have a single data point.
        middle = _means((e_data + e_model).detach() / 2, level, levels)[level]
        facts |= {
            **energy_facts(e_data - middle, e_model - middle),
            "drift": sums.drift.mean() / self.steps,
            "noise": sums.noise.mean() / self.steps,
            "accept_prob": accept_prob.mean(),
            "accept_least": _means(accept_prob, level, levels)[level].min(),
            "diverged": sums.diverged.sum(),
            "move": rms(point.x - start).square().mean().sqrt(),
        }
        return Loss(value + (e_data - e_model).mean(), {name: value.detach() for name, value in facts.items()})


def _means(values: Tensor, level: Tensor, levels: int) -> Tensor:
    """Return the mean of the values at each level, ``(L,)``; zero for levels without values."""
    inside = torch.nn.functional.one_hot(level, levels).to(values)
    return values @ inside / inside.sum(0).clamp(min=1)
