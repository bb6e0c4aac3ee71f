r"""Maximum likelihood by Markov chains.

The likelihood's gradient is a difference of two expectations,

.. math:: -\nabla_\theta\, E_{\text{data}}[\log p_\theta(x)] = E_{\text{data}}[\nabla_\theta E_\theta(x)]
          - E_{p_\theta}[\nabla_\theta E_\theta(y)],

and the second one is taken over negatives :math:`y` that a kernel has moved for a few steps. The start of the chains
names the method: the data (CD-k), noise (short-run), or their last positions (persistent CD).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, final

import torch
from torch import Generator, Tensor, nn

from energyscape.errors import check_count
from energyscape.models.energy import Energy
from energyscape.objectives.base import Adjustment, Loss, Objective
from energyscape.objectives.chain_init import ChainInit
from energyscape.objectives.facts import Facts
from energyscape.samplers.base import KernelFactory, rms, with_step_factor, zero_energy
from energyscape.samplers.compiled import Steps

Regulariser = Literal["squared", "mean"]


@final
class ContrastiveDivergence(Objective):
    r"""Contrastive divergence with any start and any kernel.

    .. math:: L(\theta) = \overline{E_\theta(x + \sigma z)} - \overline{E_\theta(y)} + \alpha\, R, \qquad
              R = \overline{E_\theta(x + \sigma z)^2 + E_\theta(y)^2} \quad\text{or}\quad
              R = \bigl( \overline{E_\theta(x + \sigma z)} + \overline{E_\theta(y)} \bigr)^2

    The negatives :math:`y` are held fixed: no gradient flows through the chain. The loss does not measure progress:
    it stays near zero while the model improves. Labels are not used.

    Args:
        start: Starting points of the chains.
        kernel: Constructor of the transition from an energy.
        steps: Transitions of each chain a training step.
        data_noise: :math:`\sigma \ge 0`, in units of ``x``: the law of noised data is learned, which is smooth even if
            the data lie on a thin set. Noised data are reflected at the kernel's bounds, or clamped to them, as its
            chains are.
        alpha: :math:`\alpha \ge 0`, in units of one over energy squared.
        regulariser: Quantity held near zero. ``squared``: every energy, which opposes a calibrated one, so
            keep :math:`\alpha` far below the inverse variance of the energies. ``mean``: only the energies' free
            constant, which changes no density.
        compile: Whether to compile the chains' steps, which takes half a minute the first time; see `Steps`.

    Raises:
        ValueError: If ``steps``, ``data_noise`` or ``alpha`` is out of range.

    References:
        Training products of experts by minimizing contrastive divergence (Hinton, 2002), equation 5.
        https://doi.org/10.1162/089976602760128018
        Implicit generation and modeling with energy-based models (Du & Mordatch, 2019), equation 3 and section 3.
        https://arxiv.org/abs/1903.08689
    """

    def __init__(
        self,
        start: ChainInit,
        kernel: KernelFactory,
        *,
        steps: int,
        data_noise: float = 0.0,
        alpha: float = 0.0,
        regulariser: Regulariser = "squared",
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_count(steps=steps, most=1_000)
        if not (0 <= data_noise < math.inf and 0 <= alpha < math.inf):
            raise ValueError(f"data_noise ≥ 0 and alpha ≥ 0; they were {data_noise} and {alpha}")
        self.start, self.kernel, self.steps, self.compiled = start, kernel, steps, compile
        self.data_noise, self.alpha, self.regulariser = data_noise, alpha, regulariser
        made = kernel(zero_energy)
        self.temperature = made.temperature
        if made.bounds is not None:
            self.confined = made.confined
        self._chains: Steps | None = None
        self.adjust(Adjustment())

    def adjust(self, adjustment: Adjustment) -> None:
        if self._chains is not None:
            self.compiled = bool(self._chains.compile)  # chains that could not be compiled are not tried again
        self.adjustment, self._chains = adjustment, None
        self.level = max(self.data_noise, adjustment.data_noise)

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        clean, x = x, self.noised(x, generator=generator)
        y0, handle = self.start.draw(len(x), like=x, generator=generator)
        with evaluating(model):
            point, sums = self._steps(model).end(y0, generator=generator)
        y = point.x
        self.start.commit(handle, y)
        e_data, e_model = model(torch.cat([x, y])).split([len(x), len(y)])
        untrimmed, e_model = e_model, trimmed(e_model, e_data, self.adjustment.trim)
        noise, varied = sums.noise.mean() / self.steps, x.std(0, correction=0)
        spread = varied.square().mean().sqrt()
        facts: Facts[Tensor] = {
            **energy_facts(e_data, e_model),
            "drift": sums.drift.mean() / self.steps,
            "noise": noise,
            "accept_prob": sums.accept_prob.mean() / self.steps,
            "diverged": sums.diverged.sum(),
            "move": rms(y - y0).square().mean().sqrt(),
            "saturated": at_extremes(y, clean) - at_extremes(x, clean),
            "brightness": y.mean() - x.mean(),
            "data_std": spread,
            "model_std": y.std(0, correction=0).square().mean().sqrt(),
            "trimmed": (e_model < untrimmed).to(x.dtype).mean(),
            "degenerate": surely_below(varied, torch.minimum(noise, spread / 4), len(x)),
            "temperature": x.new_full((), self.temperature),
            **self.start.facts(),
        }
        penalty, pull = self._penalty(e_data, e_model)
        facts |= {"penalty": penalty, "pull": pull}
        loss = e_data.mean() - e_model.mean() + penalty
        return Loss(loss, {name: value.detach() for name, value in facts.items()})

    def _steps(self, model: Energy) -> Steps:
        """Return the chains' steps; reuse the compiled ones if the model is the same."""
        if self._chains is None or self._chains.kernel.energy is not model:
            kernel = with_step_factor(self.kernel(model), step=self.adjustment.step)
            self._chains = Steps(kernel, steps=self.steps, compile=self.compiled)
        return self._chains

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chains": None}  # a copy has its own chains

    def _penalty(self, e_data: Tensor, e_model: Tensor) -> tuple[Tensor, Tensor]:
        """Return the regulariser, and its derivative by an energy in units of the likelihood's."""
        alpha = self.alpha * self.adjustment.alpha
        if self.regulariser == "mean":
            both = e_data.mean() + e_model.mean()
            return alpha * both.square(), 2 * alpha * both.abs()
        squares = e_data.square().mean() + e_model.square().mean()
        return alpha * squares, 2 * alpha * (squares / 2).sqrt()

    def restart_diverged(self, model: Energy, x: Tensor, *, generator: Generator | None = None) -> int:
        """Restart chains whose energy is not finite or farther than ten spreads from that of the data."""
        x = self.noised(x, generator=generator)
        with evaluating(model), torch.no_grad():
            of_data = model(x)
            middle, spread = of_data.median(), (of_data - of_data.median()).abs().median() * 1.4826
            return self.start.restart_diverged(
                lambda y: ~((model(y) - middle).abs() <= DIVERGED_MADS * spread), generator=generator
            )


