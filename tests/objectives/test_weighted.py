"""Sums of objectives: their arithmetic, their parts, and masses by contrast with shapes by scores."""

import copy
import math

import pytest
import torch

import cases
from energyscape.data import FourSquares, GaussianGrid
from energyscape.errors import UserError
from energyscape.objectives import (
    OBJECTIVES,
    ContrastiveDivergence,
    DenoisingScoreMatching,
    NoiseContrastiveEstimation,
    NoiseContrastiveScoreMatching,
    NoiseInit,
    ReplayBuffer,
    ScoreMatching,
    SlicedScoreMatchingVR,
    Weighted,
)
from energyscape.objectives.base import Adjustment
from energyscape.objectives.weighted import narrow_variance
from energyscape.registry import build
from energyscape.training import fit


def both(objective, model, x, **rest):
    loss = objective(model, x, generator=cases.generator(5), **rest)
    return loss, torch.autograd.grad(loss.value, list(model.parameters()))


def test_a_sum_adds_values_and_gradients_by_hand():
    model, x = cases.neural(dtype=torch.float64), cases.normal(32, 2)
    one, other = DenoisingScoreMatching(sigma=0.5), DenoisingScoreMatching(sigma=0.5)
    summed, slope = both(Weighted((one, other), weights=(0.25, 3.0)), model, x)
    stream = cases.generator(5)
    first, second = (one(model, x, generator=stream).value for _ in range(2))
    assert float(summed.value.detach()) == pytest.approx(float((0.25 * first + 3 * second).detach()), rel=1e-12)
    by_hand = torch.autograd.grad(0.25 * first + 3 * second, list(model.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(slope, by_hand, strict=True))
    assert float(summed.facts["part_2"]) == pytest.approx(float(second.detach()), rel=1e-12)


def test_facts_of_the_first_part_keep_their_names():
    model, x = cases.neural(dtype=torch.float64), cases.normal(32, 2)
    parts = NoiseContrastiveEstimation(), NoiseContrastiveEstimation(noise="mixture"), ScoreMatching()
    facts = both(Weighted(parts), model, x)[0].facts
    assert {"accuracy", "log_z", "accuracy_2", "log_z_2", "trace", "part_1", "part_2", "part_3"} <= set(facts)
    alone = parts[0](model, x, generator=cases.generator(5)).facts
    assert torch.equal(facts["accuracy"], alone["accuracy"])


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_weights_go_in_a_line_from_the_first_to_the_last(progress):
    objective = Weighted((ScoreMatching(), ScoreMatching()), weights=(1.0, 0.5), last_weights=(0.2, 2.0))
    model, x = cases.neural(dtype=torch.float64), cases.normal(32, 2)
    alone = float(ScoreMatching()(model, x).value.detach())
    objective.progress = progress
    weight = (1 - progress) * 1.5 + progress * 2.2
    assert float(objective(model, x).value.detach()) == pytest.approx(weight * alone, rel=1e-12)


def test_training_tells_a_sum_how_far_it_is_and_sums_within_sums_too():
    inner = Weighted((ScoreMatching(),), weights=(1.0,), last_weights=(0.0,))
    model = cases.neural()
    adam = torch.optim.Adam(model.parameters())
    data = [cases.normal(50, 2, seed=i, dtype=torch.float32) for i in range(4)]
    reports = list(fit(model, Weighted((inner,)), data, adam, samples=200, guards=[]))
    # ``part_1`` is the inner sum, ``part_1_1`` the inner sum's part at weight 1.
    ratios = [each.loss / each.facts["part_1_1"] for each in reports]
    assert ratios == pytest.approx([1.0, 0.75, 0.5, 0.25], rel=1e-5)


def test_parts_are_checked_treated_and_purged():
    chains = ContrastiveDivergence(ReplayBuffer(64, fresh=NoiseInit()), cases.KERNELS["mala"](0.1), steps=1)
    objective = Weighted((NoiseContrastiveEstimation(), chains))
    with pytest.raises(UserError, match="NoiseContrastiveEstimation trains models of kind Energy"):
        objective.check(torch.nn.Linear(2, 1))
    model, x = cases.neural(), cases.normal(64, 2, dtype=torch.float32)
    objective.check(model)
    objective(model, x, generator=cases.generator())
    chains.start.chains[:7] = 1e6
    assert objective.restart_diverged(model, x, generator=cases.generator()) == 7
    objective.adjust(Adjustment(step=0.5, data_noise=0.3))
    assert chains.adjustment.step == 0.5
    assert objective.level == 0.3


def test_state_of_the_parts_is_restored():
    parts = [
        {"name": "nce"},
        {"name": "cd", "steps": 1, "start": "buffer", "kernel": {"name": "hmc", "step_size": 0.1}},
    ]
    settings = {"parts": parts, "weights": [1.0, 0.2]}
    objective, other = (build(OBJECTIVES, "weighted", settings) for _ in range(2))
    model, x = cases.neural(), cases.normal(64, 2, dtype=torch.float32)
    objective(model, x, generator=cases.generator())
    other.load_state_dict(copy.deepcopy(objective.state_dict()))
    again = [each(model, x, generator=cases.generator(3)).value for each in (objective, other)]
    assert torch.equal(*again)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": []}, "one for each of 0 parts"),
        ({"parts": ["sm"], "weights": [1.0, 2.0]}, r"one for each of 1 parts; they were \(1.0, 2.0\)"),
        ({"parts": ["sm"], "last_weights": [-1.0]}, r"not negative.*\(-1.0,\)"),
        ({"parts": ["sm", {"name": "dsm", "sigma": 0.3}]}, "the same law; they learn noise 0 at T = 1 and noise 0.3"),
        ({"parts": ["sm", "smm"]}, "no objective named 'smm'"),
        ({"parts": "sm"}, "parts is of type"),
    ],
)
def test_wrong_sums_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        build(OBJECTIVES, "weighted", settings)
    assert "\n" not in str(raised.value)


