"""Metrics of denoisers, against denoisers and judges with known answers."""

import pytest
import torch

from energyscape.inference import Generated
from energyscape.metrics import Evidence
from energyscape.metrics.denoisers import Classes, costs
from energyscape.models import Denoiser
from energyscape.recipe import Experiment, Recipe

CLASSES = {"model.network.classes": "10", "objective.label_dropout": "0.1", "sampler.solver.name": "heun"}


class Labelled(Denoiser):
    """Says a tenth of the label everywhere, and nought where there is none."""

    classes = 10

    def forward(self, x, sigma, label=None):
        value = torch.zeros(len(x)) if label is None else label.clamp(min=0) / 10
        return torch.zeros_like(x) + value.reshape(-1, 1, 1, 1)


class Oracle:
    """A judge that reads the class off an image's brightness; its features are the pixels."""

    def probabilities(self, x):
        brightness = (x.flatten(1).mean(1) * 10).round().long().clamp(0, 9)
        return torch.nn.functional.one_hot(brightness, 11).float()

    def features(self, x):
        return x.flatten(1)


def class_metrics(experiment, x):
    """Return the numbers that a perfect judge gives of samples."""
    evidence = Evidence(experiment, n=len(x))
    evidence.__dict__.update(classifier=Oracle(), generated=Generated(x, x[None, :0], [0], 0))
    return Classes().measure(evidence) if Classes().applies(evidence) else []


@pytest.fixture
def labelled():
    experiment = Experiment(Recipe.named("digits-ncsn", CLASSES))
    experiment.model, experiment.average = Labelled(), None
    return experiment


def test_classes_go_in_turn_through_batches_of_any_size(labelled, monkeypatch):
    monkeypatch.setattr("energyscape.inference.descent.BATCH", 4)
    x = labelled.trained.sample(23, steps=2, seed=0).x  # the last step of Heun's method is the denoiser's word
    assert torch.allclose(x.mean((1, 2, 3)) * 10, torch.arange(23.0) % 10, atol=1e-5)


def test_the_classes_that_are_asked_for_are_counted(labelled):
    x = labelled.trained.sample(200, steps=2, seed=0).x
    right, _ = class_metrics(labelled, x)
    assert (right.name, right.value) == ("class as asked", 1)
    x[:50] = x[:50].flip(0)  # of ten classes in turn, turned round: none of fifty is as asked
    assert class_metrics(labelled, x)[0].value == pytest.approx(0.75)


def test_diversity_is_that_within_a_class(labelled):
    held_out = labelled.held_out
    images = [held_out.floats()[held_out.labels == k] for k in range(10)]
    fewest = min(map(len, images))
    x = torch.stack([each[:fewest] for each in images], 1).flatten(0, 1)
    close = torch.stack([each[:fewest].mean(0) + (each[:fewest] - each[:fewest].mean(0)) / 2 for each in images], 1)
    _, same = class_metrics(labelled, x)
    _, half = class_metrics(labelled, close.flatten(0, 1))
    # Some 25 of some 30 images of each class: their mean distance scatters by a few percent.
    assert same.value == pytest.approx(1, abs=0.05)
    assert half.value == pytest.approx(same.value / 2, rel=1e-6)


def test_a_run_without_classes_has_no_figures_of_them():
    experiment = Experiment(Recipe.named("digits-ncsn"))
    assert class_metrics(experiment, torch.zeros(4, 1, 8, 8)) == []


def test_costs_are_the_evaluations_that_a_number_of_them_allows(labelled, monkeypatch):
    monkeypatch.setattr("energyscape.metrics.denoisers.EVALUATIONS", (6, 9))
    monkeypatch.setattr("energyscape.metrics.denoisers.COST_SAMPLES", 20)
    evidence = Evidence(labelled, seed=0)
    evidence.__dict__["classifier"] = Oracle()
    found = costs(evidence)
    result = [(each.solver, each.nfe) for each in found]
    assert result == [("euler", 6), ("euler", 9), ("heun", 5), ("heun", 9), ("dpm++", 6), ("dpm++", 9)]
    assert all(each.distance > 0 for each in found)
    assert type(labelled.sampler.solver(abs, [1.0, 0.0])).__name__ == "Heun"


def test_what_is_known_of_an_image_stays_and_each_image_has_its_draws(labelled):
    y = torch.stack([torch.full((1, 8, 8), value) for value in (-0.5, 0.25, 0.75)])
    missing = torch.zeros(1, 8, 8, dtype=torch.bool)
    missing[:, 4:] = True
    x = labelled.trained.inpaint(y, missing, n=2, steps=3, seed=0)
    assert x.shape == (2, 3, 1, 8, 8)
    assert torch.equal(x[..., :4, :], y[..., :4, :].expand(2, 3, 1, 4, 8))
    # Without a class the denoiser returns 0, and so is a denoised point.
    assert torch.allclose(x[..., 4:, :], torch.zeros(()), atol=1e-5)
