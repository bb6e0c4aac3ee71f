"""Generation from a trained energy, against an energy with known answers."""

import math

import pytest
import torch

import cases
from energyscape.data import digits
from energyscape.errors import UserError
from energyscape.inference import Generated
from energyscape.metrics import METRICS, Evidence
from energyscape.metrics.restoration import restorations
from energyscape.models import Gaussian
from energyscape.noise import noised
from energyscape.objectives import ReplayBuffer
from energyscape.recipe import Experiment, Recipe

V, LEVEL = 0.25, 0.3


def gaussian(**changes: str) -> Experiment:
    """An experiment that has learned N(0, V I) in the plane."""
    settings = {"sampler.kernel.step_size": "0.1", "sampler.steps": "100", "objective.start.capacity": "300"}
    experiment = Experiment(Recipe.named("8gaussians-pcd", settings | changes))
    experiment.model, experiment.average = Gaussian(torch.zeros(2), V * torch.eye(2)), None
    return experiment


def test_samples_are_of_the_energy_s_law():
    # What was learned is noised data, but the recipe asks for no denoising at the end.
    generated = gaussian(**{"objective.data_noise": str(LEVEL)}).trained.sample(4_000, seed=1)
    assert abs(cases.z_score(generated.x.flatten())) < 5
    # Of a normal law the variance's standard error is sqrt(2 / n) of it.
    assert generated.x.var().item() == pytest.approx(V, rel=5 * math.sqrt(2 / generated.x.numel()))
    assert generated.diverged == 0


def test_the_last_denoising_step_takes_the_learned_noise_away():
    generated = gaussian(**{"sampler.tweedie": "true", "objective.data_noise": str(LEVEL)}).trained.sample(
        4_000, seed=1
    )
    # x - σ² ∇E = x (1 - σ² / v): narrower than the clean law too, as posterior means are.
    expected = V * (1 - LEVEL**2 / V) ** 2
    assert generated.x.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / generated.x.numel()))


def test_the_path_goes_from_noise_to_the_sample():
    generated = gaussian().trained.sample(20, shown=5, frames=6)
    assert generated.at[0] == 0
    assert generated.at[-1] == 100
    assert generated.path.shape == (len(generated.at), 5, 2)
    assert torch.equal(generated.path[-1], generated.x[:5])
    assert generated.path[0].abs().max() <= 4  # the recipe's noise is uniform on [-4, 4]
    assert generated.path[0].abs().max() > 1


def test_chains_start_where_they_are_refused():
    experiment = gaussian()
    start = experiment.objective.start
    assert isinstance(start, ReplayBuffer)
    start.chains = 10 + torch.arange(600.0).reshape(300, 2)
    generated = experiment.trained.sample(300, start="buffer", shown=300)
    assert torch.equal(generated.path[0].sort(0).values, start.chains)  # every chain once
    generated = experiment.trained.sample(500, start="data", shown=500)
    radius = generated.path[0].norm(dim=1)
    assert radius.mean().item() == pytest.approx(2.85, abs=0.1)  # eight Gaussians on a circle of 2.83


def test_more_chains_than_a_batch_start_each_at_its_own_place():
    experiment = gaussian(**{"objective.start.capacity": "700", "sampler.kernel.step_size": "1e-12"})
    experiment.objective.start.chains = torch.arange(1400.0).reshape(700, 2) / 100
    generated = experiment.trained.sample(700, start="buffer", steps=1)
    # A step of 1e-12 leaves them where they were.
    assert torch.allclose(generated.x.sort(0).values, experiment.objective.start.chains, atol=1e-4)


@pytest.mark.parametrize("start", ["noise", "data"])
def test_batches_of_samples_are_those_of_all_at_once(start):
    experiment = gaussian(**{"sampler.steps": "10"})
    parts = list(experiment.trained.sampling(1_203, start=start, seed=4))
    whole = experiment.trained.sample(1_203, start=start, seed=4)
    assert [len(each.x) for each in parts] == [500, 500, 203]
    assert torch.equal(torch.cat([each.x for each in parts]), whole.x)
    assert torch.equal(parts[0].path, whole.path)
    assert [each.path.shape[1] for each in parts] == [8, 0, 0]
    assert not torch.equal(parts[0].x, parts[1].x)


