"""Runs: killed, stopped, damaged and resumed."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from energyscape.errors import UserError
from energyscape.experiment import Experiment, Recipe, Run, Session
from energyscape.experiment.settings import Guarding
from energyscape.training import Guard, Judgement, Snapshot, Verdict

TINY = {
    "model.network.width": "16",
    "objective.start.capacity": "256",
    "objective.steps": "3",
    "train.batch_size": "64",
    "train.budget": "6400",
    "train.checkpoint_every": "1000",
    "train.log_every": "2",
}


def opened(path: Path, **changes: str) -> tuple[Run, Experiment]:
    experiment = Experiment(Recipe.named("8gaussians-pcd", TINY | changes))
    return Run.create(path, experiment), experiment


def trained(path: Path, *, stop_after: int | None = None, keep: bool = False, **changes: str) -> Run:
    run, experiment = opened(path, **changes)
    with Session(run, experiment) as session:
        for count, _ in enumerate(session, 1):
            if count == stop_after:
                break
        if keep:
            session.keep()
    return run


def contents(run: Run) -> dict[str, bytes]:
    files = [run.metrics_path, run.interventions_path, run.checkpoints()[-1]]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return contents(trained(tmp_path_factory.mktemp("run") / "whole"))


@pytest.mark.parametrize("stop_after", [1, 15, 16, 50, 99])
@pytest.mark.parametrize("keep", [True, False])
def test_stopped_and_resumed_run_has_the_same_files(tmp_path, undisturbed, stop_after, keep):
    trained(tmp_path, stop_after=stop_after, keep=keep)
    assert contents(trained(tmp_path)) == undisturbed


def test_another_seed_gives_other_files(tmp_path, undisturbed):
    """The comparison above would also hold if nothing were written at all."""
    other = contents(trained(tmp_path, **{"train.seed": "1"}))
    assert len(undisturbed["metrics.jsonl"].splitlines()) == 50
    assert other["metrics.jsonl"] != undisturbed["metrics.jsonl"]


@pytest.mark.slow
def test_run_killed_ten_times_has_the_same_files(tmp_path, undisturbed):
    settings = [word for key, value in TINY.items() for word in (f"--{key}", value)]
    command = [
        sys.executable,
        "-m",
        "energyscape.cli",
        "train",
        "8gaussians-pcd",
        *settings,
        "--out",
        str(tmp_path / "r"),
    ]
    rng = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(1.0, 5.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    assert contents(Run.open(tmp_path / "r")) == undisturbed


def test_metrics_cut_off_in_the_middle_of_a_line_are_mended(tmp_path, undisturbed):
    run = trained(tmp_path, stop_after=40)
    with open(run.metrics_path, "ab") as file:
        file.write(b'{"step": 42, "sam')
    assert contents(trained(tmp_path)) == undisturbed


def test_only_the_newest_checkpoints_stay(tmp_path):
    run = trained(tmp_path)
    assert [int(each.stem) for each in run.checkpoints()] == [5_056, 6_016, 6_400]


def test_rolled_back_run_killed_and_resumed_has_the_same_bits(tmp_path):
    """The data hold a NaN, so some steps are skipped; stopping in between changes nothing."""
    torch.manual_seed(0)
    rows = torch.randn(500, 2)
    rows[7] = torch.nan

    def session(path: Path) -> Session:
        run, experiment = opened(path)
        experiment.source = rows
        return Session(run, experiment)

    with session(tmp_path / "whole") as whole:
        assert len(list(whole)) == 100
    with session(tmp_path / "cut") as cut:
        assert len(list(itertools.islice(cut, 37))) == 37
    with session(tmp_path / "cut") as cut:
        assert len(list(cut)) in range(63, 80)
    files = contents(Run.open(tmp_path / "whole"))
    assert files == contents(Run.open(tmp_path / "cut"))
    # Each epoch of 500 rows meets the NaN once: 6,400 samples are 12 whole epochs and a part.
    assert 12 <= len(files["interventions.jsonl"].splitlines()) <= 13
    assert b"SKIP" in files["interventions.jsonl"]


@pytest.mark.parametrize("stop_after", [30, 55, 80])
@pytest.mark.parametrize("keep", [True, False])
def test_run_that_rolls_back_has_the_same_bits_when_it_is_stopped(tmp_path, stop_after, keep):
    """A guard that calls nearly everything an explosion, so that steps are skipped and rolled back all the time."""
    nervous = {"guard.gradient_factor": "1.02", "guard.rollbacks": "1000", "train.checkpoint_every": "640"}
    whole = trained(tmp_path / "whole", **nervous)
    verdicts = {each["verdict"] for each in whole.interventions()}
    trained(tmp_path / "cut", stop_after=stop_after, keep=keep, **nervous)
    trained(tmp_path / "cut", stop_after=3, keep=keep, **nervous)
    assert contents(trained(tmp_path / "cut", **nervous)) == contents(whole)
    assert verdicts == {"SKIP", "ROLLBACK"}
    back = [each for each in whole.interventions() if each["verdict"] == "ROLLBACK"]
    assert {each["guard"] for each in back} == {"GradientNorm"}
    assert back[0]["remedy"] == {"rate": 0.3}
    skipped = [each["remedy"] for each in whole.interventions() if each["verdict"] == "SKIP"]
    assert skipped == [{}] * len(skipped)


class Troubled(Guard):
    """Asks for rollbacks from where snapshots are no good."""

    calm = True

    def look(self, report):
        again = report.samples in (640, 3_072, 3_136, 3_584, 4_800, 4_864, 4_928)
        return Judgement(Verdict.ROLLBACK, "trouble") if again else Judgement(Verdict.GO)

    def state(self):
        return {}

    def restore(self, state):
        pass


@pytest.mark.parametrize("stop_after", [5, 48, 62, 70, 76])
@pytest.mark.parametrize("keep", [True, False])
def test_run_that_gives_up_a_checkpoint_has_the_same_bits_when_it_is_stopped(tmp_path, monkeypatch, stop_after, keep):
    patient = {"guard.rollbacks": "7"}
    monkeypatch.setattr(Guarding, "guards", lambda self: [Troubled()])
    whole = trained(tmp_path / "whole", **patient)
    went = [each["outcome"] for each in whole.interventions()]
    # Checkpoints are at 1,024, 2,048, 3,008, 4,032 samples and so on. That of 3,008 is given up, later that of 4,032.
    assert went == [f"back to sample {there}" for there in ("0", "3,008", "2,048", "2,048", "4,032", "2,048", "2,048")]
    assert [int(each.stem) for each in whole.checkpoints()] == [5_056, 6_016, 6_400]
    trained(tmp_path / "cut", stop_after=stop_after, keep=keep, **patient)
    trained(tmp_path / "cut", stop_after=1, keep=keep, **patient)
    assert contents(trained(tmp_path / "cut", **patient)) == contents(whole)


def test_a_checkpoint_that_was_given_up_is_removed_once_there_is_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Guarding, "guards", lambda self: [Troubled()])
    before, found = trained(tmp_path, stop_after=46).checkpoints()[-1].read_bytes(), []
    for more in (30, 16):  # steps, from 2,048 samples to 3,968, and from 3,008 to 4,032
        files = trained(tmp_path, stop_after=more).checkpoints()
        found.append([int(each.stem) for each in files])
        assert files[1].read_bytes() == before  # what is gone back to is not written anew
    assert found == [[1_024, 2_048, 3_008], [1_024, 2_048, 4_032]]


def test_an_interruption_s_checkpoint_goes_when_a_regular_one_comes(tmp_path):
    run = trained(tmp_path, stop_after=20, keep=True)
    assert [each.name for each in run.checkpoints()] == [
        "000000001024.safetensors",
        "000000001280.interrupted.safetensors",
    ]
    run = trained(tmp_path, stop_after=20)
    assert [each.name for each in run.checkpoints()] == ["000000001024.safetensors", "000000002048.safetensors"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path, undisturbed):
    run = trained(tmp_path, stop_after=40)
    (run.path / "checkpoints" / ".000000003008.safetensors.999.part").write_bytes(b"half")
    assert contents(trained(tmp_path)) == undisturbed
    assert not list(run.path.rglob("*.part"))


def test_a_run_killed_while_it_was_being_made_is_made_anew(tmp_path, undisturbed):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".recipe.toml.7.part").write_text("[da")
    assert contents(trained(tmp_path)) == undisturbed
    assert Run.open(tmp_path).shape() == (2,)


def test_damaged_metrics_are_refused_not_cut(tmp_path):
    run = trained(tmp_path, stop_after=40)
    lines = run.metrics_path.read_text().splitlines()
    for bad in ("5", "[1]", '{"a": 1}', '{"samples": "x"}', '{"sam'):
        text = "\n".join([lines[0], bad, *lines[2:]]) + "\n"
        run.metrics_path.write_text(text)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
            trained(tmp_path)
        assert run.metrics_path.read_text() == text


def test_the_energy_of_a_run_stands_still(tmp_path):
    """Spectral normalisation moves on in training mode only, and a loaded run is not training."""
    recipe = Recipe.named("digits-pcd", {"model.network": '{name = "conv", width = 4, spectral_norm = true}'})
    experiment = Experiment(recipe.overridden({"train.budget": "256", "objective.start.capacity": "128"}))
    with Session(Run.create(tmp_path, experiment), experiment) as session:
        list(session)
    energy = Run.open(tmp_path).experiment().energy
    x = torch.zeros(3, 1, 8, 8)
    assert torch.equal(energy(x), energy(x))


def test_other_conditions_are_told(tmp_path):
    run = trained(tmp_path, stop_after=20)
    _, experiment = opened(tmp_path)
    assert run.changed_conditions(experiment) == []
    facts = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(facts | {"torch": "0.1", "threads": 99}))
    assert run.changed_conditions(experiment) == [
        f"torch 0.1 → {torch.__version__}",
        f"threads 99 → {facts['threads']}",
    ]
    (tmp_path / "run.json").write_text(json.dumps(facts | {"device": "abacus"}))
    with pytest.raises(UserError, match="begun on abacus and cannot go on with cpu"):
        trained(tmp_path)


def test_folder_of_another_run_or_of_something_else_is_refused(tmp_path):
    trained(tmp_path / "a", stop_after=1)
    with pytest.raises(UserError, match=r"other settings \(objective.steps: 3 → 4\)"):
        opened(tmp_path / "a", **{"objective.steps": "4"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty and holds no run"):
        opened(tmp_path / "b")
    with pytest.raises(UserError, match=r"is no run.*did you mean 'a'"):
        Run.open(tmp_path / "aa")


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    run, _ = opened(tmp_path)
    with run.locked(), pytest.raises(UserError, match="another process"):
        trained(tmp_path)


def test_other_words_for_the_same_settings_are_the_same_run(tmp_path):
    run = trained(tmp_path, stop_after=1)
    assert opened(tmp_path, **{"train.clip": "none"})[0].path == run.path


@pytest.mark.parametrize("harm", ["truncated", "garbage", "pickle", "foreign"])
def test_damaged_checkpoint_is_refused_and_the_one_before_is_whole(tmp_path, harm):
    run = trained(tmp_path, stop_after=60)
    newest, before = run.checkpoints()[-1], run.checkpoints()[-2]
    if harm == "truncated":
        newest.write_bytes(newest.read_bytes()[:-100])
    elif harm == "garbage":
        newest.write_bytes(os.urandom(5_000))
    elif harm == "pickle":
        torch.save({"model": {}}, newest)
    else:
        Snapshot({"clock": {}, "model": {}, "average": None, "objective": {}}).save(newest)
    with (
        pytest.raises(UserError, match=str(newest))
        if harm != "foreign"
        else pytest.raises(UserError, match="does not fit")
    ):
        trained(tmp_path)
    assert Snapshot.load(before).tree["clock"]["samples"] == int(before.stem)
    newest.unlink()
    assert trained(tmp_path).metrics()["samples"][-1] == 6_400


def test_metrics_are_json_also_when_a_number_is_not_finite(tmp_path):
    run, experiment = opened(tmp_path)
    experiment.source = torch.full((100, 2), torch.nan)
    with Session(run, experiment) as session:
        assert len(list(itertools.islice(session, 4))) == 4
    lines = run.metrics_path.read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["loss"] for line in lines] == [None, None]
    assert [each["verdict"] for each in run.interventions()] == ["SKIP"] * 4  # the data are at fault
