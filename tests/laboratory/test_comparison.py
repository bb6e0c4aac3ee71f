"""The scoreboards."""

import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cases
from energyscape.cli import main
from energyscape.data import DISTRIBUTIONS, EightGaussians
from energyscape.errors import UserError
from energyscape.evaluation.exact import Divergence
from energyscape.laboratory import (
    Cell,
    KernelCell,
    ObjectiveCell,
    Score,
    distributions_named,
    kernels,
    objectives,
    plan,
    run_jobs,
)
from energyscape.laboratory.cells import STD
from energyscape.laboratory.kernels import TUNED, modes_wrong
from energyscape.laboratory.scoreboard import as_csv, failures, markdown, matrix, mean_and_error, table
from energyscape.metrics.plane import mode_shares
from energyscape.models import Energy, GaussianMixture
from energyscape.objectives import OBJECTIVES, Loss, ScoreMatching
from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.runs import Run
from energyscape.samplers import KERNELS, MALA
from energyscape.training import Guard, Judgement, Verdict


def compared(folder, *words, law="8gaussians"):
    with pytest.raises(SystemExit) as exit_:
        main(["compare", law, "--out", str(folder), "--jobs", "1", *words])
    return exit_.value.code


SMALL = {"model.network.width": "16", "sampler.steps": "20"}


def small(*laws, which, seeds, budget, folder):
    return plan(ObjectiveCell, laws, which=which, seeds=seeds, budget=budget, folder=folder, settings=SMALL)


def trained(folder, *words, law="8gaussians"):
    settings = [word for key, value in SMALL.items() for word in (f"--{key}", value)]
    return compared(folder, "--objectives", "dsm", "--budget", "2k", *settings, *words, law=law)


def place(folder):
    """Returns the folder of the one comparison there is."""
    (found,) = (each for each in folder.iterdir() if each.is_dir())
    return found


def score(method, seed, kl, worst=0.9, rate=10.0, failed="", law="moons"):
    values = {"kl": kl, "kl_error": 0.0, "worst_mode": worst, "mmd": 0.01, "mmd_error": 0.001}
    cell = ObjectiveCell(law, method, seed, Recipe(method, {}), Path())
    return Score(cell, {**values, "ess_per_second": 100.0, "steps_per_second": rate}, failed)


# --- methods ----------------------------------------------------------------------------------------------------------


def test_every_method_trains_the_same_network_on_the_same_law(tmp_path):
    cells = plan(ObjectiveCell, ["moons"], which="all", seeds=2, budget="10s", folder=tmp_path)
    assert len(cells) == 2 * len(ObjectiveCell.names()) >= 20
    resolved = [cell.recipe.resolved().tables for cell in cells]
    assert {tables["data"]["law"]["name"] for tables in resolved} == {"moons"}
    assert {tables["train"]["budget"] for tables in resolved} == {"10s"}
    networks = {str(tables["model"]) for tables in resolved if tables["model"]["name"] == "neural"}
    assert len(networks) == 1
    assert len({cell.folder for cell in cells}) == len(cells)


def test_other_laws_have_the_size_of_the_eight_gaussians(tmp_path):
    """The moments of the eight Gaussians: r² / 2 + σ² in each coordinate."""
    law = EightGaussians()
    assert pytest.approx(math.sqrt(law.radius**2 / 2 + law.std**2), abs=1e-3) == STD
    for cell in plan(ObjectiveCell, distributions_named("all"), which="nce", seeds=1, budget="1s", folder=tmp_path):
        x = Experiment(cell.recipe).source.sample(20_000, generator=cases.generator())
        # The variance of a variance: kurtoses here are below 20, of 20,000 draws √(20 / 20,000) = 3 %; five of them.
        assert float(x.var(0).mean().sqrt()) == pytest.approx(STD, rel=0.08)
    assert set(distributions_named("all")) == set(DISTRIBUTIONS) - {"points", "rescaled"}


def test_the_score_of_a_run_is_its_kl(tmp_path, capsys):
    assert trained(tmp_path, "--seeds", "2") == 0
    assert "0 of 2" in capsys.readouterr().out
    folder = place(tmp_path)
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"], row["failed"]) for row in rows] == [("dsm", "0", ""), ("dsm", "1", "")]
    # KL = E[E / T] + log Z - entropy: the same number by Monte Carlo for the cross term and a plain grid for log Z.
    experiment = Run.open(folder / "dsm-0").experiment()
    law, energy = experiment.source, experiment.trained.require_energy()
    axes = torch.linspace(-12, 12, 801)
    grid = energy(torch.cartesian_prod(axes, axes)).detach().double()
    log_z = torch.logsumexp(-grid, 0) + 2 * math.log(24 / 800)
    e = energy(law.sample(40_000, generator=torch.Generator().manual_seed(0))).detach().double()
    error = float(e.std() / math.sqrt(len(e)))
    assert float(rows[0]["kl"]) == pytest.approx(float(e.mean() + log_z) - law.entropy, abs=5 * error)
    assert float(rows[0]["steps_per_second"]) > 0
    assert "Scoreboard" in (folder / "scoreboard.html").read_text()
    with Image.open(folder / "scoreboard.png") as picture:
        assert picture.width > 400
    board = (tmp_path / "scoreboard.md").read_text()
    assert f"{law.entropy:.4f} nats" in board
    assert re.search(r"\| dsm \| [0-9.]+ ± [0-9.]+ \|", board)


