r"""Denoisers and denoising at all noise levels: EDM's formulas, finite differences, and closed forms on Gaussians.

For data from N(0, v I) in d dimensions, a model that believes in a variance w denoises by the factor
:math:`k = w / (w + \sigma^2)`, and :math:`E \| D(y) - x \|^2 = d\, [(1 - k)^2 v + k^2 \sigma^2]`.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import cases
from energyscape import calculus
from energyscape.data import EightGaussians, batches
from energyscape.errors import UserError
from energyscape.evaluation import kl, mode_masses
from energyscape.models import DENOISERS, ENERGIES, MODELS, NOISE_NETWORKS, Denoiser, NoiseMLP, ScalarEnergyDenoiser
from energyscape.objectives import (
    OBJECTIVES,
    Denoising,
    DenoisingScoreMatching,
    EDMWeight,
    MultiscaleDenoisingScoreMatching,
    NoiseWeight,
    Objective,
    UncertaintyWeightedDenoising,
)
from energyscape.objectives.denoising import shifted_grid
from energyscape.registry import build, schema
from energyscape.rng import global_seed
from energyscape.schedules import Geometric
from energyscape.training import averaged, fit

V = 1.3
SHAPES = [(2,), (1, 3, 3)]


def levels(n, seed=0):
    """Noise levels from 0.05 to 5."""
    u = torch.rand(n, generator=cases.generator(seed), dtype=torch.float64, device=cases.DEVICE)
    return 0.05 * 100**u


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", cases.SHAPES.values(), ids=cases.SHAPES.keys())
def test_a_noise_network_maps_points_and_levels_to_one_number_each(shape, dtype):
    with global_seed(0):
        net = NoiseMLP(shape, width=16).to(cases.DEVICE, dtype)
    u, noise = cases.normal(5, *shape, dtype=dtype), cases.normal(5, seed=1, dtype=dtype)
    f = net(u, noise)
    assert f.shape == (5,)
    assert f.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(net(u[2:3], noise[2:3]), f[2:3], rtol=tolerance, atol=tolerance)
    assert not torch.allclose(net(u, noise.flip(0)), f)


def test_a_noise_network_by_hand():
    net = NoiseMLP(2, width=3, depth=2, frequencies=2).double()
    u, t = cases.normal(7, 2).cpu(), cases.normal(7, seed=1).cpu()
    e = torch.stack([t.cos(), (2 * t).cos(), t.sin(), (2 * t).sin()], 1)
    (c1, c2), silu = net.told, nn.functional.silu
    first = silu(net.first(u) * (1 + e @ c1.weight.T + c1.bias))
    second = silu(net.hidden[0](first) + e @ c2.weight.T + c2.bias)
    assert torch.allclose(net(u, t), (second @ net.last.weight.T)[:, 0], rtol=1e-12)
    assert net.last.bias is None


@pytest.mark.parametrize("wrong", ["width", "depth", "frequencies"])
def test_sizes_of_a_noise_network_are_positive(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        NoiseMLP(2, **{wrong: 0})


# --- the denoiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_denoiser_is_preconditioned_as_edm(shape):
    """Karras et al. (2022), table 1."""
    model, sigma_d = cases.denoiser(shape, dtype=torch.float64, data_std=1.5), 1.5
    x, sigma = 2 * cases.normal(9, *shape), levels(9)
    s = sigma.reshape(-1, *[1] * len(shape))
    c_skip = sigma_d**2 / (s**2 + sigma_d**2)
    c_out = s * sigma_d / (s**2 + sigma_d**2).sqrt()
    c_in = 1 / (s**2 + sigma_d**2).sqrt()
    c_noise = sigma.log() / 4
    u = (c_in * x).requires_grad_()
    (gradient,) = torch.autograd.grad(model.network(u, c_noise).sum(), u)
    assert torch.allclose(model(x, sigma), c_skip * x + c_out * -gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("detail", [0.0, 0.4])
def test_the_energy_by_hand(detail):
    model = cases.denoiser(dtype=torch.float64, data_std=1.5, detail=detail)
    x, sigma = cases.normal(9, 2), levels(9)
    tau, whole = (sigma**2 + detail**2).sqrt(), (sigma**2 + 1.5**2).sqrt()
    f = model.network(x / whole.unsqueeze(1), tau.log() / 4)
    expected = (x**2).sum(1) / (2 * whole**2) + 1.5 / tau * f
    assert torch.allclose(model.energy(x, sigma), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_its_network_it_is_the_exact_denoiser_of_a_gaussian(shape):
    model = ScalarEnergyDenoiser(lambda u, noise: torch.zeros_like(noise), data_std=0.8)
    x, sigma = cases.normal(6, *shape), levels(6)
    shrink = (0.64 / (0.64 + sigma**2)).reshape(-1, *[1] * len(shape))
    assert torch.allclose(model(x, sigma), shrink * x, rtol=1e-12)
    assert torch.allclose(model.at(0.6)(x), x.flatten(1).square().sum(1) / 2, rtol=1e-12)  # 0.64 + 0.36 = 1


@pytest.mark.parametrize("detail", [0.0, 0.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_score_is_minus_the_slope_of_the_energy(shape, detail):
    model = cases.denoiser(shape, dtype=torch.float64, detail=detail)
    sigma, x, h = 0.3, cases.normal(4, *shape), 1e-5
    energy = model.at(sigma)
    slope = torch.zeros_like(x).flatten(1)
    for i in range(slope.shape[1]):
        step = torch.zeros_like(x[0]).flatten()
        step[i] = h
        step = step.reshape(shape)
        slope[:, i] = (energy(x + step) - energy(x - step)) / (2 * h)
    output = (model(x, x.new_full((4,), sigma)) - x) / sigma**2
    # Central differences err by h^2 times a third derivative, which is below 1e3 here, and by 1e-15 / h.
    assert torch.allclose(output, -slope.reshape(x.shape), atol=2e-7, rtol=0)
    assert torch.allclose(output, calculus.score(energy, x), rtol=1e-10, atol=1e-12)


def test_autograd_records_through_a_denoiser_only_where_it_records():
    model = cases.denoiser(dtype=torch.float64)
    x, sigma = cases.normal(5, 2), levels(5)
    output = model(x, sigma)
    with torch.no_grad():
        quiet = model(x, sigma)
    assert output.requires_grad
    assert not quiet.requires_grad
    assert torch.allclose(output, quiet, rtol=1e-12)
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    (slope,) = torch.autograd.grad(output.square().sum(), model.network.first.weight)
    weight, h = model.network.first.weight, 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight[1, 0] += sign * h
            values.append(model(x, sigma).square().sum())
            weight[1, 0] -= sign * h
    assert float((values[0] - values[1]) / (2 * h)) == pytest.approx(float(slope[1, 0]), rel=1e-5)


def test_an_energy_at_a_level_shares_its_parameters():
    model = cases.denoiser().eval()
    energy = model.at(0.5)
    assert not energy.training
    assert {id(each) for each in energy.parameters()} == {id(each) for each in model.parameters()}
    x = cases.normal(3, 2, dtype=torch.float32)
    before = energy(x)
    with torch.no_grad():
        model.network.last.weight *= 2
    assert not torch.allclose(energy(x), before)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="a noise level is positive"):
            model.at(sigma)


def test_labels_and_columns_reach_the_network():
    conditional = ScalarEnergyDenoiser(
        lambda u, noise, label: u.sum(1, keepdim=True) * label.unsqueeze(1), data_std=1.0
    )
    x, label = cases.normal(4, 2), torch.arange(4, device=cases.DEVICE)
    slope = label.unsqueeze(1).double() / math.sqrt(5) / 2  # at sigma = 2: data_std / sigma over the scale of u
    output = conditional(x, x.new_full((4,), 2.0), label)
    assert torch.allclose(output, x - 4 * (x / 5 + slope), rtol=1e-12)
    assert torch.allclose(conditional.at(2.0)(x, label), (x**2).sum(1) / 10 + (slope * x).sum(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data_std": 0.0}, "data_std"),
        ({"data_std": math.nan}, "data_std"),
        ({"data_std": 1.0, "detail": -0.1}, "detail"),
    ],
)
def test_a_denoiser_refuses_nonsense(settings, message):
    with pytest.raises(ValueError, match=message):
        ScalarEnergyDenoiser(NoiseMLP(2), **settings)


def test_a_recipe_builds_a_denoiser_by_name():
    settings = {"network": {"name": "noise-mlp", "width": 8}, "data_std": 2, "detail": 0.1}
    model = build(MODELS, "energy-denoiser", settings, shape=(1, 8, 8))
    assert isinstance(model.network, NoiseMLP)
    assert (model.network.first.in_features, model.data_std, model.detail) == (64, 2.0, 0.1)
    with pytest.raises(UserError, match="there is no network named 'mlp'; did you mean 'noise-mlp'"):
        build(MODELS, "energy-denoiser", {**settings, "network": "mlp"}, shape=(2,))
    assert dict(MODELS) == {**ENERGIES, **DENOISERS}
    for name, component in [*NOISE_NETWORKS.items(), *MODELS.items(), *OBJECTIVES.items()]:
        assert all(field.doc for field in schema(component).values()), name


# --- denoising at all levels ------------------------------------------------------------------------------------------


def test_a_shifted_grid_is_even_and_each_of_its_numbers_uniform():
    x = cases.normal(16, 2)
    drawn = torch.stack([shifted_grid(x, generator=cases.generator(seed)) for seed in range(2000)])
    assert drawn.dtype == torch.float64
    # Sorted, the numbers of every draw are 1 / 16 apart.
    assert torch.allclose(drawn.sort(1).values.diff(dim=1), drawn.new_full((2000, 15), 1 / 16), atol=1e-12)
    for i in (0, 5, 15):
        assert abs(cases.z_score(drawn[:, i], 1 / 2)) < 5
        assert abs(cases.z_score(drawn[:, i].square(), 1 / 3)) < 5
        assert float(drawn[:, i].max()) < 1


@pytest.mark.parametrize("data_std", [None, 0.9])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_by_hand(shape, data_std):
    objective = MultiscaleDenoisingScoreMatching(sigma_min=0.1, sigma_max=2.5, data_std=data_std)
    model, x = cases.denoiser(shape, dtype=torch.float64), cases.normal(24, *shape)
    loss = objective(model, x, generator=cases.generator(3))
    generator = cases.generator(3)
    share = shifted_grid(x, generator=generator)
    z = torch.empty_like(x).normal_(generator=generator)
    errors, weights = [], []
    for i in range(24):
        sigma = 0.1 * (2.5 / 0.1) ** share[i]
        errors.append((model(x[i : i + 1] + sigma * z[i], sigma.view(1)) - x[i]).square().sum() / sigma**2)
        weights.append(1 + (0.0 if data_std is None else float(sigma / data_std) ** 2))
    errors, weights, d = torch.stack(errors).detach(), cases.tensor(weights), x[0].numel()
    assert torch.allclose(loss.value, (errors * weights).mean() / 2, rtol=1e-11)
    assert float(loss.facts["relative"]) == pytest.approx(float(errors.mean() / d), rel=1e-11)
    for i, name in enumerate(("low", "middle", "high")):
        inside = (share >= i / 3) & (share < (i + 1) / 3)
        assert inside.sum() == 8
        assert float(loss.facts[f"relative_{name}"]) == pytest.approx(float(errors[inside].mean() / d), rel=1e-11)


def closed_form(w, low, high, data_std):
    """The loss in one dimension of a model that believes in the variance w, and its derivative in w."""
    node, weight = np.polynomial.legendre.leggauss(200)
    sigma = low * (high / low) ** ((node + 1) / 2)
    k = w / (w + sigma**2)
    lam = 1 / sigma**2 + (0 if data_std is None else 1 / data_std**2)
    loss = lam / 2 * ((1 - k) ** 2 * V + k**2 * sigma**2)
    slope = lam * (-(1 - k) * V + k * sigma**2) * sigma**2 / (w + sigma**2) ** 2
    return weight @ loss / 2, weight @ slope / 2


@pytest.mark.parametrize("name", ["msdsm", "msdsm:ncsn"])
@pytest.mark.parametrize("w", [0.4, V, 3.0])
@pytest.mark.parametrize("d", [2, 10])
def test_the_loss_on_a_family_of_gaussians_has_its_exact_value(d, w, name):
    objective = cases.OBJECTIVES[name]()
    p = 1 / (w + objective.level**2)
    losses, slopes = [], []
    for i in range(48):
        model = cases.QuadraticDenoiser(p, objective.level)
        x = math.sqrt(V) * cases.normal(512, d, seed=i)
        loss = objective(model, x, generator=cases.generator(i)).value
        slopes.append(torch.autograd.grad(loss, model.p)[0])
        losses.append(loss.detach())
    value, slope = closed_form(w, objective.level, objective.sigma_max, objective.data_std)
    assert abs(cases.z_score(torch.stack(losses), d * value)) < 5
    # dw / dp = -1 / p^2. At w = V the slope is zero: the minimiser is the truth, at every level.
    assert abs(cases.z_score(torch.stack(slopes), -d * slope / p**2)) < 5
    assert w != V or abs(slope) < 1e-12


def test_a_model_that_removes_nothing_has_a_relative_loss_of_one():
    objective, x = MultiscaleDenoisingScoreMatching(sigma_min=0.01, sigma_max=50.0), cases.normal(2**12, 10)
    facts = objective(cases.QuadraticDenoiser(1e-12, 0.0), x, generator=cases.generator()).facts
    # A mean of 40,960 squared normals, each of variance 2, and of a third of them.
    assert abs(float(facts["relative"]) - 1) < 5 * math.sqrt(2 / 40960)
    for name in ("low", "middle", "high"):
        assert abs(float(facts[f"relative_{name}"]) - 1) < 5 * math.sqrt(6 / 40960)


def test_a_single_point_leaves_two_bands_empty():
    objective = MultiscaleDenoisingScoreMatching(sigma_min=0.1, sigma_max=1.0)
    facts = objective(cases.denoiser(), cases.normal(1, 2, dtype=torch.float32), generator=cases.generator()).facts
    assert sorted(float(facts[f"relative_{name}"]) > 0 for name in ("low", "middle", "high")) == [False, False, True]
    assert all(math.isfinite(float(each)) for each in facts.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_min": 0.0, "sigma_max": 1.0}, "0 < sigma_min < sigma_max; they were 0.0 and 1.0"),
        ({"sigma_min": 1.0, "sigma_max": 1.0}, "sigma_min < sigma_max"),
        ({"sigma_min": 0.1, "sigma_max": math.inf}, "sigma_min < sigma_max"),
        ({"sigma_min": math.nan, "sigma_max": 1.0}, "sigma_min < sigma_max"),
        ({"sigma_min": 0.1, "sigma_max": 1.0, "data_std": 0.0}, "data_std is positive or none"),
    ],
)
def test_denoising_at_all_levels_refuses_nonsense(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiscaleDenoisingScoreMatching(**settings)


# --- the right kind of model ------------------------------------------------------------------------------------------


def test_an_objective_refuses_a_model_of_the_wrong_kind():
    dsm, msdsm = DenoisingScoreMatching(sigma=0.1), MultiscaleDenoisingScoreMatching(sigma_min=0.1, sigma_max=1.0)
    with pytest.raises(
        UserError, match=r"DenoisingScoreMatching trains .* Energy \(neural.*given ScalarEnergyDenoiser$"
    ):
        dsm.check(cases.denoiser())
    wanted = (
        r"MultiscaleDenoisingScoreMatching trains .* EnergyDenoiser \(energy-denoiser, clean-denoiser\); "
        r"it was given NeuralEnergy$"
    )
    with pytest.raises(UserError, match=wanted):
        msdsm.check(cases.neural())
    with pytest.raises(UserError, match="given Linear"):
        dsm.check(nn.Linear(2, 1))


@pytest.mark.parametrize("name", cases.OBJECTIVES)
def test_an_objective_takes_its_own_kind_of_model(name):
    objective = cases.OBJECTIVES[name]()
    model = cases.learner(objective)
    objective.check(model)
    objective.check(cases.round_learner(objective, 1.0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_model_is_of_the_kind_that_was_compiled():
    dsm = DenoisingScoreMatching(sigma=0.1)
    dsm.check(torch.compile(cases.neural()))
    with pytest.raises(UserError, match="given ScalarEnergyDenoiser"):
        dsm.check(torch.compile(cases.denoiser()))


def test_an_objective_that_names_no_kind_takes_any():
    class Free(Objective):
        def forward(self, model, x, label=None, *, generator=None):
            raise NotImplementedError

    Free().check(nn.Linear(2, 1))


SNIPPET = """
from energyscape.models import EnergyDenoiser, NeuralEnergy
from energyscape.objectives import DenoisingScoreMatching, MultiscaleDenoisingScoreMatching
from torch import Tensor

