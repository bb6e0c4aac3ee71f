"""Runs of denoisers: what is done with one, against a denoiser whose answers are known, and as a user types it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cases
from energyscape.cli import main
from energyscape.errors import UserError
from energyscape.metrics import METRICS, Evidence
from energyscape.metrics.denoisers import Likelihood, by_level
from energyscape.models import Denoiser, GaussianDenoiser, ScalarEnergyDenoiser
from energyscape.recipe import Experiment, Recipe
from energyscape.runs import Run
from energyscape.training.precision import autocast_dtype

V = 0.25

TINY = [
    *("--model.network.width", "16", "--train.batch_size", "32", "--train.budget", "1280"),
    *("--train.checkpoint_every", "640", "--sampler.steps", "4", "--train.warmup", "0"),
]
CLASSES = ["--model.network.classes", "10", "--objective.label_dropout", "0.1"]


def gaussian(recipe: str = "8gaussians-edm", **changes: str) -> Experiment:
    """An experiment that has learned N(0, V I) in the plane."""
    experiment = Experiment(Recipe.named(recipe, changes))
    experiment.model, experiment.average = GaussianDenoiser(torch.zeros(2), V * torch.eye(2)), None
    return experiment


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A run that has learned classes, hardly."""
    path = tmp_path_factory.mktemp("digits") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["train", "digits-ncsn", *TINY, *CLASSES, "--train.frames", "2", "--out", str(path)])
    assert not exit_.value.code
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "--steps", "1", "--out", "x.npy"),  # annealed chains choose their step by the ratio of two levels
        ("evaluate", "--n", "20", "--steps", "1"),
        ("sample", "--sampler.grid.name", "ddpm", "--steps", "2000", "--out", "x.npy"),
    ],
)
def test_steps_that_a_solver_cannot_take_are_one_line(cli, digits, words):
    status, _, err = cli(words[0], digits, *words[1:])
    assert status == 2
    assert f"[sampler]: {words[words.index('--steps') + 1]} steps: " in err
    assert err.count("\n") == 1


def test_samples_are_of_the_denoisers_law():
    generated = gaussian(**{"sampler.steps": "60"}).trained.sample(4_000, seed=1)
    assert abs(cases.z_score(generated.x.flatten())) < 5
    # Heun's method errs by less than 1e-3 here; of a normal law the variance's standard error is sqrt(2 / n) of it.
    assert generated.x.var().item() == pytest.approx(V, rel=5 * math.sqrt(2 / generated.x.numel()))
    assert generated.diverged == 0


def test_the_path_goes_from_noise_to_the_sample():
    generated = gaussian().trained.sample(300, shown=300, frames=4)
    assert generated.at == [0, 6, 12, 18]
    assert torch.equal(generated.path[-1], generated.x)
    # The start is shown on the noise's own scale; on the way the variance is that of noised data.
    assert generated.path[0].std().item() == pytest.approx(1, abs=5 / math.sqrt(1200))
    level = gaussian().sampler.levels()[6]
    assert generated.path[1].std().item() == pytest.approx(math.sqrt(V + level**2), rel=5 / math.sqrt(1200))


