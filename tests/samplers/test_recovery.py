r"""Diffusion recovery likelihood, its ladder of conditional chains, and its networks: closed forms on Gaussians.

For data from N(0, v I) the law at a level is N(0, (v + σ²) I). Where a model says that the precision at level i is p,
its conditional law given the point y of the level above is N(m y, c I) with

.. math:: c = \frac{1}{p + 1 / \tau_i^2}, \qquad m = c / \tau_i^2, \qquad \tau_i^2 = \sigma_{i+1}^2 - \sigma_i^2,

and at the truth m = (v + σ_i²) / (v + σ_{i+1}²), so that what a descent keeps of its start telescopes.
"""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

import cases
from energyscape.calculus import score
from energyscape.errors import UserError
from energyscape.models import CleanEnergyDenoiser, EnergyDenoiser, NoiseConvNet, ScalarEnergyDenoiser
from energyscape.noise import normal_like
from energyscape.objectives import DiffusionRecoveryLikelihood
from energyscape.objectives.base import Adjustment
from energyscape.recipe import Experiment, Recipe
from energyscape.registry import build
from energyscape.rng import global_seed
from energyscape.samplers import DESCENTS, HMC, MALA, Langevin, RecoveryDescent, UnderdampedLangevin, run, simulate
from energyscape.samplers.base import expand
from energyscape.samplers.recovery import NoiseLevel, conditional, rungs
from energyscape.schedules import geometric

V = 1.3
SIGMAS = [0.3, 0.6, 1.2, 2.4]
GOOD = functools.partial(HMC, step_size=0.9, leapfrog_steps=3, jitter=0.4)
"""A kernel after ten steps of which nothing is left of where a conditional chain began."""


class Tabled(EnergyDenoiser):
    """E = p_i |x|² / 2, with one parameter a level."""

    def __init__(self, sigmas, p):
        super().__init__()
        self.sigmas = sigmas
        self.p = nn.Parameter(cases.tensor(p))

    def energy(self, x, sigma, label=None):
        level = (sigma[:, None] - cases.tensor(self.sigmas)).abs().argmin(1)
        return self.p[level] * x.flatten(1).square().sum(1) / 2


class Round(EnergyDenoiser):
    """The exact energies of N(0, v I) at all levels, and the levels that were asked for."""

    def __init__(self, v=V):
        super().__init__()
        self.v, self.asked = v, []

    def energy(self, x, sigma, label=None):
        self.asked.append(round(float(sigma[0]), 6))
        return x.flatten(1).square().sum(1) / (2 * (self.v + sigma.square()))


def steps_of(sigmas):
    """Returns (σ_i, σ_{i+1}, τ_i²) of each rung."""
    return [(low, high, high**2 - low**2) for low, high in itertools.pairwise(sigmas)]


# --- the ladder -------------------------------------------------------------------------------------------------------


def test_levels_are_evenly_spaced_in_their_logarithm():
    sigmas = geometric(0.1, 6.4, 6)
    assert sigmas == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4], rel=1e-12)
    assert (sigmas[0], sigmas[-1]) == (0.1, 6.4)
    for wrong in [(0.0, 1.0, 2), (1.0, 1.0, 2), (0.1, math.inf, 2), (0.1, 1.0, 0), (math.nan, 1.0, 2)]:
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
            geometric(*wrong)


def test_the_noise_of_the_rungs_adds_up():
    rung = rungs(SIGMAS, like=cases.normal(1))
    assert rung.sigma.tolist() == SIGMAS[:-1]
    assert float(rung.noise.square().sum()) == pytest.approx(2.4**2 - 0.3**2, rel=1e-12)
    # A point mass at the origin: the deviation of what was there before the noise.
    for i, (low, _, variance) in enumerate(steps_of(SIGMAS)):
        assert float(rung.unit[i]) == pytest.approx((1 / low**2 + 1 / variance) ** -0.5, rel=1e-12)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2)])
