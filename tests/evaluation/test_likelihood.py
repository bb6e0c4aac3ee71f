"""Annealed importance sampling where the constant is known, and where it must fail and say so."""

import dataclasses
import functools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.evaluation import Path, bracket, forward_ais, pilot, reverse_ais
from energyscape.evaluation.likelihood import bennett
from energyscape.models import Gaussian, GaussianBernoulliRBM, GaussianMixture, NeuralEnergy
from energyscape.samplers import HMC, MALA


def round_base(d, std, mean=0.0):
    return Gaussian(torch.full((d,), mean, dtype=torch.float64), std**2 * torch.eye(d, dtype=torch.float64))


def gaussian(d):
    a = cases.normal(d, d, seed=d)
    return Gaussian(torch.ones(d, dtype=torch.float64), 0.4 * torch.eye(d, dtype=torch.float64) + a @ a.mT / d)


def near():
    """A law near enough to N(0, 1.1² I) that both directions' weights have a variance from the first level on."""
    return Gaussian(cases.tensor([0.3, -0.2]), cases.tensor([[1.1, 0.2], [0.2, 0.9]]))


def moved():
    return Gaussian(cases.tensor([1.2, -0.5]), cases.tensor([[0.8, 0.2], [0.2, 0.6]]))


def mixture():
    means = cases.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])
    return GaussianMixture(means, std=0.5, weights=cases.tensor([0.5, 0.2, 0.3]))


def rbm():
    return GaussianBernoulliRBM(
        1.2 * cases.normal(5, 6, seed=1), cases.normal(6, seed=2), cases.normal(5, seed=3) - 2, std=0.8
    )


WALKS = {
    "gaussian": (lambda: gaussian(2), lambda: round_base(2, 2.0), 20),
    "gaussian:few levels": (moved, lambda: round_base(2, 1.1), 4),
    "gaussian:importance sampling": (near, lambda: round_base(2, 1.1), 1),
    "gaussian:10-D": (lambda: gaussian(10), lambda: round_base(10, 1.8), 60),
    "mixture": (mixture, lambda: round_base(2, 2.5), 20),
    "rbm": (rbm, lambda: round_base(6, 2.5), 100),
}
"""Name → energy, base and levels with which weights have a variance in both directions."""

KERNELS = {"mala": MALA, "hmc": functools.partial(HMC, leapfrog_steps=3, jitter=0.5)}


@functools.cache
def walked(name, kernel="mala"):
    make, base, levels = WALKS[name]
    energy, base, draws = make(), base(), cases.generator(7)
    path = pilot(energy, base, levels=levels, kernel=KERNELS[kernel], generator=draws)
    n = 3000
    forward = forward_ais(path, n, generator=draws)
    return energy, base, forward, reverse_ais(path, energy.sample(n, generator=draws), generator=draws)


@pytest.mark.parametrize("name", WALKS)
def test_mean_weights_are_ratios_of_constants(name):
    energy, base, forward, reverse = walked(name)
    ratio = energy.log_z - base.log_z
    for estimate, sign in ((forward, 1), (reverse, -1)):
        # With fewer effective weights than this the z-score means nothing.
        assert estimate.ess > 0.05 * len(estimate.log_weights)
        w = (estimate.log_weights - sign * ratio).exp()
        assert abs(cases.z_score(w, 1.0)) < 5
        assert estimate.log_z == pytest.approx(base.log_z + sign * float(estimate.log_weights.exp().mean().log()))
        assert estimate.error == pytest.approx(float(w.std() / w.mean()) / len(w) ** 0.5)
        assert estimate.ess == pytest.approx(float(w.sum() ** 2 / w.square().sum()))


def test_hamiltonian_transitions_do_as_well():
    energy, base, forward, reverse = walked("gaussian:10-D", "hmc")
    ratio = energy.log_z - base.log_z
    assert abs(cases.z_score((forward.log_weights - ratio).exp(), 1.0)) < 5
    assert abs(cases.z_score((reverse.log_weights + ratio).exp(), 1.0)) < 5
    # The pilot found a step for trajectories as it did for single steps, and no level has lost it.
    for each in (forward, reverse, walked("gaussian:10-D")[2]):
        assert 0.5 < each.accept_prob < 0.8


