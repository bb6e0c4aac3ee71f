"""The training loop: what it does in a step, how long it goes on, and that resuming is exact."""

import functools
import itertools
import math
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cases
from energyscape.calculus import score
from energyscape.data import EightGaussians, batches
from energyscape.errors import UserError
from energyscape.models import (
    EDM,
    ConvEnergyNet,
    DenoisingMLP,
    DenoisingResNet,
    NetworkDenoiser,
    NoiseConvNet,
    ResidualEnergyNet,
    UNet,
)
from energyscape.objectives import (
    ContrastiveDivergence,
    DataInit,
    Denoising,
    DenoisingScoreMatching,
    EDMWeight,
    MixtureInit,
    NoiseContrastiveScoreMatching,
    NoiseInit,
    ReplayBuffer,
    Weighted,
)
from energyscape.objectives.base import Loss, Objective
from energyscape.recipe import Experiment, Recipe
from energyscape.rng import global_seed
from energyscape.samplers import HMC, Langevin
from energyscape.samplers.compiled.passes import INDUCTOR_OPTIONS
from energyscape.schedules import LogNormal
from energyscape.training import GradientNorm, Snapshot, Verdict, averaged, fit


class Mean(Objective):
    """The loss is the mean of the energy: for E = p |x|² / 2 its gradient is the mean of |x|² / 2."""

    def forward(self, model, x, label=None, *, generator=None):
        value = model(x).mean()
        return Loss(value, {"labels": torch.tensor(0.0 if label is None else float(label.sum()))})


def endless(size=4, d=2):
    return (cases.normal(size, d, seed=i) for i in itertools.count())


def simple(data=None, *, lr=0.1, p=1.0, **settings):
    model = cases.Quadratic(p)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    return fit(model, Mean(), endless() if data is None else data, optimiser, **settings)


# --- a step -----------------------------------------------------------------------------------------------------------


def test_a_step_is_a_gradient_step_and_a_report():
    run = simple()
    p = 1.0
    for i in range(5):
        report = next(run)
        slope = float(cases.normal(4, 2, seed=i).square().sum(1).mean() / 2)
        assert report.loss == pytest.approx(p * slope, rel=1e-12)
        assert report.grad_norm == pytest.approx(slope, rel=1e-12)
        assert (report.step, report.samples, report.verdict, report.reason) == (i + 1, 4 * (i + 1), Verdict.GO, "")
        assert report.facts == {"labels": 0.0}
        p -= 0.1 * slope
        assert float(run.model.p.detach()) == pytest.approx(p, rel=1e-12)


def test_gradients_of_earlier_steps_are_forgotten():
    run = simple(lr=0.0)
    run.model.p.grad = torch.full_like(run.model.p, 100.0)
    slope = float(cases.normal(4, 2, seed=0).square().sum(1).mean() / 2)
    assert next(run).grad_norm == pytest.approx(slope, rel=1e-12)


def test_clip_bounds_the_step_and_the_report_tells_the_norm_before():
    run = simple([10 * cases.normal(4, 2, seed=3), 0.01 * cases.normal(4, 2, seed=3)], clip=0.5)
    report = next(run)
    assert report.grad_norm > 10
    # clip_grad_norm_ divides by the norm plus 1e-6.
    assert 1.0 - float(run.model.p.detach()) == pytest.approx(0.1 * 0.5, rel=1e-6)
    before = float(run.model.p.detach())
    report = next(run)
    assert report.grad_norm < 0.5
    assert before - float(run.model.p.detach()) == pytest.approx(0.1 * report.grad_norm, rel=1e-9)


def test_the_schedule_is_a_factor_on_every_rate():
    seen = []

    def half(progress, samples):
        seen.append((progress, samples))
        return 0.5 if samples >= 8 else 1.0

    model = cases.neural(dtype=torch.float64)
    first, *rest = model.parameters()
    optimiser = torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": rest, "lr": 0.02}])
    run = fit(model, Mean(), endless(), optimiser, samples=16, schedule=half)
    rates = []
    for _ in range(4):
        before = [each.detach().clone() for each in model.parameters()]
        next(run)
        rates.append([group["lr"] for group in optimiser.param_groups])
        for rate, old, new in zip([rates[-1][0], *[rates[-1][1]] * len(rest)], before, model.parameters(), strict=True):
            assert torch.allclose(old - new.detach(), rate * new.grad, rtol=1e-9, atol=1e-15)
    assert rates == [[0.2, 0.02], [0.2, 0.02], [0.1, 0.01], [0.1, 0.01]]
    assert seen == [(0.0, 0), (0.25, 4), (0.5, 8), (0.75, 12)]