def test_the_conditional_energy_by_hand(shape):
    model, anchor = cases.denoiser(shape, dtype=torch.float64).requires_grad_(False), cases.normal(6, *shape)
    u = cases.normal(6, *shape, seed=1)
    level = torch.arange(6, device=cases.DEVICE) % 3
    output = conditional(model.energy, anchor, rungs(SIGMAS, like=u).of(level))(u)
    for i in range(6):
        low, high, variance = steps_of(SIGMAS)[int(level[i])]
        x = anchor[i] + low * math.sqrt(variance) / high * u[i]
        by_hand = model.at(low)(x[None])[0] + (anchor[i] - x).square().sum() / (2 * variance)
        assert float(output[i]) == pytest.approx(float(by_hand), rel=1e-12)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_a_conditional_chain_arrives_at_the_posterior(i):
    low, high, variance = steps_of(SIGMAS)[i]
    anchor = math.sqrt(V + high**2) * cases.normal(2**13, 3)
    rung = NoiseLevel(*(each[i].expand(len(anchor)) for each in rungs(SIGMAS, like=anchor)))
    kernel = GOOD(conditional(Round().energy, anchor, rung))
    point, sums = run(kernel, torch.zeros_like(anchor), steps=10, generator=cases.generator(i))
    x = anchor + expand(rung.unit, anchor) * point.x
    m, c = (V + low**2) / (V + high**2), (V + low**2) * variance / (V + high**2)
    assert abs(cases.z_score(((x - m * anchor) * anchor).flatten())) < 5
    assert abs(cases.z_score((x - m * anchor).square().flatten(), c)) < 5
    assert float(sums.accept_prob.mean()) / 10 > 0.8


# --- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "share"), [(0.7, 1.0), (1.0, 1.0), (1.4, 1.0), (1.4, 0.25)])
def test_each_level_has_its_exact_gradient(factor, share):
    """Zero at the truth, towards it on either side; a share of the batch has the same one."""
    d, truth = 3, [1 / (V + low**2) for low, _, _ in steps_of(SIGMAS)]
    p = [factor * each for each in truth]
    objective = DiffusionRecoveryLikelihood(GOOD, steps=6, sigma_min=0.3, sigma_max=2.4, levels=3, share=share)
    slopes = []
    for i in range(24):
        model = Tabled(SIGMAS[:-1], p)
        x = math.sqrt(V) * cases.normal(768, d, seed=i)
        slopes.append(torch.autograd.grad(objective(model, x, generator=cases.generator(i)).value, model.p)[0])
    for i, (low, high, variance) in enumerate(steps_of(SIGMAS)):
        c = 1 / (p[i] + 1 / variance)
        second = c + (c / variance) ** 2 * (V + high**2)
        slope = d / 2 * (V + low**2 - second) / 3  # a third of the pairs are at this level
        found = torch.stack(slopes)[:, i]
        assert abs(cases.z_score(found, slope)) < 5
        assert factor == 1 or cases.z_score(found) * (factor - 1) > 0
        assert factor != 1 or abs(slope) < 1e-12


@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)])
def test_the_loss_by_hand(shape):
    """With one unadjusted step: positives, negatives from them, and no gradient through either."""
    eta = 0.3
    kernel = functools.partial(Langevin, step_size=eta)
    objective = DiffusionRecoveryLikelihood(kernel, steps=1, sigma_min=0.3, sigma_max=2.4, levels=3)
    model, x = Tabled(SIGMAS[:-1], [0.5, 0.6, 0.7]), cases.normal(7, *shape)
    loss = objective(model, x, generator=cases.generator(4))
    generator = cases.generator(4)
    shift = int(torch.randint(3, (1,), generator=generator, device=cases.DEVICE))
    z, more, fresh = (normal_like(x, generator=generator) for _ in range(3))
    data, model_side = [], []
    slope = torch.zeros(3, dtype=torch.float64, device=cases.DEVICE)
    for i in range(7):
        level = (i + shift) % 3
        low, high, variance = steps_of(SIGMAS)[level]
        positive = x[i] + low * z[i]
        anchor = positive + math.sqrt(variance) * more[i]
        unit, p = low * math.sqrt(variance) / high, float(model.p[level].detach())
        # In units of s the slope is s times that of E(x) + |x - anchor|² / 2τ².
        drift = -eta * unit * (p * positive + (positive - anchor) / variance)
        negative = positive + unit * (drift + math.sqrt(2 * eta) * fresh[i])
        a, b = positive.square().sum() / 2, negative.square().sum() / 2
        slope[level] += (a - b) / 7
        data.append(p * a)
        model_side.append(p * b)
    value = float((torch.stack(data) - torch.stack(model_side)).mean())
    assert float(loss.value.detach()) == pytest.approx(value, rel=1e-9)
    assert torch.allclose(torch.autograd.grad(loss.value, model.p)[0], slope, rtol=1e-9)
    assert float(loss.facts["gap"]) == pytest.approx(-value, rel=1e-9)
    assert int(loss.facts["diverged"]) == 0


