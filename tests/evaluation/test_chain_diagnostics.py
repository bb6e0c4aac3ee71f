"""R-hat, effective sample size and Monte Carlo error of chains whose truth is known."""

import math

import pytest
import torch

from energyscape.errors import UserError
from energyscape.evaluation import acceptance, auc, diagnose, nearest
from energyscape.samplers import HMC, MALA, sample


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def autoregressive(k, c, d, rho, seed=0):
    """Stationary chains of unit variance and autocorrelation rho^t."""
    z = torch.randn(k, c, d, generator=generator(seed), dtype=torch.float64)
    x = [z[0]]
    for each in z[1:]:
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * each)
    return torch.stack(x)


def test_independent_draws_are_worth_their_number():
    diagnosis = diagnose(autoregressive(1000, 4, 8, 0.0))
    assert (diagnosis.r_hat < 1.01).all()
    # The estimate's relative standard error is of order sqrt(lags / N), a few per cent here; 15 % is 5 of them.
    assert ((diagnosis.ess / 4000 - 1).abs() < 0.15).all()
    torch.testing.assert_close(diagnosis.mcse, torch.full((8,), 4000**-0.5).double(), rtol=0.1, atol=0)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_autocorrelated_draws(rho):
    diagnosis = diagnose(autoregressive(4000, 4, 8, rho))
    truth = 16_000 * (1 - rho) / (1 + rho)
    # The mean of 8 coordinates; each alone is off by some 5 %.
    assert diagnosis.ess.mean() / truth == pytest.approx(1, abs=0.1)
    assert diagnosis.mcse.mean() == pytest.approx(truth**-0.5, rel=0.05)


def test_draws_run_along_the_first_dimension():
    # One chain displaced: seen only if chains are taken for chains.
    x = autoregressive(400, 4, 2, 0.0)
    x[:, 3, 1] += 5
    diagnosis = diagnose(x)
    assert diagnosis.r_hat[0] < 1.02
    assert diagnosis.r_hat[1] > 1.5
    assert diagnosis.ess[1] < 20


def test_images_and_kept_chains():
    x = autoregressive(100, 4, 6, 0.3)
    flat = diagnose(x)
    shaped = diagnose(x.view(100, 4, 1, 2, 3))
    assert torch.equal(shaped.ess, flat.ess.view(1, 2, 3))
    kernel = MALA(lambda y: y.square().sum(1) / 2, step_size=0.8)
    kept = sample(kernel, torch.randn(8, 3, generator=generator()), steps=60, generator=generator(1))
    assert torch.equal(diagnose(kept).r_hat, diagnose(kept.x).r_hat)


def test_chains_that_never_moved_are_worth_nothing():
    together, apart = torch.zeros(50, 4, 1), torch.arange(4.0).view(1, 4, 1).expand(50, 4, 1)
    diagnosis = diagnose(torch.cat([together, apart], 2))
    assert diagnosis.r_hat[0].isnan()
    assert diagnosis.r_hat[1] == math.inf
    assert diagnosis.ess.isnan().all()
    assert diagnosis.mcse.isnan().all()


def test_bfmi_is_twice_one_minus_the_autocorrelation_of_the_hamiltonian():
    kernel = MALA(lambda y: y.square().sum(1) / 2, step_size=0.8)
    kept = sample(kernel, torch.randn(4, 3, generator=generator()), steps=400, generator=generator(1))
    for rho in (0.0, 0.9):
        diagnosis = diagnose(kept._replace(hamiltonian=autoregressive(4000, 4, 1, rho)[..., 0]))
        assert diagnosis.bfmi.shape == (4,)
        # Relative errors of 4000 squares: of differences, nearly independent, and of the draws, correlated by ρ².
        error = (2 / 4000) ** 0.5 + (2 / 4000 * (1 + rho**2) / (1 - rho**2)) ** 0.5
        assert ((diagnosis.bfmi / (2 * (1 - rho)) - 1).abs() < 5 * error).all()
    diagnosis = diagnose(kept)
    h = kept.hamiltonian.double()
    truth = h.diff(dim=0).square().mean(0) / h.var(0)
    torch.testing.assert_close(diagnosis.bfmi, truth, rtol=1e-6, atol=0)
    assert diagnose(kept.x).bfmi.isnan().all()


def test_bfmi_sees_momenta_that_are_too_weak():
    """Many dimensions of a heavy-tailed law: its energies differ by more than the momenta's in one step."""
    heavy, light = (lambda x, nu=nu: (nu + 50) / 2 * (x.square().sum(1) / nu).log1p() for nu in (2.0, 2000.0))
    results = []
    for energy in (heavy, light):
        kernel = HMC(energy, step_size=0.3, leapfrog_steps=5)
        chain = sample(
            kernel, torch.randn(8, 50, generator=generator(2)), steps=300, burn_in=100, generator=generator(3)
        )
        results.append(float(diagnose(chain).bfmi.mean()))
    assert results[0] < 0.3 < 0.7 < results[1]


def test_too_few_draws_is_an_error():
    with pytest.raises(UserError, match="4 draws"):
        diagnose(torch.zeros(3, 4, 2))


@pytest.mark.parametrize("temperature", [1.0, 0.04])
def test_acceptance_in_one_dimension(temperature):
    # Started in the target N(0, T). With E = x^2 / 2 MALA's log ratio is -(eta / 4 T) (x'^2 - x^2), so that in units of
    # sqrt(T) the mean of min(1, exp) is one integral over x and z, whatever T.
    eta, n = 0.9, 20_000
    draws = generator(3)
    x = temperature**0.5 * torch.randn(n, 1, generator=draws)
    found = acceptance(
        lambda y: y.square().sum(1) / 2, x, step_size=eta, temperature=temperature, steps=2, generator=draws
    )
    node = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    a, z = torch.meshgrid(node, node, indexing="ij")
    b = (1 - eta) * a + (2 * eta) ** 0.5 * z
    weight = torch.exp(-(a**2 + z**2) / 2)
    truth = float((weight * torch.exp(-eta / 4 * (b**2 - a**2)).clamp(max=1)).sum() / weight.sum())
    # At most 0.5 in deviation, 20,000 chains; few steps: a wrong temperature soon has its own law.
    assert found == pytest.approx(truth, abs=5 * 0.5 / n**0.5)


def test_auc_by_hand():
    # Pairs (1: 0 < 1, tie, < 2) and (3: above all): 1 + 0.5 + 3 of 6.
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0, 1.0])) == 0.75
    assert auc(torch.tensor([5.0, math.inf]), torch.tensor([1.0])) == 1.0
    assert auc(torch.tensor([0.0]), torch.tensor([1.0, 1.0])) == 0.0
    assert math.isnan(auc(torch.tensor([math.nan, 1.0]), torch.tensor([1.0])))


def test_auc_against_scikit_learn():
    from sklearn.metrics import roc_auc_score

    negative, positive = (torch.randint(0, 40, (n,), generator=generator(n)).double() for n in (300, 170))
    known = torch.cat([torch.ones(300), torch.zeros(170)])
    assert auc(negative, positive) == pytest.approx(roc_auc_score(known, torch.cat([negative, positive])), abs=1e-12)


def test_nearest_among_more_than_one_batch():
    reference = torch.arange(10_000.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    x = torch.tensor([9_999.0, 4_096.25, -3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    # Every one of 4 pixels is off by the same.
    assert nearest(x, reference).tolist() == [0.0, 0.5, 6.0]
    with pytest.raises(ValueError, match="one event shape"):
        nearest(x, reference[:, :, :1])
