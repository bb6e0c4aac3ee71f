"""RePaint and draws from the posterior against normal laws, whose every step is known in mean and covariance."""

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.models import Conditional, GaussianDenoiser, GaussianMixture, MixtureDenoiser
from energyscape.samplers import DDPM, DPMSolver, DPMSolverSDE, Euler, Heun, levels_from, repaint, solve
from energyscape.schedules import Karras, geometric

D = 6
MISSING = torch.tensor([False, False, True, True, True, False])
EYE = torch.eye(D, dtype=torch.float64)


def prior():
    """Mean and covariance: neighbours are correlated, and variances differ."""
    where = torch.arange(D, dtype=torch.float64)
    deviation = torch.linspace(0.4, 1.0, D, dtype=torch.float64)
    covariance = torch.exp(-(where - where.unsqueeze(1)).abs() / 3) * torch.outer(deviation, deviation)
    return torch.linspace(-0.5, 0.5, D, dtype=torch.float64), covariance


def observed():
    mean, covariance = prior()
    return mean + torch.linalg.cholesky(covariance) @ cases.normal(D, seed=3)


def conditional():
    """Mean and covariance of the missing coordinates given the known ones."""
    (mean, c), y = prior(), observed()
    gain = torch.linalg.solve(c[~MISSING][:, ~MISSING], c[~MISSING][:, MISSING]).mT
    return (
        mean[MISSING] + gain @ (y - mean)[~MISSING],
        c[MISSING][:, MISSING] - gain @ c[~MISSING][:, MISSING],
    )


def matrix(solver, sigma, below):
    """A step of a solver on normal data: its matrix about the mean and the variance of its noise."""
    _, c = prior()
    drift = lambda s: (EYE - torch.linalg.solve(c + s**2 * EYE, c)) / s  # (y - D) / s  # noqa: E731
    if isinstance(solver, DDPM):
        kept = below**2 / sigma**2
        return EYE - (1 - kept) * sigma * drift(sigma), kept * (sigma**2 - below**2)
    euler = EYE + (below - sigma) * drift(sigma)
    if isinstance(solver, Euler) or below == 0:
        return euler, 0.0
    return EYE + (below - sigma) / 2 * (drift(sigma) + drift(below) @ euler), 0.0


def expected(solver, resamplings, jump):
    """Mean and covariance of the missing coordinates at RePaint's end, by algorithm 1."""
    (mean, _), y, sigmas = prior(), observed(), solver.sigmas
    m, s = torch.where(MISSING, 0, y), sigmas[0] ** 2 * EYE

    def down(m, s, k):
        a, noise = matrix(solver, sigmas[k], sigmas[k + 1])
        m, s = mean + a @ (m - mean), a @ s @ a.mT + noise * EYE
        both = MISSING.unsqueeze(1) & MISSING
        known = torch.diag((~MISSING).double()) * sigmas[k + 1] ** 2
        return torch.where(MISSING, m, y), torch.where(both, s, 0) + known

    last = len(sigmas) - 1
    for k in range(last):
        m, s = down(m, s, k)
        if k + 1 < last and k + 1 >= jump and (last - 2 - k) % jump == 0:
            for _ in range(resamplings - 1):
                s = s + (sigmas[k + 1 - jump] ** 2 - sigmas[k + 1] ** 2) * EYE
                for inner in range(k + 1 - jump, k + 1):
                    m, s = down(m, s, inner)
    return m[MISSING], s[MISSING][:, MISSING]


def agree(x, mean, covariance):
    """Whether draws have a mean and a covariance, within 5 standard errors."""
    centred = x - mean
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    scores = [cases.z_score(x[:, i], float(mean[i])) for i in range(len(mean))]
    scores += [
        cases.z_score(products[:, i, j], float(covariance[i, j])) for i in range(len(mean)) for j in range(i + 1)
    ]
    return max(map(abs, scores)) < 5


def completed(solver, *, chains=2000, **settings):
    y = observed().expand(chains, D)
    *_, last = repaint(solver, y, MISSING, generator=cases.generator(1), **settings)
    assert torch.equal(last.x[:, ~MISSING], y[:, ~MISSING])
    assert last.steps == solver.steps
    return last.x[:, MISSING]


def made(kind, steps=10):
    return kind(GaussianDenoiser(*prior()), Karras(sigma_min=0.02, sigma_max=8.0)(steps))


@pytest.mark.parametrize(
    ("kind", "resamplings", "jump"), [(DDPM, 1, 1), (DDPM, 4, 1), (DDPM, 3, 4), (Heun, 3, 2), (Euler, 2, 1)]
)
def test_every_number_of_resamplings_has_its_known_law(kind, resamplings, jump):
    solver = made(kind)
    x = completed(solver, resamplings=resamplings, jump=jump)
    assert agree(x, *expected(solver, resamplings, jump))


def test_resampling_leads_to_the_conditional_law():
    solver, (mean, covariance) = made(Heun), conditional()
    assert agree(completed(solver, chains=1000, resamplings=80), mean, covariance)
    assert not agree(completed(solver, chains=1000, resamplings=1), mean, covariance)
    # The bias is known without draws: it falls as resamplings grow, and is below 2 % of a deviation at the end.
    errors = []
    for resamplings in (1, 4, 16, 80):
        m, s = expected(solver, resamplings, 1)
        deviation = covariance.diagonal().sqrt()
        errors.append(float(((m - mean) / deviation).square().mean().sqrt()))
        spread = float((s.diagonal() / covariance.diagonal() - 1).abs().max())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 0.02
    assert spread < 0.04
    # A first-order step's variance is short, and no resampling corrects that.
    assert float((expected(made(DDPM), 80, 1)[1].diagonal() / covariance.diagonal()).max()) < 0.8