def test_chains_are_compiled_for_all_batches_of_a_size_at_once(monkeypatch):
    """The compiler's part is played by the steps themselves, so that the numbers must be the same to the last bit."""
    graphs, sizes = [], []

    def compile(function, **_):
        graphs.append(1)
        return lambda state, noise: sizes.append(len(state.x)) or function(state, noise)

    monkeypatch.setattr(torch, "compile", compile)
    experiment = gaussian(**{"sampler.steps": "10"})
    plain = experiment.trained.sample(1_203, seed=4)
    assert graphs == []
    fast = experiment.with_sampler({"sampler.compile": "true"}).trained.sample(1_203, seed=4)
    assert (graphs, sizes) == ([1], [500, 500])  # of those left over there are too few
    assert torch.equal(plain.x, fast.x)
    assert torch.equal(plain.path, fast.path)
    experiment.with_sampler({"sampler.compile": "true"}).trained.sample(40, seed=4)
    assert (graphs, sizes[2:]) == ([1, 1], [40])


def test_chains_in_bfloat16_are_nearly_those_in_float32_and_only_the_chains_are():
    exact = Experiment(Recipe.named("digits-pcd", {"sampler.tweedie": "false"}))
    rough = exact.with_sampler({"sampler.precision": "'bfloat16'"})
    seen = []
    forward = exact.best.forward
    exact.best.forward = lambda *given: seen.append(torch.is_autocast_enabled("cpu")) or forward(*given)
    left = exact.trained.sample(4, steps=5, seed=0).x
    assert not any(seen)
    seen.clear()
    batches = rough.trained.sampling(4, steps=5, seed=0)
    right = next(batches).x
    assert all(seen)
    assert len(seen) == 6
    assert not torch.is_autocast_enabled("cpu")  # the consumer of the batch computes as before
    assert right.dtype == torch.float32
    assert not torch.equal(left, right)
    assert torch.allclose(left, right, atol=0.1)
    seen.clear()
    rough.with_sampler({"sampler.tweedie": "true"}).trained.sample(4, steps=5, seed=0)
    assert sum(seen) == 6
    assert not seen[-1]


def test_batches_of_data_are_drawn_without_replacement():
    source = digits()
    parts = list(source.drawing([700, 700, 98, 900], generator=torch.Generator().manual_seed(0)))
    assert [len(each) for each in parts] == [700, 700, 98, 900]
    assert len(source) == 1_498
    assert torch.equal(sorted_rows(torch.cat(parts[:3])), sorted_rows(source.floats()))


def sorted_rows(x):
    return torch.tensor(sorted(x.flatten(1).tolist()))


def test_restoration_is_the_posterior_mean():
    experiment = gaussian(**{"objective.data_noise": str(LEVEL)})
    y = torch.tensor([[0.8, -0.5]]).repeat(400, 1)
    x = experiment.trained.restore(y, sigma=0.5, steps=200, seed=0)
    clean = V - LEVEL**2
    for i in (0, 1):
        assert abs(cases.z_score(x[:, i], clean / (clean + 0.5**2) * y[0, i].item())) < 5


def test_images_stay_on_their_scale():
    experiment = Experiment(Recipe.named("digits-pcd", {"model.network.width": "8", "sampler.steps": "3"}))
    assert experiment.trained.sample(10).x.abs().max() <= 1
    assert experiment.trained.restore(3 * torch.ones(2, 1, 8, 8), sigma=0.4, steps=4).abs().max() <= 1


def of_samples(experiment, x):
    """Return what is measured of given samples."""
    evidence = Evidence(experiment, n=len(x))
    evidence.__dict__["generated"] = Generated(x, x[None, :0], [0], 0)
    names = ("recognised", "training-distance", "energies")
    return {each.name: each.value for name in names for each in METRICS[name]().measure(evidence)}