def right(x: Tensor, energy: NeuralEnergy, denoiser: EnergyDenoiser) -> None:
    DenoisingScoreMatching(sigma=0.1)(energy, x)
    MultiscaleDenoisingScoreMatching(sigma_min=0.1, sigma_max=1.0)(denoiser, x)

def wrong(x: Tensor, energy: NeuralEnergy, denoiser: EnergyDenoiser) -> None:
    DenoisingScoreMatching(sigma=0.1)(denoiser, x)
    MultiscaleDenoisingScoreMatching(sigma_min=0.1, sigma_max=1.0)(energy, x)
"""


@pytest.mark.slow
def test_the_wrong_kind_of_model_is_a_type_error(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(tmp_path / "snippet.py")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in process.stdout.splitlines() if "snippet.py" in line and ": error:" in line]
    assert [int(line.split(":")[1]) for line in errors] == [11, 12], process.stdout
    assert all("[arg-type]" in line for line in errors)


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_eight_gaussians():
    law, level = EightGaussians(), 0.1
    with global_seed(0):
        model = ScalarEnergyDenoiser(NoiseMLP(2, width=128), data_std=2.0, detail=0.3)
    objective = MultiscaleDenoisingScoreMatching(sigma_min=level, sigma_max=3.0, data_std=2.0)
    average = averaged(model, half_life=50_000, batch_size=256)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    budget = {"samples": 2_000_000, "schedule": lambda progress, samples: 1 - progress}
    assert all(
        math.isfinite(result.loss)
        for result in fit(model, objective, batches(law, 256), adam, average=average, **budget)
    )
    energy = average.module.at(level)
    # The noise costs 0.003 nats of it (a variance of 0.125 + 0.01); with detail = 0 masses drift, which costs 0.06.
    assert kl(law, energy).value < 0.04
    assert float((8 * mode_masses(law, energy) - 1).abs().max()) < 0.4


# --- all levels of a law ----------------------------------------------------------------------------------------------


class Shrinking(Denoiser):
    """D = k y, and 100 away with a class."""

    classes = 3

    def __init__(self, k=0.6):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))
        self.seen = []

    def forward(self, x, sigma, label=None):
        self.seen.append(label)
        return self.k * x


SPAN = Geometric(sigma_min=0.2, sigma_max=2.0)


def exact_error(weight, k):
    """E λ ((1 - k)² v + k² σ²), by quadrature over the law of levels."""
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    sigma = SPAN.quantile(u)
    return weight(sigma) * ((1 - k) ** 2 * V + k**2 * sigma**2)


@pytest.mark.parametrize("d", [2, 10])
@pytest.mark.parametrize("weight", [EDMWeight(data_std=0.7), NoiseWeight()], ids=["edm", "noise"])
def test_the_denoising_loss_has_its_exact_value(weight, d):
    objective, model = Denoising(levels=SPAN, weight=weight), Shrinking()
    result = [
        objective(model, math.sqrt(V) * cases.normal(256, d, seed=i), generator=cases.generator(100 + i)).value.detach()
        for i in range(64)
    ]
    assert abs(cases.z_score(torch.stack(result), float(exact_error(weight, 0.6).mean()))) < 5


def test_the_uncertain_loss_is_the_plain_one_until_it_has_learned():
    plain, weight = Denoising(levels=SPAN, weight=NoiseWeight()), NoiseWeight()
    uncertain, model = UncertaintyWeightedDenoising(levels=SPAN, weight=weight), Shrinking()
    x = cases.normal(64, 3)
    one, other = (each(model, x, generator=cases.generator(1)) for each in (plain, uncertain))
    assert torch.allclose(one.value, other.value, rtol=1e-12)
    assert torch.allclose(other.facts["loss"], one.value.detach(), rtol=1e-12)


def test_uncertainty_learns_the_logarithm_of_each_levels_error():
    """At its minimum e^w is the level's own weighted error."""
    objective, model = UncertaintyWeightedDenoising(levels=SPAN, weight=NoiseWeight()), Shrinking(0.9)
    model.k.requires_grad_(False)
    adam = torch.optim.Adam(objective.parameters(), lr=0.1)
    for i in range(600):
        adam.param_groups[0]["lr"] = 0.1 * (1 - i / 600)
        x = math.sqrt(V) * cases.normal(256, 8, seed=i)
        loss = objective(model, x, generator=cases.generator(i)).value
        adam.zero_grad()
        loss.backward()
        adam.step()
    sigma = torch.tensor([0.3, 0.7, 1.5], dtype=torch.float64)
    error = (0.01 * V + 0.81 * sigma**2) / sigma**2
    # Errors of 2,048 squared numbers a batch scatter by 3 %; the rate averages over many batches.
    assert objective.uncertainty(sigma).exp().tolist() == pytest.approx(error.tolist(), rel=0.05)