@pytest.mark.parametrize("name", ["gaussian", "gaussian:10-D", "mixture", "rbm"])
def test_errors_are_those_of_repetition(name):
    _, _, forward, reverse = walked(name)
    for estimate in (forward, reverse):
        parts = estimate.log_weights.view(60, -1)
        means = parts.logsumexp(1) - math.log(parts.shape[1])
        # Sixty runs of fifty chains each have together the error of one run of all; it is known to 5 / sqrt(120),
        # and the weights' tails make it worse by the logarithm's curvature.
        ratio = float(means.std()) / math.sqrt(60) / estimate.error
        assert 0.54 < ratio < 1.46


@pytest.mark.parametrize("levels", [1, 3, 20])
def test_weights_are_exact_for_every_number_of_levels_and_moves(levels):
    # Weights taken after the move, or of the wrong level, are off by much where levels are few.
    energy, base, draws = moved() if levels > 1 else near(), round_base(2, 1.1), cases.generator(levels)
    path = dataclasses.replace(pilot(energy, base, levels=levels, generator=draws), moves=3)
    ratio = energy.log_z - base.log_z
    forward, reverse = (
        forward_ais(path, 20_000, generator=draws),
        reverse_ais(path, energy.sample(20_000, generator=draws), generator=draws),
    )
    assert abs(cases.z_score((forward.log_weights - ratio).exp(), 1.0)) < 5
    assert abs(cases.z_score((reverse.log_weights + ratio).exp(), 1.0)) < 5


def test_one_level_is_importance_sampling():
    energy, base = gaussian(2), round_base(2, 2.0)
    path = Path(energy, base, temperature=0.7, betas=(0.0, 1.0), step_sizes=(1.0, 1.0))
    x = base.sample(50, generator=cases.generator(3))
    forward = forward_ais(path, 50, generator=cases.generator(3))
    torch.testing.assert_close(forward.log_weights, base(x) - energy(x) / 0.7)
    torch.testing.assert_close(reverse_ais(path, x).log_weights, energy(x) / 0.7 - base(x))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_is_the_energys_alone(temperature):
    energy, base, draws = gaussian(2), round_base(2, 3.0), cases.generator(5)
    # At T the covariance is T times as large: log Z + d / 2 log T.
    truth = energy.log_z + math.log(temperature)
    exact = energy.mean + temperature**0.5 * (energy.sample(4000, generator=draws) - energy.mean)
    found = bracket(energy, base, exact, temperature=temperature, levels=40, generator=draws)
    assert found.reason == ""
    assert abs(found.value - truth) < 5 * found.error < 0.2
    ratio = truth - base.log_z
    assert abs(cases.z_score((found.forward.log_weights - ratio).exp(), 1.0)) < 5
    assert abs(cases.z_score((found.reverse.log_weights + ratio).exp(), 1.0)) < 5


@pytest.mark.parametrize("name", ["gaussian", "gaussian:10-D", "mixture", "rbm"])
def test_a_bracket_that_closes_holds_the_truth(name):
    make, base, levels = WALKS[name]
    energy, draws = make(), cases.generator(11)
    found = bracket(energy, base(), energy.sample(1000, generator=draws), levels=2 * levels, generator=draws)
    assert found.reason == ""
    assert found.lower < energy.log_z < found.upper
    assert found.upper - found.lower <= 0.5
    assert abs(found.value - energy.log_z) < 5 * found.error
    assert 0.2 < found.forward.accept_prob < 1


def test_far_narrow_modes_that_the_base_never_feeds_are_refused():
    far = GaussianMixture(cases.tensor([[30.0, 0.0], [-30.0, 1.0]]), std=0.1)
    draws = cases.generator(1)
    found = bracket(far, round_base(2, 1.0), far.sample(500, generator=draws), levels=10, generator=draws)
    assert math.isnan(found.value)
    assert math.isnan(found.error)
    assert "forward weights are worth" in found.reason
    assert "of 500 chains" in found.reason
    assert "nats wide" in found.reason
    # Neither end is wrong about its side.
    assert found.lower < far.log_z < found.upper