DIVERGED_MADS: Final = 10.0
"""Spreads (scaled median absolute deviations) from the data's energies at which a chain counts as diverged."""


def trimmed(e_model: Tensor, e_data: Tensor, most: float | None) -> Tensor:
    """Return negatives' energies, clamped so that those far above the data have no gradient."""
    if most is None:
        return e_model
    e_data = e_data.detach()
    clamped: Tensor = torch.minimum(e_model, e_data.median() + most * e_data.std(correction=0))
    return clamped


def energy_facts(e_data: Tensor, e_model: Tensor) -> Facts[Tensor]:
    """Return facts about a batch's energies."""
    above = torch.heaviside(e_model.detach().unsqueeze(1) - e_data.detach(), e_data.new_full((), 0.5))
    return {
        "energy_data": e_data.mean(),
        "energy_model": e_model.mean(),
        "gap": e_model.mean() - e_data.mean(),
        "spread": e_data.std(correction=0),
        "spread_model": e_model.std(correction=0),
        "auc": above.mean(),
    }


def surely_below(std: Tensor, limit: Tensor, n: int) -> Tensor:
    r"""Return the share of coordinates whose variance is below a limit by five standard errors of its estimate.

    The variance of ``n`` normal numbers has the relative error :math:`\sqrt{2 / n}`; below fifty points none is sure.
    """
    below: Tensor = std.square() < limit.square() * (1 - 5 * math.sqrt(2 / n))
    return below.to(std.dtype).mean()


def at_extremes(x: Tensor, like: Tensor) -> Tensor:
    """Return the share of coordinates at or beyond the extremes of other points."""
    return ((x <= like.min()) | (x >= like.max())).to(x.dtype).mean()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, so that chains follow one fixed energy."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