@pytest.mark.parametrize("data_std", [None, 0.8])
def test_a_score_weight_adds_denoising_score_matching(data_std):
    """Of all points, whether they have a chain or not, and of the very noise that the likelihood sees."""
    settings = {"steps": 2, "sigma_min": 0.3, "sigma_max": 2.4, "levels": 3}
    plain = DiffusionRecoveryLikelihood(GOOD, **settings)
    both = DiffusionRecoveryLikelihood(GOOD, **settings, score_weight=0.6, data_std=data_std)
    model, x = Tabled(SIGMAS[:-1], [0.5, 0.6, 0.7]), cases.normal(7, 2)
    one, two = (each(model, x, generator=cases.generator(4)) for each in (plain, both))
    generator = cases.generator(4)
    shift = int(torch.randint(3, (1,), generator=generator, device=cases.DEVICE))
    z = normal_like(x, generator=generator)
    expected, relative = 0.0, 0.0
    for i in range(7):
        sigma = SIGMAS[(i + shift) % 3]
        y = x[i] + sigma * z[i]
        error = ((1 - sigma**2 * float(model.p[(i + shift) % 3].detach())) * y - x[i]).square()
        weight = 1 / sigma**2 + (0 if data_std is None else 1 / data_std**2)
        expected += 0.6 * weight * float(error.sum()) / 2 / 7
        relative += float(error.mean()) / sigma**2 / 7
    assert float((two.value - one.value).detach()) == pytest.approx(expected, rel=1e-9)
    assert float(two.facts["relative"]) == pytest.approx(relative, rel=1e-9)
    assert two.facts["gap"] == one.facts["gap"]
    assert "relative" not in one.facts
    assert two.value.requires_grad


def test_only_a_share_of_the_batch_has_chains():
    sizes = []

    class Watched(Round):
        def energy(self, x, sigma, label=None):
            sizes.append(len(x))
            return super().energy(x, sigma)

    settings = {"steps": 1, "sigma_min": 0.3, "sigma_max": 2.4, "levels": 3, "score_weight": 1.0}
    for share, size in ((0.25, 4), (0.01, 1), (1.0, 16)):
        sizes.clear()
        DiffusionRecoveryLikelihood(GOOD, **settings, share=share)(Watched(), cases.normal(16, 2))
        assert sizes[0] == 16  # whose scores are matched
        assert set(sizes[1:-1]) == {size}
        assert sizes[-1] == 2 * size


def test_a_chain_that_is_rejected_teaches_nothing():
    thrown = functools.partial(HMC, step_size=100.0, leapfrog_steps=3)
    objective = DiffusionRecoveryLikelihood(thrown, steps=2, sigma_min=0.3, sigma_max=2.4, levels=3)
    model = Tabled(SIGMAS[:-1], [0.5, 0.6, 0.7])
    loss = objective(model, cases.normal(64, 16), generator=cases.generator(4))
    assert float(loss.facts["accept_prob"]) == float(loss.facts["move"]) == 0
    # Positions go to units of s and back: a rounding error remains.
    assert torch.autograd.grad(loss.value, model.p)[0].abs().max() < 1e-13


def test_the_spread_of_energies_is_that_within_levels():
    objective = DiffusionRecoveryLikelihood(GOOD, steps=1, sigma_min=0.3, sigma_max=2.4, levels=3)

    class Shifted(Round):
        def energy(self, x, sigma, label=None):
            return super().energy(x, sigma) + 1000 * sigma

    x = cases.normal(60, 2)
    a, b = (objective(model, x, generator=cases.generator()).facts for model in (Round(), Shifted()))
    for name in ("spread", "spread_model", "gap", "auc"):
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-8)
    assert float(a["spread"]) < 3


def test_of_one_pair_a_level_both_energies_spread_alike():
    """Beyond the data's own mean no energy of the data could ever be; from the pair's both are equally far."""
    settings = {"steps": 1, "sigma_min": 0.3, "sigma_max": 2.4, "levels": 3}
    model, x = Tabled(SIGMAS[:-1], [1 / (V + low**2) for low, _, _ in steps_of(SIGMAS)]), cases.normal(256, 3)
    facts = DiffusionRecoveryLikelihood(GOOD, **settings, share=3 / 256)(model, x, generator=cases.generator()).facts
    assert float(facts["spread"]) > 1e-3
    assert float(facts["spread"]) == pytest.approx(float(facts["spread_model"]), rel=1e-9)
    # Half of the gap lies below the pairs' means and half above.
    assert float(facts["energy_model"]) == pytest.approx(float(facts["gap"]) / 2, rel=1e-9)
    assert float(facts["energy_data"]) == pytest.approx(-float(facts["gap"]) / 2, rel=1e-9)