def test_parameters_of_the_objective_are_trained_and_clipped_too():
    class Learning(Objective):
        def __init__(self):
            super().__init__()
            self.log_z = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

        def forward(self, model, x, label=None, *, generator=None):
            return Loss(3 * self.log_z + 4 * model.p, {})

    model, objective = cases.Quadratic(1.0), Learning()
    optimiser = torch.optim.SGD([model.p, objective.log_z], lr=1.0)
    report = next(fit(model, objective, endless(), optimiser, clip=0.5))
    assert report.grad_norm == pytest.approx(5.0)
    assert float(objective.log_z.detach()) == pytest.approx(-0.3, rel=1e-6)
    assert float(model.p.detach()) == pytest.approx(1 - 0.4, rel=1e-6)


# --- data and budgets -------------------------------------------------------------------------------------------------


def test_batches_tensors_and_pairs_are_data():
    x, label = cases.normal(12, 2), torch.arange(12)
    for data, labels in [
        (batches(EightGaussians(), 4), 0.0),
        (batches((x.float(), label), 4), None),
        (x.split(4), 0.0),
        (list(zip(x.split(4), label.split(4), strict=True)), None),
        ([(part, None) for part in x.split(4)], 0.0),
    ]:
        reports = list(itertools.islice(simple(data), 3))
        assert [each.samples for each in reports] == [4, 8, 12]
        total = sum(each.facts["labels"] for each in reports)
        assert total == (66.0 if labels is None else 0.0)


def test_data_that_end_end_the_run():
    run = simple(cases.normal(12, 2).split(4))
    assert len(list(run)) == 3
    # The last good snapshot is the end of the run.
    assert cases.same(run.good.tree, run.snapshot().tree)


def test_data_that_end_within_a_budget_begin_again_or_are_refused():
    parts = cases.normal(12, 2).split(5)
    for data in (parts, DataLoader(torch.cat(parts), batch_size=5), DataLoader(TensorDataset(torch.cat(parts)), 5)):
        assert [result.samples for result in simple(data, samples=30)] == [5, 10, 12, 17, 22, 24, 29, 34]
    assert len(list(simple(parts, seconds=7.0, clock=ticking()))) == 7
    run = simple(iter(parts), samples=30)
    with pytest.raises(UserError, match=r"ended after 12 samples, too early: .*DataLoader or es\.batches"):
        list(run)
    assert run.step == 3
    with pytest.raises(UserError, match="ended after 0 samples"):
        next(simple([]))


def begun(model, x, **settings):
    return fit(model, DenoisingScoreMatching(sigma=0.3), x, torch.optim.Adam(model.parameters()), **settings)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            torch.zeros(4, 2, dtype=torch.float64),
            r"dtype of its weights, torch.float32; it was \(4, 2\) of torch.float64",
        ),
        (torch.zeros(4, 2, dtype=torch.long), r"floating point.* it was \(4, 2\) of torch.int64: convert"),
        (torch.zeros(4, 3), r"a batch is \(B, \*\), points of the model's shape.* it was \(4, 3\) of"),
        (torch.zeros(2), r"a batch is \(B, \*\).* it was \(2,\) of"),
        (torch.full((4, 2), math.nan), r"first batch, \(4, 2\), holds none: clean the data"),
        (np.zeros((4, 2), np.float32), "it was ndarray: see torch.from_numpy"),
        ((np.zeros((4, 2), np.float32), np.zeros(4)), "it was ndarray, ndarray: see"),
        ({"x": torch.zeros(4, 2)}, "a batch is a tensor .* it was dict"),
        ([], "a batch is a tensor .* it was list"),
        ((torch.zeros(4, 2), torch.zeros(4), torch.zeros(4)), "it was Tensor, Tensor, Tensor"),
        (3, "it was int"),
    ],
    ids=str,
)
@pytest.mark.parametrize("guards", [None, []])
def test_a_batch_that_cannot_be_learned_from_is_told_of_before_the_first_step(batch, message, guards):
    model = cases.neural()
    before = [each.clone() for each in model.parameters()]
    with pytest.raises(UserError, match=message):
        next(begun(model, [batch], guards=guards))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_cannot_be_trained_is_refused():
    model, other = cases.neural(), cases.neural()
    with pytest.raises(UserError, match=r"holds no parameter of this model.*model\.parameters"):
        fit(model, Mean(), endless(), torch.optim.Adam(other.parameters()))
    other.requires_grad_(False)
    with pytest.raises(UserError, match="require gradients"):
        begun(other, endless())
    network = torch.nn.Linear(2, 1)
    with pytest.raises(UserError, match=r"given Linear: wrap it in es\.NeuralEnergy"):
        begun(network, endless())
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(UserError, match=r"outside torch\.no_grad"):
            next(begun(model, endless()))


