"""Cost of training: operations against those of its networks, counted by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from energyscape.cli.progress import TrainingDisplay
from energyscape.recipe import Experiment, Recipe
from energyscape.training import Report
from energyscape.training.guards import NOTHING

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from efficiency import Efficiency, efficiency, flops_per_sample


def products(network: nn.Module) -> int:
    """Operations of the linear layers of one forward pass, a point."""
    return sum(2 * each.weight.numel() for each in network.modules() if isinstance(each, nn.Linear))


def test_a_denoiser_costs_three_forward_passes():
    experiment = Experiment(Recipe.named("8gaussians-edm"))
    forward = products(experiment.model.network)
    # Backwards there are two products for each, and one where the input is no function of the weights.
    assert 2.5 * forward < flops_per_sample(experiment) <= 3 * forward


@pytest.mark.parametrize("steps", [1, 5])
def test_chains_cost_a_gradient_a_step(steps):
    experiment = Experiment(Recipe.named("8gaussians-pcd-langevin", {"objective.steps": str(steps)}))
    forward = products(experiment.model.network)
    before = {name: value.clone() for name, value in experiment.objective.state_dict().items()}
    cost = flops_per_sample(experiment)
    # A step's score takes two passes, as does the start's; data and negatives take three each, less the first layer's.
    chains = cost / forward - 2 * (steps + 1)
    assert 5.5 < chains <= 6
    after = experiment.objective.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(each.grad is None for each in experiment.model.parameters())


def test_compiled_chains_cost_what_others_do():
    """The compiler tries every operation out, which is none of the training's."""
    result = [
        flops_per_sample(Experiment(Recipe.named("8gaussians-cd-langevin", {"objective.compile": each})))
        for each in ("false", "true")
    ]
    assert result[0] == result[1]


def test_speed_is_that_of_the_second_half_since_training_went_on(monkeypatch):
    """A slow step of 20 seconds, in which something was compiled, and then ten of one second each."""
    clock = [10.0]
    monkeypatch.setattr("energyscape.cli.progress.time.monotonic", lambda: clock[0])
    training = SimpleNamespace(torch_device="cpu", batch_size=50)
    session = SimpleNamespace(
        fit=SimpleNamespace(progress=0.5, samples=1_000), experiment=SimpleNamespace(training=training)
    )
    display = TrainingDisplay(session)

    def reports():
        for seconds in (20, *[1] * 10):
            clock[0] += seconds
            session.fit.samples += 50
            yield Report(1, session.fit.samples, 0.0, 0.0, {}, NOTHING)

    result = display.follow(reports())
    next(result)
    assert display.speed == pytest.approx(50 / 20)  # nothing else is known
    list(result)
    assert clock == [40.0]
    assert display.speed == pytest.approx(50)


def test_utilisation_is_what_went_into_products_of_what_could_have():
    result = Efficiency(speed=200.0, flops=3e6, peak=1e9, memory=2**30)
    assert result.utilisation == pytest.approx(0.6)
    assert str(result) == (
        "200 samples/s, 3 MFLOP each: 60% of the rate of matrix products here (1 GFLOP/s); 1,024 MiB at most"
    )
    measured = efficiency(Experiment(Recipe.named("8gaussians-edm")), speed=1.0)
    assert 0 < measured.utilisation < 1
    assert 2**26 < measured.memory < 2**36
