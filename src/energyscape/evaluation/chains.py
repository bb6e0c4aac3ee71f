r"""Convergence of chains, and the effective size of their draws.

The standard error of the mean of :math:`N` correlated draws of standard deviation :math:`s` is about
:math:`\operatorname{MCSE} = s / \sqrt{\operatorname{ESS}}`, with :math:`\operatorname{ESS} = N / (1 + 2 \sum_t \rho_t)`
and :math:`\rho_t` the autocorrelation at lag :math:`t`. :math:`\hat R` compares the spread between chains to that
within them, both on ranks; above 1.01 they disagree.

References:
    Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021), sections 3 and 4.
    https://doi.org/10.1214/20-BA1221; Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo
    (Betancourt, 2016), section 3, for E-BFMI. https://arxiv.org/abs/1604.00695
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from energyscape.calculus import EnergyFn
from energyscape.errors import UserError
from energyscape.samplers import MALA, Chain, run


def _arviz() -> Any:
    """Return ArviZ on plain arrays, which takes a second to import."""
    from arviz_stats.base.array import array_stats

    return array_stats


class Diagnosis(NamedTuple):
    r"""Diagnostics of chains in float64, one number a coordinate ``(*)``, and for E-BFMI one a chain.

    They are blind to a mode that no chain has found: start chains far apart.

    Args:
        r_hat: :math:`\hat R`, near 1 if the chains agree; infinite if they stand still at different places; NaN for one
            chain.
        ess: Bulk effective sample size, of all chains together; NaN where no chain has moved.
        mcse: Monte Carlo standard error of the mean, in units of ``x``; NaN where no chain has moved.
        bfmi: Estimated Bayesian fraction of missing information of each chain, ``(C,)``: the mean squared change of the
            Hamiltonian from draw to draw over its variance. Below 0.3 momenta are too weak to carry the chain from one
            energy to another. Of every step, so keep all (``thin=1``); NaN where only positions are known.
    """

    r_hat: Tensor
    ess: Tensor
    mcse: Tensor
    bfmi: Tensor


def diagnose(draws: Tensor | Chain) -> Diagnosis:
    r"""Return :math:`\hat R`, bulk effective sample size, Monte Carlo standard error and E-BFMI.

    Draws run along the *first* dimension and chains along the second, as `samplers.sample` keeps them; ArviZ has them
    the other way round.

    Examples:
        >>> draws = torch.randn(500, 4, 2, generator=torch.Generator().manual_seed(0))
        >>> bool((diagnose(draws).r_hat < 1.01).all())
        True
        >>> bool((diagnose(draws + torch.arange(4.0).view(1, 4, 1)).r_hat > 1.4).all())
        True
    """
    x = draws.x if isinstance(draws, Chain) else draws
    if x.ndim < 2 or len(x) < 4:
        raise UserError(f"draws are (K, C, *) with at least 4 draws of each chain; they were {tuple(x.shape)}")
    array = np.moveaxis(x.detach().cpu().double().numpy(), (0, 1), (-1, -2))
    arviz = _arviz()
    with np.errstate(all="ignore"):
        r_hat, ess, mcse = (np.asarray(f(array)) for f in (arviz.rhat, arviz.ess, arviz.mcse))
    # ArviZ gives a chain that never moved a full effective sample size and no error.
    still = (array == array[..., :1]).all((-1, -2))
    apart = (array[..., 0].max(-1) > array[..., 0].min(-1)) & still
    r_hat = np.where(apart, np.inf, np.where(still, np.nan, r_hat))
    ess, mcse = np.where(still, np.nan, ess), np.where(still, np.nan, mcse)
    return Diagnosis(torch.from_numpy(r_hat), torch.from_numpy(ess), torch.from_numpy(mcse), _bfmi(draws))


def _bfmi(draws: Tensor | Chain) -> Tensor:
    if not isinstance(draws, Chain):
        return torch.full(draws.shape[1:2], torch.nan, dtype=torch.float64)
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.asarray(_arviz().bfmi(draws.hamiltonian.detach().cpu().double().numpy().T)))


def acceptance(
    energy: EnergyFn,
    x: Tensor,
    *,
    step_size: float,
    temperature: float = 1.0,
    steps: int = 10,
    bounds: tuple[float, float] | None = None,
    generator: Generator | None = None,
) -> float:
    """Return the mean acceptance probability of a few steps of `MALA`: a probe of a step size.

    Near 1, an unadjusted chain of the same step and temperature samples nearly the right law. Near 0, its step size
    determines the samples.

    Examples:
        >>> flat = acceptance(lambda x: 0 * x.sum(1), torch.zeros(4, 2), step_size=1.0)
        >>> flat
        1.0
    """
    kernel = MALA(energy, step_size=step_size, temperature=temperature, bounds=bounds)
    _, info = run(kernel, x, steps=steps, generator=generator)
    return float(info.accept_prob.mean() / steps)