def test_classes_are_withheld_as_often_as_asked():
    model, label = Shrinking(), torch.full((20_000,), 2, device=cases.DEVICE)
    x = cases.normal(20_000, 1)
    Denoising(levels=SPAN, weight=NoiseWeight(), label_dropout=0.1)(model, x, label, generator=cases.generator())
    (seen,) = model.seen
    assert set(seen.unique().tolist()) == {-1, 2}
    # The share of 20,000 draws has a standard error of 0.0021.
    assert float((seen == -1).double().mean()) == pytest.approx(0.1, abs=5 * 0.0021)


@pytest.mark.parametrize("kind", [Denoising, UncertaintyWeightedDenoising])
def test_without_a_dropout_no_class_is_refused(kind):
    model, label = Shrinking(), torch.zeros(4, dtype=torch.int64, device=cases.DEVICE)
    plain, knowing = kind(levels=SPAN, weight=NoiseWeight()), kind(levels=SPAN, weight=NoiseWeight(), label_dropout=0.0)
    plain(model, cases.normal(4, 2), label, generator=cases.generator())
    knowing(model, cases.normal(4, 2), label, generator=cases.generator())
    assert model.seen[0] is None
    assert model.seen[1].tolist() == [0, 0, 0, 0]
    assert (plain.conditional, knowing.conditional) == (False, True)


@pytest.mark.parametrize("kind", [Denoising, UncertaintyWeightedDenoising])
def test_a_dropout_is_a_probability(kind):
    with pytest.raises(ValueError, match="label_dropout is a probability"):
        kind(levels=SPAN, weight=NoiseWeight(), label_dropout=1.5)


def test_uncertainty_has_waves():
    with pytest.raises(ValueError, match="frequencies is at least 1"):
        UncertaintyWeightedDenoising(levels=SPAN, weight=NoiseWeight(), frequencies=0)