# --- masses by contrast, shapes by scores -----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_data_in_other_units_have_the_same_loss(factor):
    x = FourSquares().sample(256, generator=cases.generator()).double()
    model = cases.neural(dtype=torch.float64)

    class Scaled(type(model)):
        def forward(self, x, label=None):
            return super().forward(x / factor, label)

    wide = Scaled(model.network, reference_std=2.0).double()
    losses = []
    for energy, points in ((model, x), (wide, factor * x)):
        objective = NoiseContrastiveScoreMatching().double()
        losses.append(objective(energy, points, generator=cases.generator(1)))
    one, other = (each.value.detach() for each in losses)
    assert float(other) == pytest.approx(float(one), rel=1e-9)
    assert float(losses[1].facts["stein"]) == pytest.approx(float(losses[0].facts["stein"]) / factor**2, rel=1e-9)


def test_the_loss_is_the_contrast_and_the_weighted_scores():
    x, model = FourSquares().sample(200, generator=cases.generator()).double(), cases.neural(dtype=torch.float64)
    objective = NoiseContrastiveScoreMatching(weight=0.7, share=0.3).double()
    loss = objective(model, x, generator=cases.generator(2))
    stream = cases.generator(2)
    contrast = NoiseContrastiveEstimation(noise="mixture", spread=1.5, ratio=3).double()
    masses = contrast(model, x, generator=stream).value
    shapes = SlicedScoreMatchingVR()(model, x[:60], generator=stream).value
    by_hand = masses + 0.7 * narrow_variance(x) * shapes
    assert float(loss.value.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-12)


def test_the_narrow_variance_is_that_of_an_island():
    # The estimate of a kernel density from 512 points, 20 an island, is within a factor of two.
    wide = narrow_variance(GaussianGrid().sample(512, generator=cases.generator()).double())
    assert 0.5 * 0.05**2 < float(wide) < 2 * 0.05**2
    normal = narrow_variance(3 * cases.normal(512, 2))
    assert 0.5 * 9 < float(normal) < 2 * 9
    far = narrow_variance(100 * cases.normal(2, 2)[torch.arange(512) % 2] + cases.normal(512, 2, seed=1))
    assert 0.5 < float(far) < 2
    assert math.isfinite(float(narrow_variance(cases.normal(4, 2)[torch.arange(64) % 4])))


@pytest.mark.parametrize(("name", "value"), [("weight", -1.0), ("share", 0.0), ("share", 1.5), ("spread", 0.0)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        NoiseContrastiveScoreMatching(**{name: value})