@pytest.mark.parametrize("make", [ConvEnergyNet, ResidualEnergyNet, NoiseConvNet, UNet, DenoisingResNet])
@pytest.mark.parametrize("shape", [(28, 28), 28, (1, 1, 28, 28), (0, 28, 28)])
def test_the_shape_of_images_has_their_channels(make, shape):
    with pytest.raises(ValueError, match=r"\(channels, height, width\), such as \(1, 28, 28\); it was"):
        make(shape)


@pytest.mark.parametrize(("samples", "steps"), [(0, 0), (1, 1), (16, 4), (17, 5)])
def test_a_budget_of_samples(samples, steps):
    run = simple(samples=samples)
    assert len(list(run)) == steps
    assert run.progress == 1
    assert next(run, None) is None


def ticking():
    """Returns a clock that goes on by a second whenever it is asked; a step asks when it begins and ends."""
    clock = itertools.count()
    return lambda: float(next(clock))


def test_a_budget_of_seconds():
    run = simple(seconds=5.0, clock=ticking())
    seen = [run.progress for _ in run]
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert run.snapshot().tree["clock"]["seconds"] == 5.0
    again = simple(seconds=7.0, clock=ticking())
    again.restore(run.snapshot())
    assert len(list(again)) == 2


def test_the_first_budget_that_is_used_up_counts():
    assert len(list(simple(seconds=3.0, samples=40, clock=ticking()))) == 3
    assert len(list(simple(seconds=30.0, samples=8, clock=ticking()))) == 2


def test_a_recipe_s_budget_chooses_the_clock():
    for budget, clock in (("3s", time.monotonic), ("3cpu-s", time.process_time)):
        run = Experiment(Recipe.named("8gaussians-nce", {"train.budget": budget})).fit()
        assert (run.clock, run.budget_seconds) == (clock, 3.0)


def test_without_a_budget_there_is_no_end():
    run = simple()
    assert len(list(itertools.islice(run, 50))) == 50
    assert run.progress == 0


# --- compilation ------------------------------------------------------------------------------------------------------


def denoised(compile, *, steps=12):
    with global_seed(0):
        model = NetworkDenoiser(DenoisingMLP(2, width=8, depth=1), EDM(data_std=1.0))
    objective = Denoising(levels=LogNormal(), weight=EDMWeight(data_std=1.0))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    reports = list(fit(model, objective, (x.float() for x in endless()), adam, samples=4 * steps, compile=compile))
    return model, [each.loss for each in reports]


def test_a_compiled_model_learns_what_a_plain_one_does():
    (plain, result), (compiled, same_result) = denoised(False), denoised(True)
    assert same_result == pytest.approx(result, rel=1e-5)
    for (name, one), (same_name, other) in zip(plain.state_dict().items(), compiled.state_dict().items(), strict=True):
        assert name == same_name
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("steps", "compiled_at"), [(141, [20]), (139, []), (None, [20])])
def test_a_model_is_compiled_once_the_pace_tells_that_two_minutes_are_left(steps, compiled_at, monkeypatch):
    """A step takes a second. Whether to compile is asked before the twentieth is over, when nineteen are."""
    now, begun = itertools.count(), []
    monkeypatch.setattr(torch, "compile", lambda model, **_: begun.append(run.step + 1) or model)
    run = simple(clock=lambda: float(next(now)), samples=None if steps is None else 4 * steps, compile="auto")
    for _ in itertools.islice(run, 150):
        pass
    assert begun == compiled_at


