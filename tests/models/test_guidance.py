"""Guided denoisers against their equation with exact denoisers, and the one longer call they make."""

import math

import pytest
import torch

import cases
from energyscape.models import (
    Autoguided,
    Conditional,
    ConditionalEnergy,
    Denoiser,
    GaussianDenoiser,
    GaussianMixture,
    Guided,
    MixtureDenoiser,
)
from energyscape.samplers import Heun, solve
from energyscape.schedules import Karras


def classes():
    means = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    return MixtureDenoiser(GaussianMixture(means, std=0.5), labels=torch.tensor([0, 1, 1]))


def points():
    x = cases.normal(6, 2, seed=1)
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 8.0, 1.0], dtype=torch.float64)
    return x, sigma, torch.tensor([0, 1, 0, 1, 1, -1])


class Watched(Denoiser):
    """A denoiser that remembers what it was called with."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, []

    def forward(self, x, sigma, label=None):
        self.calls.append((x, sigma, label))
        return self.inner(x, sigma, label)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_guidance_is_its_equation_inside_the_interval_only(weight):
    inner = Watched(classes())
    x, sigma, label = points()
    d, free = classes()(x, sigma, label), classes()(x, sigma)
    found = Guided(inner, weight=weight, interval=(0.5, 2.0))(x, sigma, label)
    inside = torch.tensor([False, True, True, True, False, True]).unsqueeze(1)
    torch.testing.assert_close(found, torch.where(inside, free + weight * (d - free), d))
    # One call: every row once, and those that are guided a second time without their label.
    ((rows, levels, labels),) = inner.calls
    assert torch.equal(rows, torch.cat([x, x[1:4]]))
    assert torch.equal(levels, torch.cat([sigma, sigma[1:4]]))
    assert labels.tolist() == [0, 1, 0, 1, 1, -1, -1, -1, -1]


def test_without_an_interval_all_levels_are_guided_and_without_a_label_none():
    inner = Watched(classes())
    x, sigma, label = points()
    guided = Guided(inner, weight=3.0)
    d, free = classes()(x, sigma, label), classes()(x, sigma)
    torch.testing.assert_close(guided(x, sigma, label), 3 * d - 2 * free)
    inner.calls.clear()
    torch.testing.assert_close(guided(x, sigma), free)
    assert len(inner.calls[0][0]) == len(x)


def test_guidance_is_differentiated_as_well():
    x, sigma, label = points()
    x.requires_grad_()
    guided = Guided(classes(), weight=2.0, interval=(0.5, 2.0))
    v = cases.normal(6, 2, seed=2)
    (found,) = torch.autograd.grad(guided(x, sigma, label), x, v)
    h = 1e-5
    ahead, behind = (guided((x + k * h * v).detach(), sigma, label) for k in (1, -1))
    torch.testing.assert_close(
        (found * v).sum(1), ((ahead - behind) * v).sum(1).detach() / (2 * h), atol=1e-7, rtol=1e-7
    )


def test_autoguidance_is_its_equation_inside_the_interval_only():
    poor = Watched(GaussianDenoiser(cases.tensor([0.5, -0.5]), 2 * torch.eye(2, dtype=torch.float64)))
    x, sigma, label = points()
    d, d0 = classes()(x, sigma, label), poor.inner(x, sigma)
    found = Autoguided(classes(), poor, weight=1.7, interval=(0.5, 2.0))(x, sigma, label)
    inside = ((sigma >= 0.5) & (sigma <= 2)).unsqueeze(1)
    torch.testing.assert_close(found, torch.where(inside, d0 + 1.7 * (d - d0), d))
    ((rows, levels, labels),) = poor.calls
    assert torch.equal(rows, x[inside.squeeze(1)])
    assert torch.equal(levels, sigma[inside.squeeze(1)])
    assert torch.equal(labels, label[inside.squeeze(1)])
    torch.testing.assert_close(
        Autoguided(classes(), poor.inner, weight=1.7)(x, sigma), 1.7 * classes()(x, sigma) - 0.7 * d0
    )


def test_a_label_is_closed_over():
    x, sigma, label = points()
    both = Conditional(classes(), 1), ConditionalEnergy(classes(), 1)
    for model in both:
        torch.testing.assert_close(model(x, sigma), classes()(x, sigma, torch.ones_like(label)))
        assert model.state_dict().keys() == {f"denoiser.{key}" for key in classes().state_dict()}
        with pytest.raises(ValueError, match="closed over"):
            model(x, sigma, label)
    torch.testing.assert_close(both[1].energy(x, sigma), classes().energy(x, sigma, torch.ones_like(label)))
    torch.testing.assert_close(both[1].at(0.7)(x), classes().at(0.7)(x, torch.ones_like(label)))
    each = Conditional(classes(), label)
    torch.testing.assert_close(each(x, sigma), classes()(x, sigma, label))
    with pytest.raises(ValueError, match="there were 5 points"):
        each(x[:5], sigma[:5])


def test_a_solver_meets_a_guided_class():
    """Weight 1 samples the class; a larger one lands farther from the other class than the class itself lies."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    model = MixtureDenoiser(GaussianMixture(means, std=0.5))
    ends = []
    for weight in (1.0, 3.0):
        solver = Heun(Conditional(Guided(model, weight=weight), 1), Karras(sigma_max=20.0)(24))
        *_, last = solve(solver, solver.start(cases.normal(500, 2)))
        ends.append(last.x[:, 0])
    # Heun's own error at 24 steps, and the start's that lacks the mean: 1 / 20 at most.
    assert abs(float(ends[0].mean()) - 1) < 5 * float(ends[0].std()) / 500**0.5 + 0.05
    assert cases.z_score(ends[1] - ends[0]) > 5


def test_classes_are_known_until_one_is_closed_over():
    assert Guided(classes(), weight=2.0).classes == Autoguided(classes(), classes(), weight=2.0).classes == 2
    assert Conditional(classes(), 1).classes == ConditionalEnergy(classes(), 1).classes == 0


@pytest.mark.parametrize("settings", [{"weight": math.nan}, {"weight": 1.0, "interval": (2.0, 1.0)}])
def test_mistakes_are_refused(settings):
    with pytest.raises(ValueError, match="weight is a number"):
        Guided(classes(), **settings)
    with pytest.raises(ValueError, match="weight is a number"):
        Autoguided(classes(), classes(), **settings)