def test_the_same_seed_gives_the_same_samples_and_another_gives_others():
    one, same, other = (gaussian().trained.sample(5, seed=seed).x for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_batches_of_samples_are_those_of_all_at_once():
    parts, whole = list(gaussian().trained.sampling(1_203, seed=3)), gaussian().trained.sample(1_203, seed=3)
    assert [len(each.x) for each in parts] == [500, 500, 203]
    assert torch.equal(torch.cat([each.x for each in parts]), whole.x)
    assert torch.equal(parts[0].path, whole.path)
    assert [each.path.shape[1] for each in parts] == [8, 0, 0]


def test_restoration_is_the_posterior_mean():
    y = cases.normal(7, 2, dtype=torch.float32)
    assert torch.allclose(gaussian().trained.restore(y, sigma=0.5), y * V / (V + 0.25), atol=1e-6)


def test_the_likelihood_of_a_law_is_its_divergence():
    """Data of the very law that was learned: KL is zero; the log-likelihood is minus the entropy."""
    experiment = gaussian()

    class Round(type(experiment.source)):
        def sample(self, n, *, generator=None):
            return math.sqrt(V) * torch.randn(n, 2, generator=generator)

        def log_prob(self, x):
            return -x.square().sum(1) / (2 * V) - math.log(2 * math.pi * V)

    experiment.source = Round()
    figures = {each.title: each for each in Likelihood().measure(Evidence(experiment, seed=0))}
    # What was learned ends at noise of 0.005: a bias of 1e-4 of the variance; the prior's is as small.
    assert figures["KL(data‖model), nats"].value == pytest.approx(0, abs=2e-3)
    result = figures["log-likelihood, nats"]
    assert abs(result.value + 1 + math.log(2 * math.pi * V)) < 5 * result.error + 2e-3


def test_a_wrong_law_has_the_divergence_of_two_normal_laws():
    experiment = gaussian()

    class Wide(type(experiment.source)):
        def sample(self, n, *, generator=None):
            return torch.randn(n, 2, generator=generator)

        def log_prob(self, x):
            return -x.square().sum(1) / 2 - math.log(2 * math.pi)

    experiment.source = Wide()
    result = Likelihood().measure(Evidence(experiment, seed=0))[0]
    truth = math.log(V) + 1 / V - 1  # in two dimensions, of variance 1 from variance V
    assert abs(result.value - truth) < 5 * result.error + 0.01 * truth


def test_by_level_the_right_denoiser_is_balanced_and_another_is_not():
    experiment = gaussian()
    experiment.source = type(experiment.source)()

    class Round(type(experiment.source)):
        def sample(self, n, *, generator=None):
            return math.sqrt(V) * torch.randn(n, 2, generator=generator)

    experiment.source = Round()
    levels = by_level(Evidence(experiment, seed=0), n=20_000)
    left = [V / (V + sigma**2) for sigma in levels.sigma]
    # 40,000 squared numbers: a relative error of 0.7 %.
    assert levels.error == pytest.approx(left, rel=0.04)
    assert levels.norm == pytest.approx([1 - each for each in left], abs=0.04)
    assert max(map(abs, levels.imbalance)) < 0.04

    class Timid(Denoiser):
        def forward(self, x, sigma, label=None):
            return 0.5 * (x + x * (V / (V + sigma**2)).unsqueeze(1))

    experiment.model = Timid()
    assert min(by_level(Evidence(experiment, seed=0), n=2_000).imbalance) < -0.1


def test_a_denoiser_has_no_energy_and_says_so():
    with pytest.raises(UserError, match=r"is a denoiser \(NetworkDenoiser\), which has no energy"):
        _ = Experiment(Recipe.named("8gaussians-edm")).trained.require_energy()
    with pytest.raises(UserError, match="and no denoiser"):
        _ = Experiment(Recipe.named("8gaussians-dsm")).trained.require_denoiser()


def test_an_energy_denoiser_under_a_solver_has_the_energy_of_its_lowest_level():
    table = '{name = "noise-mlp", width = 8}'
    changes = {"model.name": "energy-denoiser", "model.network": table, "model.data_std": "2.0"}
    experiment = Experiment(Recipe.named("8gaussians-edm", changes))
    assert isinstance(experiment.model, ScalarEnergyDenoiser)
    assert experiment.trained.level == experiment.trained.require_energy().sigma == pytest.approx(0.005)
    evidence = Evidence(experiment, n=50)
    assert METRICS["total-variation"]().applies(evidence)
    assert not METRICS["likelihood"]().applies(evidence)


def test_each_class_in_turn_unless_one_is_asked_for(digits):
    experiment = Run.open(digits).experiment()
    assert experiment.trained.class_of_each(12, None).tolist() == [*range(10), 0, 1]
    assert experiment.trained.class_of_each(3, 7).tolist() == [7, 7, 7]
    with pytest.raises(UserError, match="classes are 0 to 9; 10 was asked for"):
        experiment.trained.class_of_each(3, 10)
    seven, any_ = experiment.trained.sample(10, label=7, seed=0).x, experiment.trained.sample(10, seed=0).x
    assert torch.equal(seven[7], any_[7])
    assert not torch.allclose(seven[6], any_[6])


def test_guidance_goes_beyond_the_conditional_denoiser(digits):
    run = Run.open(digits)
    plain = run.experiment().trained.sample(10, seed=0).x
    same = run.experiment({"sampler.guidance": "1.0"}).trained.sample(10, seed=0).x
    beyond = run.experiment({"sampler.guidance": "3.0"}).trained.sample(10, seed=0).x
    nowhere = run.experiment({"sampler.guidance": "3.0", "sampler.guided_from": "1e-6"}).trained.sample(10, seed=0).x
    assert torch.allclose(same, plain, atol=1e-5)
    assert torch.allclose(nowhere, plain, atol=1e-5)
    assert not torch.allclose(beyond, plain, atol=1e-3)


def test_the_commands_of_a_run_with_classes(cli, digits):
    status, out, _ = cli(
        "sample", digits, "--n", "6", "--label", "3", "--out", "x.npy", "--sampler.solver.name", "heun"
    )
    assert status == 0
    assert "6 samples of class '3' (number 3) from noise, 4 steps" in out
    assert np.load("x.npy").shape == (6, 1, 8, 8)
    np.save("noisy.npy", np.load("x.npy") + 0.3 * np.random.default_rng(0).standard_normal((6, 1, 8, 8)))
    assert cli("denoise", digits, "noisy.npy", "--sigma", "0.3", "--out", "clean.npy")[0] == 0
    assert np.abs(np.load("clean.npy")).max() <= 1
    status, out, err = cli("evaluate", digits, "--n", "40", "--json")
    assert status == 0, err
    assert {"recognised", "bits/dim", "PSNR over noisy at σ = 0.2, dB"} <= set(json.loads(out))
    assert sorted(each.name for each in (digits / "frames").iterdir()) == ["0000.png", "0001.png", "0002.png"]
    with Image.open(digits / "frames" / "0002.png") as image:
        assert image.width == image.height  # eight by eight
    status, out, err = cli("doctor", digits)
    assert (status, "few_updates" in out) == (1, True), out + err


def test_the_report_of_a_run_with_classes(cli, digits):
    status, _, err = cli("report", digits, "--out", "page.html")
    assert status == 0, err
    page = Path("page.html").read_text(encoding="utf-8")
    for words in ("A row a class", "Noise levels", "Denoising", "Inpainting", "bits/dim", "by level"):
        assert words in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "--label", "12"], "classes are 0 to 9; 12 was asked for"),
        (["sample", "--start", "data"], "a solver begins at noise, not at data"),
        (["sample", "--train.seed", "3"], "what a run has learned is settled"),
        (["sample", "--sampler.solver.name", "hun"], "'heun'"),
        (["score", "nothing.npz"], "nothing.npz"),
    ],
)
def test_a_mistake_is_one_clear_line(cli, digits, words, message):
    status, _, err = cli(words[0], digits, *words[1:])
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_label_means_nothing_to_a_run_without_classes(cli, tmp_path):
    assert cli("train", "digits-ncsn", *TINY, "--out", tmp_path / "run")[0] == 0
    status, _, err = cli("sample", tmp_path / "run", "--label", "3")
    assert (status, "knows no classes: leave --label out" in err) == (2, True)