def test_the_walk_goes_up_and_down_as_the_paper_says():
    solver = made(Heun, steps=7)
    visited = [each.steps for each in repaint(solver, cases.normal(2, D), MISSING, resamplings=2, jump=2)]
    assert visited == [1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6, 7]
    visited = [each.steps for each in repaint(made(Heun, steps=3), cases.normal(2, D), MISSING, resamplings=3)]
    assert visited == [1, 1, 1, 2, 2, 2, 3]


def test_known_parts_are_noised_as_much_as_the_others():
    inputs = []

    def denoise(x, sigma):
        inputs.append((x, sigma))
        return 0 * x

    y = torch.where(MISSING, 1e3, 50.0).double().expand(2000, D)
    solver = Euler(denoise, [8.0, 2.0, 0.5, 0.0])
    states = list(repaint(solver, y, MISSING, resamplings=2, generator=cases.generator(6)))
    ups = [(x, sigma[0]) for x, sigma in inputs] + [(each.x, solver.sigmas[each.steps]) for each in states[:-1]]
    for x, sigma in ups:
        for values, mean in ((x[:, ~MISSING], 50.0), (x[:, MISSING], 0.0)):
            assert abs(cases.z_score(values[:, 0], mean)) < 5
            assert abs(cases.z_score((values[:, 0] - mean).square(), float(sigma) ** 2)) < 5
    assert [float(sigma) for _, sigma in ups] == [8.0, 8.0, 2.0, 2.0, 0.5, 2.0, 2.0, 0.5, 0.5]


def test_each_point_has_its_own_missing_parts_and_images_are_points():
    law = MixtureDenoiser(
        GaussianMixture(cases.tensor([[[[0.9, 0.8], [0.1, -0.6]]], [[[-0.9, -0.8], [0.5, 0.4]]]]), std=0.01)
    )
    solver = Heun(Conditional(law, -1), Karras(sigma_max=8.0)(20))
    y = cases.tensor([[[[0.9, 7.0], [7.0, 7.0]]], [[[7.0, 7.0], [0.5, 0.4]]]])
    *_, last = repaint(solver, y, y == 7.0, resamplings=5, generator=cases.generator(2))
    assert (last.x - law.law.means).abs().max() < 0.1


def test_mistakes_are_refused():
    y, solver = cases.normal(2, D), made(Heun, steps=5)
    for wrong in ({"resamplings": 0}, {"jump": 0}, {"jump": 5}):
        with pytest.raises(UserError, match="resamplings is at least 1"):
            next(repaint(solver, y, MISSING, **wrong))
    with pytest.raises(UserError, match="truth values"):
        next(repaint(solver, y, MISSING.double()))
    for kind in (DPMSolver, DPMSolverSDE):
        with pytest.raises(UserError, match="multistep"):
            next(repaint(made(kind), y, MISSING))
    for sigma in (0.0, 8.1):
        with pytest.raises(UserError, match="at most the grid's highest"):
            levels_from(sigma, solver.sigmas)


# --- from a level down ------------------------------------------------------------------------------------------------


def test_levels_go_on_from_a_point():
    assert levels_from(1.0, [8.0, 1.0, 0.5, 0.0]) == [1.0, 0.5, 0.0]
    assert levels_from(0.7, [8.0, 1.0, 0.5, 0.0]) == [0.7, 0.5, 0.0]
    assert levels_from(8.0, [8.0, 1.0, 0.5, 0.0]) == [8.0, 1.0, 0.5, 0.0]


def test_a_noised_point_is_drawn_from_its_posterior_by_a_stochastic_solver_only():
    (mean, c), sigma = prior(), 0.7
    model, y = GaussianDenoiser(mean, c), observed().expand(2000, D)
    gain = torch.linalg.solve(c + sigma**2 * EYE, c)
    best, covariance = mean + (observed() - mean) @ gain, sigma**2 * gain
    torch.testing.assert_close(model(y[:1], y.new_full((1,), sigma))[0].detach(), best)
    levels = levels_from(sigma, [*geometric(0.01, 8.0, 400)[::-1], 0.0])
    *_, last = solve(DDPM(model, levels), y, generator=cases.generator(4))
    # 250 steps of 1.7 %: the variance is short by as much, half of its standard error of 3.2 %.
    assert agree(last.x, best, covariance)
    *_, last = solve(Heun(model, levels_from(sigma, Karras(sigma_max=8.0)(40))), y)
    assert float(last.x.std(0).max()) < 1e-12
    # That point is the mean moved by whole standard deviations: from y's among noised data to the same among clean.
    values, axes = torch.linalg.eigh(c)
    same = mean + ((observed() - mean) @ axes * (values / (values + sigma**2)).sqrt()) @ axes.mT
    assert torch.allclose(last.x[0], same, atol=5e-3)  # 40 steps of order 2 from 0.7 to 0.002
    assert (same - best).abs().max() > 0.1
