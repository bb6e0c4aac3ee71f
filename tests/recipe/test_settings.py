"""Settings are refused where they would break later, with their name; using a run needs less than training it."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from energyscape.cli.progress import TrainingDisplay
from energyscape.cli.terminal import complain, say
from energyscape.doctor.from_run import forewarned
from energyscape.errors import UserError, did_you_mean
from energyscape.models import MLP, ConvEnergyNet
from energyscape.objectives import ContrastiveDivergence, DataInit, ReplayBuffer
from energyscape.recipe import Experiment, Recipe
from energyscape.recipe.recipe import overrides_from, read_toml
from energyscape.recipe.settings import Training
from energyscape.registry import Samples, convert
from energyscape.samplers import MALA, Langevin
from energyscape.training import Report
from energyscape.training.guards import NOTHING

HUGE = "9" * 400
DEEP = "[" * 3_000
SETTINGS = list(Training.__dataclass_fields__)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 1e308, -1e13, 5e-324, 1e-13, 10**400])
def test_a_float_is_zero_or_of_a_size_that_32_bits_can_hold_to_the_third_power(value):
    with pytest.raises(UserError, match="it is of type float, 0 or 1e-12 to 1e\\+12 in size; it was"):
        convert(value, float, "it")
    for fine in (0, -1e12, 1e-12):
        assert convert(fine, float, "it") == fine


@pytest.mark.parametrize("value", [2**63, -(2**63), 1e300, 16**5_000], ids=["2^63", "-2^63", "1e300", "huge"])
def test_an_integer_has_64_bits(value):
    with pytest.raises(UserError, match="it is of type int, below 2⁶³ in size"):
        convert(value, int, "it")
    assert convert(2**63 - 1, int, "it") == 2**63 - 1


def test_a_default_may_be_infinite():
    words = {"sampler.solver.name": "heun", "sampler.solver.churn_to": "inf"}
    assert Experiment(Recipe.named("8gaussians-edm", words)).recipe.tables["sampler"]["solver"]["churn_to"] == float(
        "inf"
    )


@pytest.mark.parametrize(("text", "count"), [("10k", 10_000), ("1.5M", 1_500_000), (" 7 ", 7), (300, 300), (3e2, 300)])
def test_counts_of_samples_take_k_and_m(text, count):
    assert convert(text, Samples, "it") == count
    training = Experiment(
        Recipe.named("8gaussians-dsm", {"train.warmup": "2k", "train.checkpoint_every": "10k"})
    ).training
    assert (training.warmup, training.checkpoint_every) == (2_000, 10_000)


@pytest.mark.parametrize("name", ["warmup", "checkpoint_every", "ema_half_life"])
def test_a_recipe_has_the_same_rules_and_text_however_it_writes_a_count(name):
    written = [
        Experiment(Recipe.named("8gaussians-sm", {f"train.{name}": count, "train.budget": "2k"}))
        for count in ("10k", "10000")
    ]
    assert forewarned(written[0]) == forewarned(written[1]) != []
    assert written[0].recipe.differences(written[1].recipe) == []


def test_a_descent_that_begins_below_the_lowest_level_is_refused_before_training():
    experiment = Experiment(Recipe.named("8gaussians-drl", {"sampler.descent.sigma_max": "0.001"}))
    with pytest.raises(UserError, match=r"^\[sampler\]: descent: 0 < sigma_min < sigma_max"):
        experiment.check()


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        ("8gaussians-sm", "objective.kernel", "3"),
        ("8gaussians-sm", "objective.kernel", "bounds"),
        ("8gaussians-sm", "objective.kernel.bounds", "3"),
        ("8gaussians-sm", "train.shape", "3"),
        ("8gaussians-edm", "sampler.start", "[]"),
        ("8gaussians-pcd", "objective.kernel.energy", "3"),
    ],
)
def test_a_setting_that_a_component_does_not_have_is_refused_whatever_its_value(recipe, key, value):
    with pytest.raises(UserError, match=f"has no setting {key.split('.')[-1 if 'energy' in key else 1]!r}"):
        Recipe.named(recipe, {key: value}).resolved()


@pytest.mark.parametrize("text", ["10 k k", "k", "", "1e308M", "1e400", "-5k", "ten"])
def test_what_is_no_count_of_samples(text):
    with pytest.raises(UserError, match="it is of type int or a text such as 50k"):
        convert(text, Samples, "it")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.budget", "1e308M"),
        ("train.learning_rate", HUGE),
        ("train.seed", DEEP),
        ("train.seed", "9" * 5_000),
        ("train.seed", "0x" + "f" * 5_000),
        ("train.batch_size", "1e300"),
        ("train.batch_size", "1_000_000_000_000"),
        ("objective.start.capacity", "900_000_000_000"),
        ("objective.steps", "100_000_000"),
        ("objective.kernel.temperature", "0"),
        ("sampler.kernel.temperature", "nan"),
        ("model.network.depth", "10_000_000"),
        ("model.network.width", "1e10"),
        ("model.reference_std", "-inf"),
        ("data.std", "1e-300"),
        ("objective.kernel.step_size", "5e-324"),
        ("train.budget", "60"),
        ("train.batch_size", '"\\u0000"'),
    ],
)
def test_a_setting_that_would_break_later_is_refused_by_name_before_anything_is_written(cli, setting, value):
    status, _, err = cli("train", "8gaussians-pcd", f"--{setting}", value, "--out", "run")
    assert (status, len(err.splitlines())) == (2, 1), err
    assert setting.split(".")[-1] in err.replace("parameters", "width").replace("replay buffer", "capacity")
    assert len(err) < 500
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "text", ["a = " + DEEP, "a = " + "9" * 5_000, "a." * 3_000 + "b = 1", "x" * 200_000, 'a = "\\u0000"']
)
def test_every_failure_of_a_parser_is_one_line(text):
    with pytest.raises(UserError) as caught:
        read_toml(text, "it")
    assert str(caught.value).startswith("it: ")
    assert len(str(caught.value)) < 500


def test_a_model_is_weighed_before_it_is_built(monkeypatch):
    monkeypatch.setattr("energyscape.memory.available", lambda: 10_000_000)
    with pytest.raises(UserError, match=r"a model of [0-9,]+ parameters needs about .* GB of memory are available"):
        Experiment(Recipe.named("8gaussians-pcd", {"model.network.width": "2000"}))
    experiment = Experiment(
        Recipe.named("8gaussians-pcd", {"train.batch_size": "9_000", "objective.start.capacity": "9_000"})
    )
    with pytest.raises(UserError, match=r"train.batch_size 9,000 needs about"):
        experiment.check()


def test_a_buffer_smaller_than_a_batch_is_refused_before_the_folder_is_made(cli):
    words = ("train", "8gaussians-pcd", "--train.budget", "640", "--train.batch_size", "64", "--out", "run")
    status, _, err = cli(*words, "--objective.start.capacity", "32")
    assert (status, Path("run").exists()) == (2, False)
    assert "raise its capacity or lower the batch size" in err
    # And what another mistake left there, without a checkpoint, is replaced.
    Path("run").mkdir()
    Path("run/recipe.toml").write_text(Recipe.named("8gaussians-dsm").resolved().text())
    Path("run/run.json").write_text('{"shape": [2]}')
    assert cli(*words)[0] == 0


@pytest.mark.parametrize(
    "setting",
    [{"train.device": "cuda"}, {"train.threads": "64000"}, {"train.budget": "60cpu-s"}, {"train.budget": "60"}],
)
def test_what_training_needs_using_does_not(monkeypatch, setting):
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: "train.budget" in setting and setting["train.budget"] != "60"
    )
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    experiment = Experiment(Recipe.named("8gaussians-dsm", setting), shape=(2,))
    with pytest.raises(UserError, match="60 samples is less|" + next(iter(setting)).split(".")[-1]):
        experiment.check()


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("gpu", ["auto", "cpu", "cuda"], "cuda"),
        ("lr", SETTINGS, "learning_rate"),
        ("bs", SETTINGS, "batch_size"),
        ("batchsize", SETTINGS, "batch_size"),
        ("weight", ["reference_std"], None),
    ],
)
def test_hints_know_initials_and_other_libraries_words(word, known, meant):
    assert did_you_mean(word, known) == (f"; did you mean {meant!r}?" if meant else ".")


def test_an_unknown_option_is_called_that():
    with pytest.raises(UserError, match="there is no setting --dry-run"):
        overrides_from(["--dry-run"])
    with pytest.raises(UserError, match=r"--train\.budget needs a value"):
        overrides_from(["--train.budget"])


@pytest.mark.parametrize(
    "thunk",
    [
        lambda: MLP(2, width=10**7),
        lambda: MLP(2, depth=10**7),
        lambda: ConvEnergyNet((1, 8, 8), width=10**9),
        lambda: Langevin(abs, step_size=float("inf")),
        lambda: MALA(abs, step_size=0.1, temperature=float("inf")),
        lambda: ReplayBuffer(10**12),
        lambda: ContrastiveDivergence(DataInit(), lambda e: MALA(e, step_size=0.1), steps=10**7),
    ],
)
def test_constructors_have_limits_too(thunk):
    with pytest.raises(ValueError, match=r"is at most|is positive and finite"):
        thunk()


def test_a_second_signal_ends_the_longest_operation(tmp_path):
    code = (
        "import ctypes, threading, os, signal, time\n"
        "from energyscape.cli.terminal import interruptible\n"
        "twice = lambda: [(time.sleep(1), os.kill(os.getpid(), signal.SIGINT)) for _ in range(2)]\n"
        "threading.Thread(target=twice).start()\n"
        "with interruptible(lambda: 'kept'): [ctypes.CDLL(None).sleep(60) for _ in range(60)]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130
    assert "a second signal ends at once" in done.stderr
    assert done.stderr.endswith("energyscape: ended at once; kept\n")


def test_control_characters_are_shown_not_obeyed(capsys):
    complain("a\x1b[31m\tb\udcff\n c é")
    say("d\x07\ne")
    out, err = capsys.readouterr()
    assert err == "energyscape: a\\x1b[31m b\\udcff c é\n"
    assert out == "d\\x07\ne\n"


def test_a_message_quotes_no_flood(cli):
    status, _, err = cli("train", "8gaussians-dsm", DEEP)
    assert (status, len(err) < 1_500, "expected a setting" in err) == (2, True, True)


def test_lists_name_the_choices_and_are_plain_text(cli):
    status, _, err = cli("list")
    assert (status, "recipes, datasets" in err) == (2, True)
    for what in ("datasets", "objectives", "solvers", "levels"):
        assert not set("`") & set(cli("list", what)[1]), what


def test_progress_and_the_price_of_a_long_run_are_shown_early(capsys):
    experiment = Experiment(Recipe.named("8gaussians-dsm", {"train.budget": "900M"}))
    fit = SimpleNamespace(progress=0.0, samples=0)
    with TrainingDisplay(SimpleNamespace(fit=fit, experiment=experiment)) as display:
        assert "the first step …" in capsys.readouterr().err
        display._begun -= 60
        display._shown -= 60
        fit.progress = 256 / 900e6
        report = Report(1, 256, 0.0, 0.0, {}, NOTHING)
        list(display.follow([report]))
    err = capsys.readouterr().err
    assert re.search("about 58,[0-9]{3} hours are left on", err)  # 60 s for 256 of 900M samples, and a moment