def test_finished_cells_are_neither_run_nor_measured_again(tmp_path, capsys, monkeypatch):
    assert trained(tmp_path, "--seeds", "1") == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("dsm-0/**/*") if path.is_file()}
    assert len(before) > 4
    monkeypatch.setattr(objectives, "measure_run", None)
    assert trained(tmp_path, "--seeds", "1") == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("dsm-0/**/*") if path.is_file()}
    monkeypatch.undo()
    (place(tmp_path) / "dsm-0" / "score.json").write_text("{")
    assert trained(tmp_path, "--seeds", "1") == 0  # a damaged score is measured again, its run is not


def test_cells_run_side_by_side_reach_what_they_reach_alone(tmp_path):
    """Two processes: the same bits, because each cell draws from its own streams."""
    alone = dict(run_jobs(small("moons", which="nce", seeds=2, budget="1k", folder=tmp_path / "a")))
    both = dict(run_jobs(small("moons", which="nce", seeds=2, budget="1k", folder=tmp_path / "b"), jobs=2))
    assert set(alone) == set(both) == {0, 1}
    for place in (0, 1):
        for field in ("kl", "mmd"):
            assert alone[place].values[field] == both[place].values[field]
    assert alone[0].values["kl"] != alone[1].values["kl"]


def test_a_comparison_that_is_stopped_goes_on(tmp_path):
    asked = []

    def stopping():
        asked.append(1)
        return len(asked) > 3

    cells = small("moons", which="nce", seeds=2, budget="2k", folder=tmp_path)
    assert list(run_jobs(cells, stopping=stopping)) == []
    assert 0 < Run.open(cells[0].folder).latest().tree["clock"]["samples"] < 2_000
    assert [place for place, _ in run_jobs(cells)] == [0, 1]