def test_a_law_much_sharper_than_the_levels_is_refused():
    sharp, draws = round_base(20, 0.01, mean=1.0), cases.generator(2)
    found = bracket(sharp, round_base(20, 1.0), sharp.sample(500, generator=draws), levels=3, generator=draws)
    assert math.isnan(found.value)
    assert found.lower < sharp.log_z < found.upper
    assert found.upper - found.lower > 10


def unfed():
    """Half of the mass is where the base is not."""
    return GaussianMixture(cases.tensor([[0.0, 0.0], [30.0, 1.0]]), std=0.5), round_base(2, 1.0)


def test_a_mode_that_the_base_does_not_feed_leaves_the_bracket_open():
    (energy, base), draws = unfed(), cases.generator(3)
    exact = energy.sample(1000, generator=draws)
    found = bracket(energy, base, exact, levels=60, generator=draws)
    # Forward finds half of the mass with a tiny error, reverse all of it.
    assert abs(found.forward.log_z + math.log(2)) < 5 * found.forward.error < 0.1
    assert abs(found.reverse.log_z) < 5 * found.reverse.error < 0.2
    assert math.isnan(found.value)
    assert "a gap of 0.6" in found.reason or "a gap of 0.7" in found.reason
    # With a wide tolerance the error is half of the gap.
    wide = bracket(energy, base, exact, levels=60, tolerance=1.0, generator=draws)
    assert abs(wide.value) < wide.error
    assert wide.error == pytest.approx(math.log(2) / 2, abs=0.1)


def test_draws_that_lack_what_the_base_lacks_close_the_bracket_on_the_rest():
    (energy, base), draws = unfed(), cases.generator(4)
    exact = energy.sample(1000, generator=draws)
    found = bracket(energy, base, exact[exact[:, 0] < 15], levels=60, generator=draws)
    # The documented limit of the method: it needs exact draws, and cannot see that it was not given them.
    assert found.reason == ""
    assert found.value == pytest.approx(-math.log(2), abs=0.05)


def test_draws_of_another_law_cross_the_bounds():
    energy, base, draws = round_base(2, 0.5), round_base(2, 2.0), cases.generator(5)
    # With many levels the transitions would have made exact draws of them before they gain weight.
    wide = 1.5 * energy.sample(2000, generator=draws)
    found = bracket(energy, base, wide, levels=3, tolerance=5.0, generator=draws)
    assert math.isnan(found.value)
    assert "the draws are not exact" in found.reason


def test_bennett_is_the_best_of_both_directions():
    # Work that is normal, N(-v / 2, v) forward about log Z, is N(-v / 2, v) in reverse about -log Z (Crooks).
    values, errors, draws = [], [], cases.generator(6)
    for _ in range(200):
        forward, reverse = (torch.randn(n, generator=draws, dtype=torch.float64) - 0.5 for n in (200, 300))
        value, error = bennett(forward + 2.0, reverse - 2.0)
        values.append(value)
        errors.append(error)
    values, errors = cases.tensor(values), cases.tensor(errors)
    assert abs(cases.z_score(values, 2.0)) < 5
    # The spread of 200 values is known to 5 / sqrt(400).
    assert 0.75 < float(values.std() / errors.mean()) < 1.25
    swapped = bennett(reverse, forward)[0]
    assert swapped == pytest.approx(-bennett(forward, reverse)[0], abs=1e-9)


def test_bennett_weighs_an_unfed_mode_by_the_reverse_draws():
    dead = torch.full((50,), -torch.inf, dtype=torch.float64)
    alive = torch.zeros(50, dtype=torch.float64)
    # All forward weights are 1, half of the reverse ones 1 and half 0: Z / Z_0 = 2.
    assert bennett(torch.zeros(100, dtype=torch.float64), torch.cat([alive, dead]))[0] == pytest.approx(math.log(2))