def test_levels_share_a_batch_and_the_remainder_wanders():
    unadjusted = functools.partial(Langevin, step_size=0.1)  # a rejected chain would hit no level
    objective = DiffusionRecoveryLikelihood(unadjusted, steps=1, sigma_min=0.3, sigma_max=2.4, levels=3)
    slopes = []
    for i in range(64):
        model = Tabled(SIGMAS[:-1], [0.5, 0.5, 0.5])
        slopes.append(
            torch.autograd.grad(objective(model, cases.normal(1, 2), generator=cases.generator(i)).value, model.p)[0]
        )
    hit = (torch.stack(slopes) != 0).double()
    assert torch.equal(hit.sum(1), torch.ones_like(hit[:, 0]))
    # 64 draws of one level in three: at most five binomial deviations from their mean.
    assert float((hit.sum(0) - 64 / 3).abs().max()) < 5 * math.sqrt(64 * 2 / 9)


def test_a_treatment_scales_the_step():
    objective = DiffusionRecoveryLikelihood(
        functools.partial(Langevin, step_size=0.2), steps=1, sigma_min=0.3, sigma_max=2.4, levels=3
    )
    x = cases.normal(4096, 4)
    before = objective(Round(), x, generator=cases.generator()).facts["noise"]
    objective.adjust(Adjustment(step=0.25))
    after = objective(Round(), x, generator=cases.generator()).facts["noise"]
    assert float(after / before) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is at least 1"),
        ({"levels": 0}, "levels is at least 1"),
        ({"score_weight": -1.0}, "score_weight ≥ 0"),
        ({"score_weight": math.inf}, "score_weight ≥ 0"),
        ({"share": 0.0}, "share ≤ 1"),
        ({"share": 1.1}, "share ≤ 1"),
        ({"data_std": 0.0}, "data_std is positive"),
        ({"sigma_max": 0.3}, "0 < sigma_min < sigma_max"),
        ({"kernel": functools.partial(MALA, step_size=0.1, temperature=0.5)}, "temperature is 1.* was 0.5"),
    ],
)
def test_the_objective_refuses_nonsense(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffusionRecoveryLikelihood(
            **{"kernel": GOOD, "steps": 1, "sigma_min": 0.3, "sigma_max": 2.4, "levels": 3, **settings}
        )


# --- the descent ------------------------------------------------------------------------------------------------------


def descent(model, *, steps=30, kernel=GOOD):
    return RecoveryDescent(model.at(0.3), kernel, sigma_max=2.4, levels=3, steps=steps)


def test_a_descent_from_data_ends_in_the_law_of_the_lowest_level():
    x = math.sqrt(V) * cases.normal(2**14, 2)
    state, _ = run(descent(Round()), x, steps=30, generator=cases.generator())
    assert abs(cases.z_score(state.x.flatten())) < 5
    assert abs(cases.z_score(state.x.square().flatten(), V + 0.09)) < 5


def test_a_descent_forgets_its_start_as_much_as_the_noise_hides_it():
    state, _ = run(
        descent(Round()), torch.full((2**14, 2), 5.0).to(cases.normal(1)), steps=30, generator=cases.generator()
    )
    kept = (V + 0.3**2) / (V + 2.4**2)
    assert abs(cases.z_score(state.x.flatten(), 5 * kept)) < 5
    # The start had no variance of its own, where data have v.
    assert abs(cases.z_score((state.x - 5 * kept).square().flatten(), V + 0.09 - kept**2 * V)) < 5


def test_once_down_chains_go_on_within_the_law_of_the_lowest_level():
    x = math.sqrt(V) * cases.normal(2**13, 2)
    walk = [
        state
        for (state, _), _ in zip(simulate(descent(Round()), x, generator=cases.generator()), range(50), strict=False)
    ]
    down, on, end = walk[29].x, walk[39].x, walk[49].x
    assert abs(cases.z_score(end.square().flatten(), V + 0.09)) < 5
    # Noised up to the second level and recovered.
    m = (V + 0.3**2) / (V + 0.6**2)
    assert abs(cases.z_score((on * down).flatten(), m * (V + 0.09))) < 5
    assert abs(cases.z_score((end * down).flatten(), m**2 * (V + 0.09))) < 5


@pytest.mark.parametrize(
    ("steps", "levels"),
    [(3, [1.2, 0.6, 0.3]), (7, [1.2] * 3 + [0.6] * 2 + [0.3] * 2), (6, [1.2, 1.2, 0.6, 0.6, 0.3, 0.3])],
)
def test_the_steps_are_shared_out_to_the_levels(steps, levels):
    model = Round()
    kernel, state = descent(model, steps=steps), None
    state = kernel.init(cases.normal(4, 2))
    anchors, visited = [], []
    for _ in range(steps):
        model.asked.clear()
        state, _ = kernel.step(state, generator=cases.generator(1))
        assert len(set(model.asked)) == 1
        visited.append(model.asked[0])
        anchors.append(state.anchor)
    assert visited == pytest.approx(levels)
    # The anchor changes where the level does, to where the chain stood.
    changes = [not torch.equal(a, b) for a, b in itertools.pairwise(anchors)]
    assert changes == [a != b for a, b in itertools.pairwise(levels)]


def test_a_state_tells_the_energy_of_its_level_and_a_step_its_lengths_in_units_of_x():
    model = cases.denoiser((1, 2, 2), dtype=torch.float64)
    kernel = descent(model, steps=6, kernel=functools.partial(Langevin, step_size=0.02))
    x, unit = cases.normal(64, 1, 2, 2), rungs(SIGMAS, like=cases.normal(1)).unit
    for k, ((state, info), level) in enumerate(
        zip(simulate(kernel, x, generator=cases.generator()), [2, 2, 1, 1, 0, 0], strict=False)
    ):
        energy = model.at(SIGMAS[level])
        assert torch.allclose(state.energy, energy(state.x), rtol=1e-9)
        assert torch.allclose(state.score, score(energy, state.x), rtol=1e-8, atol=1e-10)
        assert int(state.steps) == k + 1
        # RMS over four coordinates of a normal: its mean over 64 chains is 0.94 ± 0.04.
        assert float(info.noise.mean()) == pytest.approx(math.sqrt(2 * 0.02) * float(unit[level]), rel=0.3)


def test_the_same_generator_gives_the_same_descent():
    model, x = cases.denoiser(), cases.normal(5, 2, dtype=torch.float32)
    ends = [run(descent(model, steps=9), x, steps=9, generator=cases.generator(seed))[0].x for seed in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert ends[0].dtype == torch.float32
    assert not ends[0].requires_grad
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_a_descent_refuses_nonsense_before_any_training():
    table = {"kernel": {"name": "hmc", "step_size": 0.5}, "sigma_max": 2.4, "levels": 3}
    made = build(DESCENTS, "recovery", table)
    assert made(Round().at(0.3), steps=9).kernel(Round().at(0.3)).step_size == 0.5
    with pytest.raises(UserError, match="3 noise levels need at least as many steps; there were 2"):
        made(Round().at(0.3), steps=2)
    with pytest.raises(UserError, match=r"energy denoiser.*it was given Quadratic"):
        made(cases.Quadratic(1.0), steps=9)
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        made(Round().at(2.5), steps=9)
    with pytest.raises(UserError, match="carries its position only"):
        run(descent(Round(), kernel=functools.partial(UnderdampedLangevin, step_size=0.1)), cases.normal(4, 2), steps=1)
    for setting, value in (
        ("sampler.descent.sigma_max", "-1"),
        ("sampler.descent.levels", "0"),
        ("sampler.descent.kernel.temperature", "0.5"),
        ("sampler.steps", "2"),
    ):
        with pytest.raises(UserError, match=value):
            Experiment(Recipe.named("8gaussians-drl", {setting: value}))


def test_samples_from_noise_descend_and_those_from_data_do_not():
    changes = {"sampler.descent.sigma_max": "2.4", "sampler.descent.levels": "3", "objective.sigma_min": "0.3"}
    experiment = Experiment(Recipe.named("8gaussians-drl", changes))
    experiment.model, experiment.average = Round(), None
    x = experiment.trained.sample(2_000, steps=24).x
    # Where they start, uniform in a box, is another variance than the data's, of which little is kept.
    kept = (V + 0.09) / (V + 2.4**2)
    low, high = -4.0, 4.0
    assert abs(cases.z_score(x.square().flatten(), V + 0.09 + kept**2 * ((high - low) ** 2 / 12 - V))) < 5
    experiment.model.asked.clear()
    experiment.trained.sample(10, start="data", steps=2)
    assert set(experiment.model.asked) == {0.3}


# --- networks and denoisers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
def test_a_clean_denoiser_is_its_network_s_slope(shape):
    with global_seed(0):
        inner = cases.denoiser(shape, dtype=torch.float64).network
    model = CleanEnergyDenoiser(inner, data_std=0.7).to(cases.DEVICE)
    x, sigma = cases.normal(6, *shape), cases.tensor([0.1, 0.3, 0.5, 1.0, 2.0, 5.0])
    column = sigma.reshape(-1, *[1] * len(shape))
    size = (0.49 + column**2).sqrt()
    u = (x / size).requires_grad_()
    f = inner(u, sigma.log() / 4)
    (slope,) = torch.autograd.grad(f.sum(), u)
    assert torch.allclose(model(x, sigma), -0.7 * slope, rtol=1e-8, atol=1e-10)
    by_hand = x.flatten(1).square().sum(1) / (2 * sigma**2) + 0.7 * size.flatten() / sigma**2 * f
    assert torch.allclose(model.energy(x, sigma), by_hand, rtol=1e-12)
    empty = CleanEnergyDenoiser(lambda u, noise: torch.zeros_like(noise), data_std=0.7)
    assert torch.allclose(empty.at(0.5)(x), 2 * x.flatten(1).square().sum(1), rtol=1e-12)  # all data at the origin
    with pytest.raises(ValueError, match="data_std is positive"):
        CleanEnergyDenoiser(inner, data_std=0.0)


def test_a_clean_denoiser_takes_labels():
    model = CleanEnergyDenoiser(lambda u, noise, label: (label * u.sum(1)).unsqueeze(1), data_std=2.0)
    output = model(cases.normal(3, 2), cases.tensor([1.0, 2.0, 3.0]), torch.arange(3, device=cases.DEVICE))
    assert torch.allclose(output, cases.tensor([[0.0, 0.0], [-2.0, -2.0], [-4.0, -4.0]]), atol=1e-12)


def conv(shape, dtype=torch.float64, **settings):
    with global_seed(0):
        return NoiseConvNet(shape, **{"width": 4, **settings}).to(cases.DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 9, 13)])