@pytest.mark.parametrize(("seconds", "compiled"), [((9, 1, 1), False), ((1, 3, 1), True), ((1, 1, 9), False)])
def test_the_pace_is_that_of_ten_steps_after_ten_and_told_once(seconds, compiled, monkeypatch):
    """Of 100 steps: the first ten, the next ten, and those after take so many seconds each."""
    monkeypatch.setattr(torch, "compile", lambda model, **_: begun.append(run.step + 1) or model)
    now, begun = [0.0], []

    def clock():
        # It is asked twice a step, when the step begins and when it is over.
        now[0] += seconds[min(run.step // 10, 2)] / 2 if run else 0
        return now[0]

    run = None
    run = simple(clock=clock, samples=400, compile="auto")
    for _ in run:
        pass
    assert begun == ([20] if compiled else [])


def test_what_the_compiler_gets_wrong_is_put_right(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, *, options, **_: asked.append(options) or model)
    for _ in simple(samples=20, compile=True):
        pass
    assert asked == [INDUCTOR_OPTIONS]


def test_a_model_that_cannot_be_compiled_is_trained_all_the_same(monkeypatch):
    def broken(model, **_):
        def call(*_):
            raise RuntimeError("no compiler\nbut a long story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"trained uncompiled: no compiler$"):
        result = [each.loss for each in simple(samples=20, compile=True)]
    assert result == [each.loss for each in simple(samples=20)]
    with pytest.warns(UserWarning, match="trained uncompiled"):
        _, result = denoised(True)
    assert result == denoised(False)[1]  # though the objective may have drawn for the step that failed


def test_a_fault_of_the_objective_is_not_blamed_on_the_compiler():
    class Faulty(Mean):
        def forward(self, model, x, label=None, *, generator=None):
            raise ValueError("the objective's own")

    model = cases.Quadratic(1.0)
    run = fit(model, Faulty(), endless(), torch.optim.SGD(model.parameters(), lr=0.1), compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(ValueError, match="the objective's own"):
            next(run)


def test_only_denoisers_without_energy_are_compiled():
    for recipe in ("8gaussians-pcd", "8gaussians-msdsm"):
        with pytest.raises(UserError, match=r"train\.compile = true is for denoisers without energy"):
            Experiment(Recipe.named(recipe, {"train.compile": "true"})).check()
    settings = {"train.compile": "true"}, {"train.compile": "false"}, {}
    runs = [Experiment(Recipe.named("8gaussians-edm", {**each, "train.device": "'cpu'"})).fit() for each in settings]
    assert [each.compile for each in runs] == [True, False, False]


# --- averages ---------------------------------------------------------------------------------------------------------


def test_averages_follow_their_recursion_with_warm_up():
    half_life, size = 40, 4
    model = cases.neural(dtype=torch.float64)
    average = averaged(model, half_life=half_life, batch_size=size)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    run = fit(model, Mean(), endless(), optimiser, average=average)
    by_hand = None
    decays = []
    for n in range(30):
        next(run)
        now = [each.detach().clone() for each in model.parameters()]
        d = min(0.5 ** (size / half_life), (1 + n) / (10 + n))
        decays.append(d)
        # The first update is a copy: nothing is left of the initial weights.
        by_hand = now if n == 0 else [d * a + (1 - d) * b for a, b in zip(by_hand, now, strict=True)]
        for a, b in zip(by_hand, average.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-15)
            assert not b.requires_grad
    assert decays[-1] < 0.5**0.1  # still warming up at (1 + 29) / (10 + 29) = .77
    assert average(cases.normal(2, 2)).shape == (2,)


def test_averages_take_over_what_is_no_parameter():
    model = nn.BatchNorm1d(2)
    average = averaged(model, half_life=80, batch_size=8)
    for _ in range(2):
        model(cases.normal(8, 2, dtype=torch.float32) + 3)
        average.update_parameters(model)
    assert torch.equal(average.module.running_mean, model.running_mean)
    assert float(model.running_mean.mean()) > 0.3


def test_averages_forget_with_their_half_life():
    model = cases.Quadratic(1.0)
    average = averaged(model, half_life=80, batch_size=8)
    for _ in range(400):
        average.update_parameters(model)
    model.p.data.fill_(3.0)
    for _ in range(10):  # 80 samples
        average.update_parameters(model)
    assert float(average.module.p) == pytest.approx(2.0, rel=1e-9)
    with pytest.raises(ValueError, match="half_life"):
        averaged(model, half_life=0, batch_size=1)


# --- resuming ---------------------------------------------------------------------------------------------------------

RESUMED = {
    "pcd": lambda: ContrastiveDivergence(
        ReplayBuffer(64, refresh=0.1), functools.partial(Langevin, step_size=0.02), steps=2, data_noise=0.1, alpha=0.01
    ),
    "mixed": lambda: ContrastiveDivergence(
        MixtureInit(ReplayBuffer(64, fresh=DataInit()), NoiseInit()), functools.partial(HMC, step_size=0.1), steps=1
    ),
    "dsm": lambda: DenoisingScoreMatching(sigma=0.3),
    "sum": lambda: Weighted((NoiseContrastiveScoreMatching(), RESUMED["mixed"]()), last_weights=(0.5, 2.0)),
}

SOURCES = {
    "law": EightGaussians,
    "rows": lambda: cases.normal(50, 2, dtype=torch.float32).cpu(),
}


def a_run(objective, source, *, seed=0):
    model = cases.neural(seed=seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    average = averaged(model, half_life=160, batch_size=16)
    return fit(
        model,
        RESUMED[objective]().to(cases.DEVICE),
        batches(SOURCES[source](), 16, device=cases.DEVICE),
        optimiser,
        samples=16 * 24,
        schedule=lambda progress, samples: 1 - progress / 2,
        clip=1.0,
        average=average,
        guards=[GradientNorm(window=6)],
        snapshot_every=100,
        seed=3,
    )


@pytest.mark.parametrize("cut", [0, 1, 7, 23])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("objective", RESUMED)
def test_resuming_gives_the_same_bits_as_not_stopping(objective, source, cut, tmp_path):
    whole = a_run(objective, source)
    reports = list(whole)
    cutting = a_run(objective, source)
    assert list(itertools.islice(cutting, cut)) == reports[:cut]
    cutting.snapshot().save(tmp_path / "run.safetensors")
    resumed = a_run(objective, source, seed=5)  # other weights, a fresh optimiser, an unused buffer
    resumed.restore(Snapshot.load(tmp_path / "run.safetensors"))
    assert list(resumed) == reports[cut:]
    assert cases.same(resumed.snapshot().tree, whole.snapshot().tree)


def test_weights_of_any_layout_are_resumed_from_a_file_with_the_same_bits(tmp_path):
    """A file remembers no layout, and a fused optimiser goes through weights and moments in the order of memory."""

    def made():
        with global_seed(0):
            network = ConvEnergyNet((3, 8, 8), width=4)
        assert not network.layers[0].weight.is_contiguous()  # channels last
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2, fused=True)
        images = (cases.normal(8, 3, 8, 8, seed=i, dtype=torch.float32) for i in itertools.count())
        return fit(network, Mean(), images, optimiser)

    run, again = made(), made()
    for _ in range(4):
        next(run)
    run.snapshot().save(tmp_path / "s.safetensors")
    for _ in range(4):
        next(again.data)
    again.restore(Snapshot.load(tmp_path / "s.safetensors"))
    for _ in range(3):
        assert next(run).loss == next(again).loss
    assert cases.same(run.snapshot().tree, again.snapshot().tree)


def test_data_that_did_not_begin_at_the_beginning_are_resumed_where_they_were():
    rows = cases.normal(50, 2).cpu()
    whole, cut = (simple(batches(rows, 4, start=12), samples=40) for _ in range(2))
    reports = list(whole)
    list(itertools.islice(cut, 3))
    resumed = simple(batches(rows, 4, start=12), samples=40)
    resumed.restore(cut.snapshot())
    assert list(resumed) == reports[3:]


def test_a_snapshot_does_not_change_while_training_goes_on():
    run = a_run("pcd", "law")
    next(run)
    kept = run.snapshot()
    frozen = Snapshot.of(kept.tree)
    list(run)
    assert cases.same(kept.tree, frozen.tree)
    run.restore(kept)
    list(run)
    assert cases.same(kept.tree, frozen.tree)
    assert cases.same(run.good.tree["model"], run.snapshot().tree["model"])


def test_taking_a_snapshot_changes_nothing():
    one, two = a_run("mixed", "law"), a_run("mixed", "law")
    for a in one:
        two.snapshot()
        assert a == next(two)
    assert cases.same(one.snapshot().tree, two.snapshot().tree)


def test_going_back_undoes_a_rollbacks_smaller_rate():
    run = a_run("pcd", "law")
    next(run)
    kept = run.snapshot()
    list(itertools.islice(run, 11))  # beyond the first snapshot to roll back to
    next(iter(run.model.parameters())).data.fill_(math.nan)
    list(run)
    assert run.adjustment.rate < 1
    run.restore(kept)
    assert (run.adjustment.rate, run.rolled_back, run.step) == (1.0, 0, 1)


def test_a_run_that_stopped_goes_on_from_a_snapshot():
    run = a_run("pcd", "law")
    next(run)
    kept = run.snapshot()
    next(iter(run.model.parameters())).data.fill_(math.nan)
    *_, last = run
    assert last.verdict == Verdict.STOP
    run.restore(kept)
    assert next(run).verdict == Verdict.GO


def test_the_good_snapshot_is_renewed_every_so_many_samples():
    run = simple(snapshot_every=10, samples=30)
    kept = [run.good.tree["clock"]["samples"]]
    for _ in run:
        kept.append(run.good.tree["clock"]["samples"])
    assert kept == [0, 0, 0, 12, 12, 20, 20, 20, 32]  # the last step always makes one


def test_the_seed_of_the_streams_matters_and_torchs_generator_does_not():
    ends = []
    for seed, noise in [(0, 0), (0, 1), (1, 0)]:
        torch.manual_seed(noise)
        model = cases.neural()
        optimiser = torch.optim.Adam(model.parameters())
        run = fit(
            model, DenoisingScoreMatching(sigma=0.2), batches(EightGaussians(), 8), optimiser, samples=40, seed=seed
        )
        list(run)
        ends.append(cases.learned(run.snapshot(), "model"))
    assert cases.same(ends[0], ends[1])
    assert not cases.same(ends[0], ends[2])


# --- the whole machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "truth"),
    [
        (DenoisingScoreMatching(sigma=0.5), 1 / (2 + 0.25)),
        (ContrastiveDivergence(DataInit(), functools.partial(HMC, step_size=0.6, leapfrog_steps=4), steps=1), 1 / 2),
    ],
    ids=["dsm", "cd"],
)
def test_training_finds_the_variance_of_a_normal_law(objective, truth):
    model = cases.Quadratic(1.5)
    data = (math.sqrt(2) * cases.normal(256, 4, seed=i) for i in itertools.count(70_000))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    run = fit(model, objective, data, optimiser, samples=256 * 600, schedule=lambda t, n: 0.2 if t > 0.6 else 1.0)
    track = torch.tensor([float(model.p.detach()) for _ in run])[-200:]
    # The last 200 steps see 51,200 points of four coordinates: the relative error of a variance from them is
    # √(2 / 204,800) = 0.3 %; chains and noise add about as much.
    assert float(track.mean()) == pytest.approx(truth, rel=5 * 0.006)
    assert torch.allclose(score(model, cases.normal(3, 4)), -model.p.detach() * cases.normal(3, 4))


def test_dropout_is_another_at_every_step():
    class Dropped(Objective):
        def forward(self, model, x, label=None, *, generator=None):
            kept = torch.nn.functional.dropout(torch.ones(64), 0.5)
            return Loss(model(x.double()).mean(), {f"kept {i}": each for i, each in enumerate(kept)})

    model = cases.Quadratic(1.0)
    run = fit(model, Dropped(), endless(), torch.optim.SGD(model.parameters(), lr=0.0), samples=20)
    masks = [tuple(facts.facts.values()) for facts in run]
    assert len(set(masks)) == len(masks) == 5


def test_dropout_gives_the_same_bits_after_a_restart_and_leaves_torchs_generator_alone():
    from energyscape.models import EDM, NetworkDenoiser, UNet
    from energyscape.objectives import Denoising, EDMWeight
    from energyscape.rng import global_seed
    from energyscape.schedules import LogNormal

    def begun():
        with global_seed(0):
            network = UNet((1, 8, 8), width=8, multipliers=(1,), patch=1, dropout=0.5)
        model = NetworkDenoiser(network, EDM(data_std=0.7))
        # A new network's last layer is zero, and with it all that dropout could change.
        torch.nn.init.normal_(network.last.weight, generator=cases.generator())
        objective = Denoising(levels=LogNormal(), weight=EDMWeight(data_std=0.7))
        data = batches((cases.normal(64, 1, 8, 8, dtype=torch.float32)), 16)
        return fit(model, objective, data, torch.optim.Adam(model.parameters()), samples=96)

    whole, torch_state = begun(), torch.get_rng_state()
    result = [report.loss for report in whole]
    assert torch.equal(torch.get_rng_state(), torch_state)
    broken = begun()
    first = [next(broken).loss for _ in range(3)]
    torch.rand(7)  # other draws do not matter
    resumed = begun()
    resumed.restore(broken.snapshot())
    assert first + [report.loss for report in resumed] == result