def test_the_table_is_of_good_runs_the_best_method_first():
    scores = [
        score("slow", 0, 0.5),
        score("slow", 1, 0.3, worst=0.8, rate=30),
        score("broken", 0, math.nan, failed="stopped by a guard"),
        score("good", 0, 0.01, worst=0.95, rate=20),
        score("good", 1, 9.0, worst=0.1, failed="half of the mass is beyond the widest box"),
    ]
    head, *rows = table(scores)
    assert head[0] == "method"
    assert [[row[0], row[1], row[2], row[5], row[6]] for row in rows] == [
        ["good", "0.01", "0.95", "20", "1 of 2"],
        ["slow", "0.4 ± 0.1", "0.8", "20", "0 of 2"],
        ["broken", "–", "–", "–", "1 of 1"],
    ]
    assert as_csv(scores).splitlines()[1] == "moons,slow,0,0.5,0.0,0.9,0.01,0.001,100.0,10.0,"
    assert failures(scores)[0] == "moons, broken, seed 0: stopped by a guard"
    assert markdown([["a", "b"], ["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n"


def test_the_board_over_laws_ranks_by_geometric_means():
    scores = [
        score("steady", 0, 0.1),
        score("steady", 0, 0.1, law="rings"),
        score("uneven", 0, 0.001),
        score("uneven", 0, 0.5, law="rings"),
        score("uneven", 1, 0.7, law="rings"),
    ]
    assert matrix(scores) == [
        ["KL above entropy, nats", "moons", "rings"],
        ["uneven", "0.001", "0.6"],  # √(0.001 · 0.6) = 0.024, below 0.1
        ["steady", "0.1", "0.1"],
    ]


def test_standard_errors_are_those_of_the_mean():
    mean, error = mean_and_error([1.0, 2.0, 4.0, 5.0])
    assert mean == 3.0
    assert error == pytest.approx(np.std([1, 2, 4, 5], ddof=1) / 2)


@pytest.mark.parametrize(("value", "edge"), [(math.nan, 0.0), (math.inf, 0.0), (0.1, 0.5)])
def test_a_kl_that_is_not_to_be_believed_is_a_failure_with_a_reason(tmp_path, monkeypatch, value, edge):
    (cell,) = small("8gaussians", which="dsm", seeds=1, budget="600", folder=tmp_path)
    monkeypatch.setattr(objectives, "kl", lambda *_, **__: Divergence(value, 0.0, edge))
    reached = cell.measure(lambda: False)
    assert ("not finite" if edge == 0 else "50.0% of the mass") in reached.failed


def test_a_guard_that_stops_a_run_says_why(tmp_path, monkeypatch):
    class Grumpy(Guard):
        calm = True

        def look(self, report):
            return Judgement(Verdict.ROLLBACK, "it looks bad")

        def state(self):
            return {}

        def restore(self, state):
            pass

    monkeypatch.setattr("energyscape.recipe.settings.Guarding.guards", lambda _: [Grumpy()])
    (cell,) = small("moons", which="nce", seeds=1, budget="10k", folder=tmp_path)
    reached = cell.measure(lambda: False)
    assert "stopped by a guard: it looks bad" in reached.failed
    assert "it looks bad" in failures([reached])[0]


def test_distributions_take_settings_and_users_bring_points(tmp_path, capsys):
    x = EightGaussians().sample(300, generator=cases.generator())
    np.savetxt(tmp_path / "x.csv", x.numpy(), delimiter=",")
    assert trained(tmp_path / "runs", "--seeds", "1", "--data.path", str(tmp_path / "x.csv"), law="points") == 0
    assert "points" in capsys.readouterr().out
    assert trained(tmp_path / "runs", "--data.noice", "1", law="moons") == 2
    assert "did you mean 'noise'" in capsys.readouterr().err


def test_mistakes(tmp_path, capsys):
    for words, message in [
        (("digits",), "no law in the plane"),
        (("moon",), "did you mean 'moons'"),
        (("moons", "--objectives", "dms"), "did you mean 'dsm'"),
        (("moons", "--objectives", "dsm", "--seeds", "0"), "seeds is at least 1"),
        (("moons", "--objectives", "dsm", "--jobs", "-1"), "jobs is at least 1"),
        (("moons", "--objectives", "dsm", "--samplers", "all"), "either"),
        (("all", "--samplers", "all"), "one law"),
        (("moons", "--samplers", "mal"), "did you mean 'mala'"),
        (("moons", "--samplers", "mala", "--budget", "400k"), "a time"),
    ]:
        with pytest.raises(SystemExit) as exit_:
            main(["compare", *words, "--out", str(tmp_path)])
        assert exit_.value.code == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    assert Recipe.named("8gaussians-dsm")


def test_the_worst_mode_is_the_least_share_of_its_own_mass():
    law = EightGaussians()
    weights = torch.ones(8)
    weights[3] = 0.5
    model = GaussianMixture(law.modes, std=law.std, weights=weights)
    # Its two neighbours lie 3.06 deviations beyond the border and bring 2 · 0.0011 · 0.5 of a share more.
    assert min(mode_shares(law, model, temperature=1.0)) == pytest.approx(8 * 0.5 / 7.5, abs=0.002)


# --- samplers ---------------------------------------------------------------------------------------------------------


def test_every_sampler_is_compared():
    assert set(TUNED) == set(KERNELS) == set(KernelCell.names())


def samplers_scored(tmp_path, which, budget):
    assert compared(tmp_path, "--samplers", which, "--seeds", "1", "--budget", budget, law="doublewell") == 0
    folder = tmp_path / f"doublewell-samplers-{budget}"
    with open(folder / "scores.csv", newline="") as file:
        return folder, {row["sampler"]: row for row in csv.DictReader(file)}


def test_samplers_are_scored_on_a_known_landscape(tmp_path, capsys):
    folder, rows = samplers_scored(tmp_path, "all", "0.5cpu-s")
    assert "tempering" in capsys.readouterr().out
    assert set(rows) == set(KERNELS)
    # Descent ends at the bottoms and stands still, which no chain of draws does.
    assert not math.isfinite(float(rows["gd"]["r_hat"]))
    assert (folder / "scoreboard.png").exists()
    kept = json.loads((folder / "mala-0" / "score.json").read_text())
    assert kept["steps"] == int(rows["mala"]["steps"])


def test_the_stated_error_of_a_sampler_is_the_spread_of_repeated_runs(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(kernels.time, "process_time", lambda: next(ticks) / 128)  # 64 steps fill 0.5 s
    # Small steps, so that positions of one chain are much alike; chains settle in a quarter of the time.
    slow = {"mala": lambda energy, x, generator: MALA(energy, step_size=0.06)}
    monkeypatch.setattr(kernels, "TUNED", slow)
    monkeypatch.setattr(kernels, "modes_wrong", lambda law, x: 0.0)  # quadrature takes its time
    n, scores = 64, []
    for seed in range(n):
        folder = tmp_path / str(seed)
        (cell,) = plan(KernelCell, ["doublewell"], which="mala", seeds=1, budget="0.5cpu-s", folder=folder)
        scores.append(dataclasses.replace(cell, seed=seed).measure(lambda: False))
    values, errors = (np.array([each.values[name] for each in scores]) for name in ("mmd", "mmd_error"))
    assert {each.values["steps"] for each in scores} == {64}
    # By symmetry as many chains start in either well as belong there: where they end is unbiased.
    # Positions of the whole second half were 4.9 standard errors too far off, and stated half of their error.
    assert abs(cases.z_score(torch.from_numpy(values))) < 4
    # The standard error of a spread of n is 1 / sqrt(2 n) of it, and half as much again for its heavy tail.
    assert math.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=4 * 1.5 / math.sqrt(2 * n))


def test_samplers_that_were_given_time_score_well(tmp_path):
    _, rows = samplers_scored(tmp_path, "mala,hmc,tempering", "2cpu-s")
    for name in ("mala", "hmc", "tempering"):
        assert abs(float(rows[name]["mmd"])) < 0.02  # the square of the distance of two wells' laws is 1 or so
        assert 0.3 < float(rows[name]["accept_prob"]) < 0.95
    # Replicas cross the barrier between the wells.
    assert float(rows["tempering"]["r_hat"]) < float(rows["mala"]["r_hat"])


def test_shares_of_modes_are_compared_by_total_variation():
    law = EightGaussians()
    x = law.modes[[0, 0, 0, 1]]  # three quarters and one quarter instead of eighths: (5/8 + 1/8 + 6/8) / 2
    assert modes_wrong(law, x) == pytest.approx(0.75, abs=1e-6)


def test_a_budget_of_samplers_is_a_time(tmp_path):
    with pytest.raises(UserError, match="a time"):
        plan(KernelCell, ["moons"], which="all", seeds=1, budget="3 epochs", folder=tmp_path)


def test_a_signal_to_all_processes_of_a_comparison_keeps_what_is_finished_and_leaves_none(tmp_path):
    words = ["moons", "--objectives", "dsm,ssm", "--seeds", "2", "--budget", "60cpu-s", "--jobs", "2"]
    command = [sys.executable, "-m", "energyscape", "compare", *words, "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(3_000):
        time.sleep(0.1)
        if list(tmp_path.rglob("metrics.jsonl")):
            break
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "4 runs of 60cpu-s each, together about 4.0 minutes, 2 side by side" in err
    assert "stopped with 0 of 4 done; the same command goes on" in out
    assert list(tmp_path.rglob("*.interrupted.safetensors"))
    with contextlib.suppress(ProcessLookupError):
        for _ in range(600):  # multiprocessing's own tracker ends a moment later
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        pytest.fail("a process is left")


def test_a_worker_that_is_killed_is_one_line(tmp_path):
    cells = [Killed("moons", "killed", seed, Recipe("", {}), tmp_path / str(seed)) for seed in range(2)]
    with pytest.raises(UserError, match="a process of the comparison was killed"):
        list(run_jobs(cells, jobs=2))


class Killed(Cell):
    columns = ()
    names = recipe_of = panels = None

    def measure(self, stopping):
        os.kill(os.getpid(), signal.SIGKILL)


# --- a new objective --------------------------------------------------------------------------------------------------


class Halved(ScoreMatching):
    """Half the loss of score matching."""

    def __init__(self, *, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, model: Energy, x, label=None, *, generator=None):
        value, facts = super().forward(model, x, label, generator=generator)
        return Loss(self.factor * value, facts)


class Demanding(Halved):
    """Like `Halved`, but nothing is its default."""

    def __init__(self, *, factor: float) -> None:
        super().__init__(factor=factor)


def test_a_new_objective_is_compared_without_a_recipe(tmp_path, capsys, monkeypatch):
    before = ObjectiveCell.names()
    assert {name.removeprefix("8gaussians-") for name in recipe_names()} > set(before)  # each has a recipe by now
    monkeypatch.setitem(OBJECTIVES._entries, "halved", Halved)
    monkeypatch.setitem(OBJECTIVES._entries, "demanding", Demanding)
    assert ObjectiveCell.names() == [*before, "halved"]  # a required setting needs a recipe
    words = ["--objectives", "halved", "--budget", "2k", "--seeds", "1", "--sampler.steps", "20"]
    assert compared(tmp_path, *words, "--objective.factor", "0.25") == 0
    assert "0 of 1" in capsys.readouterr().out
    recipe = Run.open(next(tmp_path.rglob("halved-0"))).recipe().tables
    assert recipe["objective"] == {"name": "halved", "factor": 0.25}
    assert recipe["model"] == Recipe.named("8gaussians-sm").resolved().tables["model"]