def test_real_images_measure_as_real():
    """Held-out digits given as samples: recognised, evenly spread, as far from the training set as they are."""
    experiment = Experiment(Recipe.named("digits-pcd", {"model.network.width": "8"}))
    metrics = of_samples(experiment, digits(split="test").floats())
    assert metrics["recognised"] == metrics["recognised, real"] > 0.9
    assert metrics["rarest class"] > 0.07
    assert metrics["distance to training"] == 1
    assert metrics["AUC of energies"] == pytest.approx(0.5, abs=5 * 0.024)  # standard error of an AUC of 2 × 299
    copies = of_samples(experiment, digits().floats(slice(0, 300)))
    assert copies["distance to training"] == 0
    noise = torch.rand(300, 1, 8, 8, generator=cases.generator()) * 2 - 1
    assert of_samples(experiment, noise)["recognised"] < 0.05


def test_restoration_is_measured_on_images_that_were_held_out(monkeypatch):
    monkeypatch.setattr("energyscape.metrics.restoration.IMAGES", 16)
    experiment = Experiment(Recipe.named("digits-pcd", {"model.network.width": "8"}))
    result = restorations(Evidence(experiment))[0]
    held_out, seen = digits(split="test").floats(), digits().floats()
    for image in result.clean:
        assert (held_out == image).flatten(1).all(1).any()
        assert not (seen == image).flatten(1).all(1).any()
    # Had it given the noisy image back, there would be no gain; half its error is a quarter of the squared one.
    noisy, clean = result.ways["noisy"], result.clean
    assert result._replace(ways=result.ways | {"restored": noisy}).gain("noisy").abs().max() == 0
    halved = result._replace(ways=result.ways | {"restored": clean + (noisy - clean) / 2}).gain("noisy")
    torch.testing.assert_close(halved, torch.full((16,), 20 * math.log10(2)), atol=1e-3, rtol=0)


def test_data_are_drawn_without_replacement_as_far_as_there_are_any():
    images = digits()
    drawn = images.draw(len(images), generator=cases.generator()).flatten(1)
    assert torch.equal(drawn.sum(1).sort().values, images.floats().flatten(1).sum(1).sort().values)
    assert len(images.draw(2 * len(images) + 5, generator=cases.generator())) == 2 * len(images) + 5
    assert noised(drawn, 0.0, generator=cases.generator())[0].equal(drawn)


def test_a_missing_coordinate_is_drawn_given_the_other():
    experiment = gaussian(**{"objective.data_noise": "0.0"})
    covariance = V * torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    experiment.model = Gaussian(torch.zeros(2), covariance)
    y = torch.tensor([[0.6, 9.0], [-0.4, 9.0]])
    x = experiment.trained.inpaint(y, torch.tensor([False, True]), n=2_000, steps=200, seed=0)
    assert x.shape == (2_000, 2, 2)
    assert torch.equal(x[:, :, 0], y[:, 0].expand(2_000, 2))
    for i in (0, 1):
        assert abs(cases.z_score(x[:, i, 1], 0.8 * float(y[i, 0]))) < 5
    # Langevin's own variance is 1 / (1 - η / 2v) of the conditional one; the step is the recipe's.
    v, step_size = V * (1 - 0.8**2), experiment.sampler.kernel(experiment.trained.require_energy()).step_size
    expected = v / (1 - step_size / (2 * v)) if type(experiment.sampler.kernel(None)).__name__ == "Langevin" else v
    # Of a normal law the variance's standard error is sqrt(2 / n) of it.
    assert x[:, 0, 1].var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / 2_000))


def test_completing_nothing_is_a_mistake():
    with pytest.raises(UserError, match="no pixel is missing"):
        gaussian().trained.inpaint(torch.zeros(1, 2), torch.tensor([False, False]))
    with pytest.raises(UserError, match="at least one draw and two steps; they were 0 and 5"):
        gaussian().trained.inpaint(torch.zeros(1, 2), torch.tensor([True, False]), n=0, steps=5)