def test_a_convolutional_noise_network_maps_images_and_levels_to_one_number_each(shape, dtype):
    net, u, noise = conv(shape, dtype), cases.normal(5, *shape, dtype=dtype), cases.normal(5, seed=1, dtype=dtype)
    f = net(u, noise)
    assert f.shape == (5,)
    assert f.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    assert torch.allclose(net(u[2:3], noise[2:3]), f[2:3], rtol=tolerance, atol=tolerance)
    assert not torch.allclose(net(u, noise.flip(0)), f, rtol=1e-3, atol=1e-5)
    assert net.last.bias is None
    model = ScalarEnergyDenoiser(net, data_std=1.0)
    sigma = noise.exp()
    output = model(u, sigma).detach()
    # Every pixel is seen: a pixel without a window over it would have the slope of the Gaussian alone.
    alone = u / (1 + sigma.square()).reshape(-1, 1, 1, 1)
    assert float((output - alone).abs().flatten(2).amin(2).amax()) > 0


def test_a_convolutional_noise_network_by_hand():
    net = conv((1, 8, 8), frequencies=2)
    u, t = cases.normal(3, 1, 8, 8), cases.normal(3, seed=1)
    e = torch.stack([t.cos(), (2 * t).cos(), t.sin(), (2 * t).sin()], 1)
    (halving,), silu = net.halvings, nn.functional.silu
    assert halving.stride == (2, 2)
    a, b = (e @ net.told[0].weight.T + net.told[0].bias).split(4, 1)
    h = silu(halving(u) * (1 + a[:, :, None, None]) + b[:, :, None, None])
    assert h.shape == (3, 4, 4, 4)
    a, b = (e @ net.told[1].weight.T + net.told[1].bias).split(16, 1)
    h = silu(net.read(h.flatten(1)) * (1 + a) + b)
    assert torch.allclose(net(u, t), (h @ net.last.weight.T)[:, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "settings"), [((1, 7, 28), {}), ((1, 28, 28), {"width": 0}), ((1, 28, 28), {"frequencies": 0})]
)
def test_a_convolutional_noise_network_refuses_nonsense(shape, settings):
    with pytest.raises(ValueError, match="at least"):
        NoiseConvNet(shape, **settings)
