"""Runs: killed, stopped, damaged and resumed."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cases
from energyscape.errors import UserError
from energyscape.recipe import Experiment, Recipe
from energyscape.recipe.settings import Guarding
from energyscape.runs import Run, Session
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
        again = report.samples in (640, 3_712, 3_776, 4_224, 5_440, 5_504, 5_568)
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
    # After sample 640 the run begins again. Checkpoints are at 1,024, 2,048 and 3,008 samples that the weights have
    # learned from, those that a rollback took back not counted. That of 3,648 is given up, later that of 5,184.
    assert went == [f"back to sample {there}" for there in ("0", "3,648", "2,688", "2,688", "5,184", "2,688", "2,688")]
    assert [int(each.stem) for each in whole.checkpoints()] == [1_664, 2_688, 6_400]
    trained(tmp_path / "cut", stop_after=stop_after, keep=keep, **patient)
    trained(tmp_path / "cut", stop_after=1, keep=keep, **patient)
    assert contents(trained(tmp_path / "cut", **patient)) == contents(whole)


def test_a_checkpoint_that_was_given_up_is_removed_once_there_is_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Guarding, "guards", lambda self: [Troubled()])
    before, found = trained(tmp_path, stop_after=46).checkpoints()[-1].read_bytes(), []
    for more in (30, 24):  # steps, from 2,688 samples to 4,608, and from 3,648 to 5,184
        files = trained(tmp_path, stop_after=more).checkpoints()
        found.append([int(each.stem) for each in files])
        assert files[1].read_bytes() == before  # a snapshot after a rollback is not rewritten
    assert found == [[1_664, 2_688, 3_648], [1_664, 2_688, 5_184]]


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
    (run.path / "checkpoints" / ".000000003008.safetensors.99999999.part").write_bytes(b"half")
    assert contents(trained(tmp_path)) == undisturbed
    assert not list(run.path.rglob("*.part"))


def test_a_run_killed_while_it_was_being_made_is_made_anew(tmp_path, undisturbed):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".recipe.toml.99999999.part").write_text("[da")
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
    energy = Run.open(tmp_path).experiment().trained.require_energy()
    x = torch.zeros(3, 1, 8, 8)
    assert torch.equal(energy(x), energy(x))


def test_other_conditions_are_refused(tmp_path):
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
    trained(tmp_path / "a", stop_after=1, keep=True)
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


def pickled(path: Path) -> None:
    torch.save({"model": {}}, path)


def not_finite(path: Path) -> None:
    tree = Snapshot.load(path).tree
    for each in tree["model"].values():
        each.fill_(torch.nan)
    Snapshot(tree).save(path)


HARM = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(os.urandom(5_000)),
    "pickle": pickled,
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "not finite": not_finite,
}


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("sixty") / "run", stop_after=60).path


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, caplog, sixty, undisturbed, harm):
    run = Run(Path(shutil.copytree(sixty, tmp_path / "run")))
    newest, before = run.checkpoints()[-1], run.checkpoints()[-2]
    HARM[harm](newest)
    snapshot = run.latest()
    assert snapshot is not None
    assert snapshot.samples == int(before.stem) == 2_048
    assert cases.same(run.experiment().model.state_dict(), snapshot.tree["model"])
    (line,) = caplog.messages
    assert str(newest) in line
    assert f"passed over: {before.name} is used" in line
    if harm != "folder":  # which is not removed for a file's sake
        assert contents(trained(run.path)) == undisturbed


def test_without_a_whole_checkpoint_the_message_names_the_remedy(tmp_path, sixty):
    run = Run(Path(shutil.copytree(sixty, tmp_path / "run")))
    for each in run.checkpoints():
        not_finite(each)
    for use in (run.latest, run.experiment, lambda: trained(run.path)):
        with pytest.raises(
            UserError, match=r"003008\.safetensors: model.* not finite.*delete .*checkpoints and train"
        ) as result:
            use()
        assert "\n" not in str(result.value)


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_is_used(tmp_path, caplog, sixty, undisturbed):
    run = Run(Path(shutil.copytree(sixty, tmp_path / "run")))
    for path in run.checkpoints():
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()["energyscape-snapshot-2"]
        save_file(load_file(path), path, metadata={"energyscape-snapshot-1": metadata[64:]})
    assert contents(trained(run.path)) == undisturbed
    assert caplog.messages == [
        f"energyscape: {run.path / 'checkpoints'}: checkpoints of an earlier version have no digest; "
        "damage cannot be detected"
    ]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("clock", None),
        ("clock", {}),
        ("clock.samples", "many"),
        ("clock.treatment", [1.0] * 99),
        ("clock.position", -1),
        ("streams", [1]),
        ("streams.objective", torch.zeros(3)),
        ("optimiser", {}),
        ("optimiser.param_groups", []),
        ("optimiser.state", {0: {"step": torch.tensor(1.0)}}),
        ("optimiser.state", {0: 5}),
        ("guards", []),
        ("guards", [{}] * 20),
        ("guards", [{"recent": [1.0, {}]}]),
        ("model", {}),
        ("average", None),
        ("objective", {"chains": 3}),
        ("refuge", [1]),
        ("refuge", ["a", "b", "c"]),
    ],
    ids=str,
)
def test_a_checkpoint_that_lacks_something_is_refused_in_one_line(tmp_path, sixty, place, value):
    run = Run(Path(shutil.copytree(sixty, tmp_path / "run")))
    newest = run.checkpoints()[-1]
    tree = Snapshot.load(newest).tree
    *path, last = place.split(".")
    table = tree
    for step in path:
        table = table[step]
    table[last] = value
    Snapshot(tree).save(newest)
    with pytest.raises(UserError, match=r"does not fit|guards are not those|a position is") as raised:
        trained(run.path)
    assert "\n" not in str(raised.value)
    if not path:
        del table[last]
        Snapshot(tree).save(newest)
        if place != "refuge":
            with pytest.raises(UserError, match=r"does not fit|guards are not those"):
                trained(run.path)


def test_a_checkpoint_left_by_a_kill_before_it_was_removed_goes_at_the_next_opening(tmp_path, sixty):
    run = Run(Path(shutil.copytree(sixty, tmp_path / "run")))
    trained(run.path)
    kept = [each.name for each in run.checkpoints()]
    assert len(kept) == 3
    for name in ("000000004032.safetensors", "000000004100.interrupted.safetensors"):
        shutil.copy(run.checkpoints()[0], run.path / "checkpoints" / name)
    trained(run.path, stop_after=0)  # it is finished
    assert [each.name for each in run.checkpoints()] == kept


def test_a_part_folder_of_a_killed_export_is_no_obstacle(tmp_path, sixty, undisturbed):
    run = Run(Path(shutil.copytree(sixty, tmp_path / "run")))
    for process in (1, 99_999_999):  # one that lives, and one that cannot
        (run.path / f".m.{process}.part").mkdir()
        (run.path / f".m.{process}.part" / "model.safetensors").write_bytes(b"half")
    assert contents(trained(run.path)) == undisturbed
    assert [each.name for each in run.path.glob(".*.part")] == [".m.1.part"]


@pytest.mark.slow
def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path, caplog):
    """Two hundred places, of them fifty in the digest and fifty in the header, where a flip may do anything."""
    experiment = Experiment(Recipe.named("digits-pcd", {"train.budget": "2k", "train.checkpoint_every": "1000"}))
    with Session(Run.create(tmp_path, experiment), experiment) as session:
        list(session)
    run, rng = Run.open(tmp_path), random.Random(0)
    newest, before = run.checkpoints()[-1], run.checkpoints()[-2]
    content = newest.read_bytes()
    digest = content.index(b'snapshot-2":"') + 13
    header = int.from_bytes(content[:8], "little")
    places = [
        (low, high) for low, high in ((0, len(content)), (0, 8 + header), (digest, digest + 64)) for _ in range(50)
    ]
    for low, high in [*places, *[(0, len(content))] * 50]:
        flipped = bytearray(content)
        flipped[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
        newest.write_bytes(flipped)
        snapshot = run.latest()
        assert snapshot is not None
        assert snapshot.samples == int(before.stem)
    newest.write_bytes(content)
    assert run.latest().samples == int(newest.stem)
    assert all("passed over" in line and newest.name in line for line in caplog.messages)


def test_metrics_are_json_also_when_a_number_is_not_finite(tmp_path):
    run, experiment = opened(tmp_path)
    experiment.source = torch.tensor([[torch.nan, 0.0]] * 100)
    with Session(run, experiment) as session:
        assert len(list(itertools.islice(session, 4))) == 4
    lines = run.metrics_path.read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["loss"] for line in lines] == [None, None]
    assert [each["verdict"] for each in run.interventions()] == ["SKIP"] * 4  # the data are at fault