def test_epochs_batch_size_and_rate_are_taken_as_everybody_types_them():
    words = {"epochs": "2", "batch_size": "64", "learning_rate": "1e-3"}
    training = Experiment(Recipe.named("digits-ncsn", words))
    assert training.budget.samples == 2 * len(training.source)
    assert (training.training.batch_size, training.training.learning_rate) == (64, 1e-3)


@pytest.mark.parametrize("recipe", ["digits-ncsn", "8gaussians-edm"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(cli, tmp_path, recipe):
    from energyscape.runs import Session

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli("train", recipe, *TINY, "--out", whole)[0] == 0
    settings = dict(zip((each.removeprefix("--") for each in TINY[::2]), TINY[1::2], strict=True))
    experiment = Experiment(Recipe.named(recipe, settings))
    with Session(Run.create(broken, experiment), experiment) as session:
        for report in session:
            if report.samples >= 800:
                session.keep()
                break
    assert cli("train", recipe, *TINY, "--out", broken)[0] == 0
    name = Run.open(whole).checkpoints()[-1].name
    assert (whole / "checkpoints" / name).read_bytes() == (broken / "checkpoints" / name).read_bytes()
    assert (whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("digits-ncsn", {"objective.label_dropout": "0.1"}, "the data have 10, the network was made for 0"),
        ("digits-ncsn", {"objective.label_dropout": "0.1", "model.network.classes": "4"}, "was made for 4"),
        ("8gaussians-edm", {"objective.label_dropout": "0.1", "model.network.classes": "4"}, "the data have none"),
    ],
)
def test_classes_in_a_recipe_exist_in_the_data(tmp_path, recipe, settings, message):
    experiment = Experiment(Recipe.named(recipe, settings))
    with pytest.raises(UserError, match=message):
        experiment.fit()
    with pytest.raises(UserError, match=message):
        Run.create(tmp_path / "run", experiment)
    assert not (tmp_path / "run").exists()


def test_a_solver_takes_the_place_of_chains_and_chains_that_of_a_solver():
    solver = {"sampler.solver.name": "euler", "sampler.grid.name": "karras"}
    there = Recipe.named("8gaussians-pcd", solver).resolved().tables["sampler"]
    assert (there["solver"]["name"], "kernel" in there) == ("euler", False)
    chains = {"sampler.kernel.name": "mala", "sampler.kernel.step_size": "0.1", "sampler.start.name": "noise"}
    back = Recipe.named("8gaussians-edm", chains).resolved().tables["sampler"]
    assert (back["kernel"]["name"], "solver" in back) == ("mala", False)


def test_another_sampler_leaves_the_first_as_it_was():
    one = gaussian()
    other = one.with_sampler({"sampler.solver.name": "dpm++", "sampler.steps": "7"})
    assert (type(one.sampler.solver(abs, [1.0, 0.0])).__name__, one.sampler.steps) == ("Heun", 18)
    assert (type(other.sampler.solver(abs, [1.0, 0.0])).__name__, other.sampler.steps) == ("DPMSolver", 7)
    assert other.model is one.model


def test_data_of_a_run_may_be_flipped():
    plain, flipped = (Experiment(Recipe.named("digits-ncsn", {"flips": each})) for each in ("false", "true"))
    x, y = (next(iter(each.fit().data)).x for each in (plain, flipped))
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert bool(((y == x).flatten(1).all(1) | mirrored).all())
    # Of 128 images half are mirrored, give or take 5.7.
    assert 64 - 5 * 5.7 < int(mirrored.sum()) < 64 + 5 * 5.7
    with pytest.raises(UserError, match="images can be flipped"):
        Experiment(Recipe.named("8gaussians-edm", {"flips": "true"})).fit()


def test_training_in_bfloat16_keeps_weights_and_loss_in_float32():
    experiment = Experiment(Recipe.named("digits-ncsn", {"precision": "bfloat16", "budget": "256"}))
    reports = list(experiment.fit())
    assert len(reports) == 2
    assert all(each.dtype == torch.float32 for each in experiment.model.parameters())
    exact = Experiment(Recipe.named("digits-ncsn", {"budget": "256"}))
    second = list(exact.fit())[1].loss  # at first the network says zero, exactly
    assert reports[1].loss == pytest.approx(second, rel=0.02)
    assert reports[1].loss != second


def test_sampling_in_bfloat16_is_nearly_that_in_float32():
    exact = Experiment(Recipe.named("digits-ncsn", {"budget": "256", "precision": "float32"}))
    list(exact.fit())  # a network that says zero is the same in any numbers
    rough = exact.with_sampler({"sampler.precision": "bfloat16"})
    assert exact.sampler.denoise_fn(exact.trained, None) is exact.trained.denoiser
    left, right = (each.trained.sample(4, steps=6, seed=0).x for each in (exact, rough))
    assert right.dtype == torch.float32
    assert not torch.equal(left, right)
    assert torch.allclose(left, right, atol=0.1)


@pytest.mark.parametrize(
    ("able", "found"), [({"avx512_bf16": True}, torch.bfloat16), ({"avx512_bf16": False}, None), ({}, None)]
)
def test_automatic_precision_is_what_the_processor_multiplies(monkeypatch, able, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) == found
    assert (autocast_dtype("bfloat16", cpu), autocast_dtype("float32", cpu)) == (torch.bfloat16, None)


def test_held_out_data_are_used_where_there_are_any():
    experiment = Experiment(Recipe.named("digits-ncsn"))
    assert len(experiment.held_out.draw(5, generator=cases.generator())) == 5


def test_metrics_for_tensorboard(cli, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli("train", "digits-ncsn", *TINY, "--train.tensorboard", "true", "--out", tmp_path / "run")[0] == 0
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    result = {each.step: each.value for each in events.Scalars("loss")}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result == pytest.approx({row["samples"]: row["loss"] for row in rows}, rel=1e-6)


def test_without_tensorboard_installed_one_line_says_so(cli, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    status, _, err = cli("train", "digits-ncsn", *TINY, "--train.tensorboard", "true", "--out", tmp_path / "run")
    assert (status, "pip install 'energyscape[tensorboard]'" in err.splitlines()[-1]) == (2, True)
    assert "Traceback" not in err


def test_a_run_is_exported_as_a_folder_and_as_onnx(cli, digits):
    from energyscape import from_pretrained

    status, out, err = cli("export", digits, "--to", "folder")
    assert (status, "from_pretrained('folder')" in out) == (0, True), err
    model, mine = from_pretrained("folder"), Run.open(digits).experiment().trained.denoiser
    x, sigma, label = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 3.0]), torch.tensor([1, -1, 9])
    assert torch.equal(model(x, sigma, label), mine(x, sigma, label))
    status, _, err = cli("export", digits, "--to", "folder")
    assert (status, "folder exists and is not overwritten" in err) == (2, True)
    runtime = pytest.importorskip("onnxruntime")
    status, out, err = cli("export", digits, "--to", "model.onnx")
    assert (status, "differs from the model by" in out) == (0, True), err
    session = runtime.InferenceSession("model.onnx")
    output = session.run(None, {"x": x.numpy(), "sigma": sigma.numpy(), "label": label.numpy()})[0]
    assert np.allclose(output, mine(x, sigma, label).detach().numpy(), atol=1e-5)