def test_the_levels_lie_where_the_path_is_steep():
    energy, base = round_base(10, 0.05), round_base(10, 1.0)
    path = pilot(energy, base, levels=100, generator=cases.generator(8))
    precision = torch.tensor([1 + 399 * beta for beta in path.betas], dtype=torch.float64)
    # The spread of E - E0 goes as 1 / precision, so that equal lengths are equal ratios of the precisions.
    ratios = precision.log().diff()
    assert len(path.betas) == 101
    assert float(ratios.max() / ratios.min()) < 4
    steps = torch.tensor(path.step_sizes, dtype=torch.float64)
    # The step follows the variance, 1 / precision, over two and a half orders of magnitude.
    scaled = (steps * precision)[1:-1]
    assert float(scaled.max() / scaled.min()) < 3


def test_points_of_infinite_energy_have_no_weight():
    def half(x):
        """A normal law's right half, normalised by log(2)."""
        return torch.where(x[:, 0] > 0, x.square().sum(1) / 2, torch.inf)

    base, draws = round_base(2, 1.0), cases.generator(9)
    forward = forward_ais(pilot(half, base, levels=5, generator=draws), 4000, generator=draws)
    w = (forward.log_weights - math.log(math.pi) + base.log_z).exp()
    assert abs(cases.z_score(w, 1.0)) < 5
    found = bracket(lambda x: x.sum(1) * math.nan, base, base.sample(20), levels=3, generator=draws)
    assert math.isnan(found.value)
    assert "nan" in found.reason


def test_images_float32_networks_and_equal_bits():
    energy = cases.neural((1, 4, 4), reference_std=1.0)
    base = Gaussian(torch.zeros(1, 4, 4), torch.eye(16))
    results = []
    for _ in range(2):
        draws = cases.generator(3)
        path = pilot(energy, base, levels=5, generator=draws)
        results.append(forward_ais(path, 10, generator=draws))
    assert torch.equal(results[0].log_weights, results[1].log_weights)
    assert results[0].log_weights.dtype == torch.float64
    assert all(each.grad is None and each.requires_grad for each in energy.parameters())
    # Without its network the energy is the base itself.
    flat = NeuralEnergy(lambda x: x.flatten(1).sum(1) * 0 + 3, reference_std=1.0)
    found = bracket(flat, base, base.sample(50, generator=draws), levels=4, generator=draws)
    # Energies of about 10 in single precision are off by 1e-6.
    assert found.value == pytest.approx(base.log_z - 3, abs=1e-4)


def test_a_kernel_with_a_temperature_of_its_own_is_refused():
    # Its law would be another than that of the weights.
    energy, base = Gaussian(torch.ones(2), torch.eye(2)), Gaussian(torch.zeros(2), torch.eye(2))
    for make in (pilot, lambda *given, **rest: bracket(*given, energy.sample(20), **rest)):
        with pytest.raises(ValueError, match=r"temperature is 1 here.*was 4\.0: leave it out"):
            make(energy, base, levels=3, kernel=functools.partial(MALA, temperature=4.0))


def test_a_mistake_is_an_error():
    energy, base = gaussian(2), round_base(2, 2.0)
    path = Path(energy, base, temperature=1.0, betas=(0.0, 1.0), step_sizes=(1.0, 1.0))
    with pytest.raises(UserError, match="rise from 0 to 1"):
        dataclasses.replace(path, betas=(0.0, 0.5))
    with pytest.raises(UserError, match="rise from 0 to 1"):
        dataclasses.replace(path, betas=(0.0, 0.6, 0.5, 1.0), step_sizes=(1.0,) * 4)
    with pytest.raises(UserError, match="a step size for each of 2"):
        dataclasses.replace(path, step_sizes=(1.0,))
    with pytest.raises(UserError, match="temperature"):
        pilot(energy, base, temperature=0.0)
    with pytest.raises(UserError, match="levels"):
        pilot(energy, base, levels=0)
    with pytest.raises(UserError, match="2 chains"):
        forward_ais(path, 1)
    with pytest.raises(UserError, match="2 exact draws"):
        reverse_ais(path, torch.zeros(1, 2))
    with pytest.raises(UserError, match="tolerance"):
        bracket(energy, base, torch.zeros(9, 2), tolerance=0.0)
