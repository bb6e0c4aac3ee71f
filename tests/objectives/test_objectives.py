r"""Objectives: contract, and truth by closed forms on a quadratic energy.

With :math:`E = p \|x\|^2 / 2`, data from N(0, v I) and noise of standard deviation σ, the density that is learned is
N(0, (v + σ²) I), so :math:`p^* = T / (v + \sigma^2)`.
"""

import copy
import functools
import math
import warnings

import pytest
import torch

import cases
from energyscape.models import ConvEnergyNet, NeuralEnergy
from energyscape.noise import noised
from energyscape.objectives import (
    OBJECTIVES,
    ChainInit,
    ContrastiveDivergence,
    DataInit,
    DenoisingScoreMatching,
    NoiseInit,
    ReplayBuffer,
)
from energyscape.objectives.base import Adjustment
from energyscape.samplers import HMC, MALA, Langevin

V = 1.3


def test_every_objective_has_a_case():
    assert {name.split(":")[0] for name in cases.OBJECTIVES} == set(OBJECTIVES)


# --- contract ---------------------------------------------------------------------------------------------------------


EVENTS = [
    # An exact trace takes a backward pass for each of 3,072 coordinates: half a minute.
    pytest.param(name, shape, id=f"{name}-{event}", marks=[pytest.mark.slow] * (name == "sm" and event == "colour"))
    for name in cases.OBJECTIVES
    for event, shape in cases.SHAPES.items()
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "shape"), EVENTS)
def test_contract(name, shape, dtype):
    model = cases.learner(cases.OBJECTIVES[name](), shape, dtype=dtype)
    x = cases.normal(6, *shape, dtype=dtype)
    kept, weights = x.clone(), [each.detach().clone() for each in model.parameters()]

    def go(seed, label=None):
        return cases.OBJECTIVES[name](scale=0.1).to(cases.DEVICE)(model, x, label, generator=cases.generator(seed))

    loss, again, other = go(1), go(1), go(2)
    assert torch.equal(loss.value, again.value)
    assert torch.equal(loss.value, other.value) == (name in cases.DETERMINISTIC)
    assert loss.value.shape == ()
    assert loss.value.dtype == dtype
    for key, fact in loss.facts.items():
        assert torch.equal(fact, again.facts[key])
        assert fact.shape == ()
        assert not fact.requires_grad
    # Labels are ignored by objectives that do not say otherwise.
    assert torch.equal(go(1, torch.arange(6, device=cases.DEVICE)).value, loss.value)
    # Nothing but the loss's own backward pass touches a gradient, and then every weight has one.
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    loss.value.backward()
    assert all(float(each.grad.abs().max()) > 0 for each in model.parameters())
    assert torch.equal(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


# --- truth ------------------------------------------------------------------------------------------------------------


def gradients(objective, p, d, *, batches=48, size=512, v=V):
    """Returns the loss and its gradient in p for independent batches of N(0, v I)."""
    model = cases.round_learner(objective, p)
    cases.settled(objective, p, math.sqrt(v) * cases.normal(size, d, seed=999))
    losses, slopes = [], []
    for i in range(batches):
        x = math.sqrt(v) * cases.normal(size, d, seed=1000 + i)
        loss = objective(model, x, generator=cases.generator(i)).value
        (slope,) = torch.autograd.grad(loss, model.p)
        losses.append(loss.detach())
        slopes.append(slope)
    return torch.stack(losses), torch.stack(slopes)


@pytest.mark.parametrize("d", [2, 10])
@pytest.mark.parametrize("name", cases.OBJECTIVES)
def test_the_gradient_vanishes_at_the_truth_and_points_back_on_either_side(name, d):
    objective = cases.OBJECTIVES[name]()
    truth = objective.temperature / (V + objective.level**2)
    assert abs(cases.z_score(gradients(objective, truth, d)[1])) < 5
    assert cases.z_score(gradients(objective, 0.8 * truth, d)[1]) < -5
    assert cases.z_score(gradients(objective, 1.2 * truth, d)[1]) > 5


@pytest.mark.parametrize("sigma", [0.3, 1.0])
@pytest.mark.parametrize("p", [0.2, 1.0, -0.5])
@pytest.mark.parametrize("d", [2, 10])
def test_denoising_score_matching_has_its_exact_value(d, p, sigma):
    losses, slopes = gradients(DenoisingScoreMatching(sigma=sigma), p, d)
    s = V + sigma**2
    # E ½ |-p y + z / σ|² with E|y|² = d s and E y·z = d σ.
    assert abs(cases.z_score(losses, d / 2 * (p**2 * s - 2 * p + 1 / sigma**2))) < 5
    assert abs(cases.z_score(slopes, d * (p * s - 1))) < 5


def test_denoising_score_matching_sums_over_the_whole_event():
    """A peer sums over the last axis only: on images its loss is another one."""
    model, objective = cases.Quadratic(0.7), DenoisingScoreMatching(sigma=0.4)
    x = cases.normal(32, 3, 4, 4)
    flat = objective(model, x.flatten(1), generator=cases.generator())
    image = objective(model, x, generator=cases.generator())
    assert torch.allclose(flat.value, image.value, rtol=1e-12)


def test_denoising_score_matching_by_hand():
    sigma, p = 0.4, 0.7
    x = cases.normal(32, 3)
    loss = DenoisingScoreMatching(sigma=sigma)(cases.Quadratic(p), x, generator=cases.generator(3))
    y, _ = noised(x, sigma, generator=cases.generator(3))
    # The target is (x - y) / σ², towards the data.
    residual = (-p * y - (x - y) / sigma**2).square().sum(1)
    assert float(loss.value.detach()) == pytest.approx(float(residual.mean() / 2), rel=1e-12)
    assert float(loss.facts["relative"]) == pytest.approx(float((residual * sigma**2).mean() / 3), rel=1e-12)
    assert float(loss.facts["score_norm"]) == pytest.approx(float(p * y.norm(dim=1).mean()), rel=1e-12)


def test_the_relative_loss_of_a_flat_energy_is_one():
    objective = DenoisingScoreMatching(sigma=0.02)
    x = cases.normal(2**12, 10)
    facts = objective(cases.Quadratic(0.0), x, generator=cases.generator()).facts
    # Mean of 40,960 squared normals, each of variance 2.
    assert abs(float(facts["relative"]) - 1) < 5 * math.sqrt(2 / 40960)
    assert float(facts["score_norm"]) == 0


class Exact(ChainInit):
    """Chains start at exact draws of exp(-p |x|² / 2T), and where they end is recorded."""

    def __init__(self, variance, shape):
        super().__init__()
        self.variance, self.shape, self.ends = variance, shape, []

    def draw(self, n, *, like, generator=None):
        x = torch.empty(n, *self.shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
        return math.sqrt(self.variance) * x, "ticket"

    def commit(self, handle, x):
        assert handle == "ticket"
        self.ends.append(x)


EXACT = {
    "mala": functools.partial(MALA, step_size=0.3),
    "hmc": functools.partial(HMC, step_size=0.4, leapfrog_steps=3),
}


@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("d", [2, 10])
def test_contrastive_divergence_has_the_likelihoods_gradient(d, p, kernel):
    objective = ContrastiveDivergence(Exact(1 / p, (d,)), EXACT[kernel], steps=2)
    losses, slopes = gradients(objective, p, d)
    # ½ (E|x|² - E|y|²) with E|x|² = d v and E|y|² = d / p.
    assert abs(cases.z_score(slopes, d / 2 * (V - 1 / p))) < 5
    assert abs(cases.z_score(losses, p * d / 2 * (V - 1 / p))) < 5


def test_a_buffer_of_exact_draws_gives_the_likelihoods_gradient():
    p, d = 0.6, 2
    slopes = []
    for i in range(48):
        buffer = ReplayBuffer(512, refresh=0.0)
        buffer.chains = cases.normal(512, d, seed=5000 + i) / math.sqrt(p)
        objective = ContrastiveDivergence(buffer.to(cases.DEVICE), EXACT["mala"], steps=3)
        slopes.append(gradients(objective, p, d, batches=1)[1])
    # Data of one batch only, the same for all: its own second moment instead of d v.
    second = float((math.sqrt(V) * cases.normal(512, d, seed=1000)).square().sum(1).mean())
    assert abs(cases.z_score(torch.cat(slopes), (second - d / p) / 2)) < 5


def test_long_chains_forget_where_they_started():
    """Noise as a start gives the likelihood's gradient too, once the chains are long enough."""
    p, d = 0.8, 2
    objective = ContrastiveDivergence(NoiseInit(low=-0.1, high=0.1), functools.partial(MALA, step_size=0.5), steps=40)
    assert abs(cases.z_score(gradients(objective, p, d, batches=24)[1], d / 2 * (V - 1 / p))) < 5


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_contrastive_divergence_by_hand(level, alpha):
    p, shape = 0.7, (1, 2, 2)
    start = Exact(1.0, shape)
    objective = ContrastiveDivergence(start, EXACT["mala"], steps=3, data_noise=level, alpha=alpha)
    x, model = cases.normal(64, *shape), cases.Quadratic(p)
    loss = objective(model, x, generator=cases.generator(5))
    (slope,) = torch.autograd.grad(loss.value, model.p)
    (y,) = start.ends
    data = noised(x, level, generator=cases.generator(5))[0] if level else x
    a, b = (each.flatten(1).square().sum(1) / 2 for each in (data, y))  # energies per unit of p
    assert float(loss.value.detach()) == pytest.approx(
        float(p * (a.mean() - b.mean()) + alpha * p**2 * (a.square().mean() + b.square().mean())), rel=1e-11
    )
    # No gradient flows through the chains: y depends on p, and this is the gradient with y held fixed.
    by_hand = a.mean() - b.mean() + 2 * alpha * p * (a.square().mean() + b.square().mean())
    assert float(slope) == pytest.approx(float(by_hand), rel=1e-11)
    result = {key: float(value) for key, value in loss.facts.items()}
    assert result["energy_data"] == pytest.approx(float(p * a.mean()), rel=1e-11)
    assert result["energy_model"] == pytest.approx(float(p * b.mean()), rel=1e-11)
    assert result["gap"] == pytest.approx(float(p * (b.mean() - a.mean())), rel=1e-11)
    assert result["spread"] == pytest.approx(float(p * (a - a.mean()).square().mean().sqrt()), rel=1e-11)
    assert not y.requires_grad


def test_the_negatives_do_depend_on_the_model():
    """So that the test before this one would notice a gradient through the chains."""
    ends = []
    for p in (0.7, 0.8):
        start = Exact(1.0, (2,))
        objective = ContrastiveDivergence(start, EXACT["hmc"], steps=2)
        objective(cases.Quadratic(p), cases.normal(8, 2), generator=cases.generator(5))
        ends.append(start.ends[0])
    assert float((ends[0] - ends[1]).abs().max()) > 1e-3


def test_chains_start_at_the_noised_data():
    x = cases.normal(64, 2)
    still = functools.partial(Langevin, step_size=1e-12, temperature=0.0)
    objective = ContrastiveDivergence(DataInit(), still, steps=1, data_noise=0.5)
    # Chains that do not move leave nothing to learn.
    assert abs(float(objective(cases.Quadratic(1.0), x, generator=cases.generator()).value.detach())) < 1e-9


def test_what_the_kernel_tells_is_averaged_over_its_steps():
    v, eta = 1.0, 0.2
    results = []
    for steps in (1, 4):
        start = Exact(v / (1 - eta / 2), (10,))  # Langevin's own stationary law
        kernel = functools.partial(Langevin, step_size=eta)
        objective = ContrastiveDivergence(start, kernel, steps=steps)
        x = cases.normal(4096, 10)
        results.append(objective(cases.Quadratic(1.0), x, generator=cases.generator(steps)).facts)
    for facts in results:
        # RMS over 10 coordinates of a normal: its mean is √v times √(2/10) Γ(5.5) / Γ(5); its spread 0.22 √v.
        chi = math.sqrt(2 / 10) * math.gamma(5.5) / math.gamma(5)
        allowed = 5 * 0.23 / math.sqrt(4096)
        assert float(facts["noise"]) == pytest.approx(math.sqrt(2 * eta) * chi, abs=math.sqrt(2 * eta) * allowed)
        scale = eta * math.sqrt(1 / (1 - eta / 2))
        assert float(facts["drift"]) == pytest.approx(scale * chi, abs=scale * allowed)
        assert float(facts["accept_prob"]) == 1
        assert int(facts["diverged"]) == 0


def test_diverged_proposals_are_counted_and_do_not_enter_the_loss():
    class Walled(cases.Quadratic):
        def forward(self, x, label=None):
            e = super().forward(x)
            return torch.where(x[:, 0] > 1, torch.full_like(e, math.nan), e)

    x = cases.normal(256, 2).clamp(max=0.9)
    objective = ContrastiveDivergence(DataInit(), functools.partial(MALA, step_size=0.5), steps=2)
    model = Walled(1.0)
    loss = objective(model, x, generator=cases.generator())
    (slope,) = torch.autograd.grad(loss.value, model.p)
    assert 10 < int(loss.facts["diverged"]) < 512
    assert math.isfinite(float(slope))
    assert abs(float(loss.value.detach())) < 1


def test_chains_of_training_are_compiled_once_for_each_model_and_treatment(monkeypatch):
    """The compiler's part is played by the steps themselves, so that the numbers must be the same to the last bit."""

    class Alone(cases.Quadratic):
        def __deepcopy__(self, memo):
            pytest.fail("a copy of the objective copied the model")

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(1) or function)
    plain, fast = (ContrastiveDivergence(DataInit(), EXACT["mala"], steps=3, compile=each) for each in (False, True))
    x, models, counts = cases.normal(64, 2), [Alone(p) for p in (0.7, 0.7, 1.5)], []

    def result(objective, model):
        return objective(model, x, generator=cases.generator(5)).value

    for model in models:
        with torch.no_grad():
            model.p += 0.1  # chains follow the weights as they are now
        assert [torch.equal(result(plain, model), result(fast, model)) for _ in range(3)] == [True] * 3
        counts.append(len(compiled))
    assert counts == [1, 2, 3]
    for each in (plain, fast):
        each.adjust(Adjustment(step=0.5))
    assert torch.equal(result(plain, models[-1]), result(fast, models[-1]))
    assert len(compiled) == 4
    copied = copy.deepcopy(fast)
    assert torch.equal(result(plain, models[0]), result(copied, models[0]))
    assert (len(compiled), copied.adjustment) == (5, fast.adjustment)
    assert torch.equal(result(plain, models[-1]), result(fast, models[-1]))
    assert len(compiled) == 5  # what was copied has kept its own


@pytest.mark.slow
def test_compiled_chains_follow_the_weights_as_they_become():
    """Three updates by one graph; frozen into it, the first weights would be used in all of them."""
    learned = []
    for each in (False, True):
        objective = ContrastiveDivergence(DataInit(), functools.partial(Langevin, step_size=0.3), steps=3, compile=each)
        model, x = cases.Quadratic(0.5), cases.normal(64, 2)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        for k in range(3):
            optimiser.zero_grad()
            objective(model, x, generator=cases.generator(k)).value.backward()
            optimiser.step()
            learned.append(float(model.p.detach()))
    assert learned[3:] == pytest.approx(learned[:3], rel=1e-6)
    assert abs(learned[2] - learned[0]) > 0.01


def test_chains_of_training_that_cannot_be_compiled_say_so_once():
    class Stubborn(cases.Quadratic):
        def forward(self, x, label=None):
            return super().forward(x) * (1.0 if float(x.detach().sum()) > -1e9 else 2.0)  # asks for a number

    objective = ContrastiveDivergence(DataInit(), EXACT["mala"], steps=2, compile=True)
    model, x = Stubborn(1.0), cases.normal(8, 2)
    with pytest.warns(UserWarning, match="go on uncompiled"):
        objective(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(model, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenoisingScoreMatching(sigma=0.0), "sigma is positive"),
        (lambda: DenoisingScoreMatching(sigma=math.nan), "sigma is positive"),
        (lambda: ContrastiveDivergence(DataInit(), EXACT["mala"], steps=0), "steps is at least 1; it was 0"),
        (lambda: ContrastiveDivergence(DataInit(), EXACT["mala"], steps=1, data_noise=-1.0), "data_noise"),
        (lambda: ContrastiveDivergence(DataInit(), EXACT["mala"], steps=1, alpha=math.nan), "alpha"),
        (lambda: ContrastiveDivergence(DataInit(), functools.partial(MALA, step_size=-1.0), steps=1), "step_size"),
    ],
)
def test_objectives_refuse_nonsense_before_any_training(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_law_that_is_learned_is_declared():
    cold = ContrastiveDivergence(
        DataInit(), functools.partial(MALA, step_size=0.1, temperature=0.2), steps=1, data_noise=0.3
    )
    assert (cold.temperature, cold.level) == (0.2, 0.3)
    dsm = DenoisingScoreMatching(sigma=0.4)
    assert (dsm.temperature, dsm.level) == (1.0, 0.4)


def test_chains_of_any_length_leave_the_spectral_norm_alike():
    ends = []
    for steps in (1, 30):
        torch.manual_seed(0)
        energy = NeuralEnergy(ConvEnergyNet((1, 8, 8), width=4, spectral_norm=True))
        assert energy.training
        ContrastiveDivergence(DataInit(), functools.partial(Langevin, step_size=1e-9), steps=steps)(
            energy, torch.ones(4, 1, 8, 8)
        )
        ends.append([each.clone() for name, each in energy.named_buffers() if name.endswith("_u")])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
