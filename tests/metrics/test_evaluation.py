"""Records of evaluations: written once, read by every page, stale when what it measured has changed."""

import json
import math
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from energyscape.data import DATASETS, FourSquares
from energyscape.errors import UserError
from energyscape.inference.scoring import energies_on_grid
from energyscape.metrics import METRICS, Evidence
from energyscape.metrics.evaluation import evaluate
from energyscape.metrics.plane import mode_shares
from energyscape.models import Gaussian
from energyscape.recipe import Experiment, Recipe
from energyscape.runs import Run, Session

DIGITS = {
    "model.network.width": "8",
    "sampler.steps": "5",
    "train.budget": "256",
    "train.batch_size": "64",
    "objective.start.capacity": "64",
}
POINTS = {"train.budget": "2560", "train.batch_size": "128", "sampler.steps": "20", "objective.start.capacity": "256"}


def contributed():
    """The names that the code of CONTRIBUTING defines."""
    text, names = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8"), {}
    for code in re.findall(r"^ *```python\n(.*?)```", text, re.DOTALL | re.MULTILINE):
        exec(textwrap.dedent(code), names)
    return names


def trained(folder: Path, recipe: str, settings: dict[str, str]) -> Run:
    experiment = Experiment(Recipe.named(recipe, settings))
    run = Run.create(folder, experiment)
    with Session(run, experiment) as session:
        for _ in session:
            pass
    return run


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("digits") / "run", "digits-pcd", DIGITS)


def never(*_, **__):
    raise AssertionError("something was drawn")


def test_after_evaluate_neither_report_nor_doctor_draws_anything(cli, digits, monkeypatch):
    words = ("evaluate", digits.path, "--n", "40", "--steps", "4", "--seed", "7", "--json")
    assert cli(*words)[0] == 0
    status, fresh, _ = cli("doctor", digits.path, "--json")
    for name in ("sample", "sampling", "restore", "inpaint"):
        monkeypatch.setattr(f"energyscape.inference.Trained.{name}", never)
    for name in ("energyscape.doctor.from_run.ask", "energyscape.metrics.ood._scored"):
        monkeypatch.setattr(name, never)
    assert cli("report", digits.path, "--out", "page.html")[0] == 0
    assert cli("doctor", digits.path, "--json")[:2] == (status, fresh)
    numbers = json.loads(cli(*words)[1])
    page = Path("page.html").read_text(encoding="utf-8")
    for title, each in numbers.items():
        assert f"<td>{title}</td><td>{each['value']:.4g}</td>" in page.replace("\n", "")


def test_another_seed_n_or_checkpoint_is_measured_anew(digits):
    first = evaluate(digits, n=20, only=["recognised"])
    same, seed, n = (
        evaluate(digits, only=["recognised"], **how) for how in ({"n": 20}, {"n": 20, "seed": 7}, {"n": 24})
    )
    assert same.metrics == first.metrics
    assert len({each.evidence.origin for each in (first, seed, n)}) == 3
    experiment = digits.experiment()
    with torch.no_grad():
        next(experiment.best.parameters()).add_(1)
    assert Evidence(experiment, n=20).origin != first.evidence.origin


def test_only_some_metrics_are_measured_and_the_record_keeps_the_others(digits):
    evaluate(digits, n=20, seed=3, only=["acceptance"])
    evaluate(digits, n=20, seed=3, only=["recognised"])
    record = json.loads((digits.path / "evaluation.json").read_text())
    assert [*record["metrics"]] == ["acceptance", "recognised"]
    assert record["classifier"]["accuracy"] > 0.9
    with pytest.raises(UserError, match="kl: not a metric of this run; those are recognised, "):
        evaluate(digits, only=["kl"])
    with pytest.raises(UserError, match=r"no metric named 'recognized'.*did you mean 'recognised'"):
        evaluate(digits, only=["recognized"])


def test_a_damaged_record_is_one_line(cli, digits):
    (digits.path / "evaluation.json").write_text("{")
    status, _, err = cli("evaluate", digits.path, "--n", "20")
    assert (status, "evaluation.json" in err, err.count("\n")) == (2, True, 1)
    (digits.path / "evaluation.json").unlink()


def test_damaged_draws_are_drawn_again_and_a_damaged_number_is_one_line(cli, digits):
    sound = evaluate(digits, n=20, only=["recognised"]).evidence.generated
    path = digits.path / "evaluation" / "samples.safetensors"
    content = bytearray(path.read_bytes())
    for place in (20, len(content) // 2, len(content) - 3):
        path.write_bytes(bytes([*content[:place], content[place] ^ 64, *content[place + 1 :]]))
        again = evaluate(digits, n=20, only=["training-distance"]).evidence.generated
        assert torch.equal(again.x, sound.x)
    record = json.loads((digits.path / "evaluation.json").read_text())
    record["metrics"]["recognised"][0]["value"] = "high"
    (digits.path / "evaluation.json").write_text(json.dumps(record))
    status, _, err = cli("report", digits.path)
    assert (status, "evaluation.json" in err, err.count("\n")) == (2, True, 1)
    (digits.path / "evaluation.json").unlink()


@pytest.mark.parametrize("recipe", ["8gaussians-dsm", "8gaussians-edm"])
def test_a_new_kind_of_data_trains_samples_evaluates_and_reports(cli, monkeypatch, recipe):
    monkeypatch.setitem(DATASETS._entries, "sphere", contributed()["Sphere"])
    settings = {"train.budget": "2560", "data.name": "sphere", "sampler.steps": "10"}
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    for command in (["train", recipe, *words, "--out", "run"], ["sample", "run", "--n", "9", "--out", "x.npy"]):
        status, _, err = cli(*command)
        assert status == 0, err
    assert np.load("x.npy").shape == (9, 5)
    status, out, err = cli("evaluate", "run", "--n", "50", "--json")
    assert status == 0, err
    assert {"MMD²", "energy distance", "sliced Wasserstein²"} <= set(json.loads(out))
    assert cli("report", "run")[0] == 0
    assert "principal components" in Path("run/report.html").read_text(encoding="utf-8")
    assert cli("doctor", "run")[0] in (0, 1, 2)


def test_a_metric_is_one_class_and_one_line(cli, monkeypatch, tmp_path):
    monkeypatch.setitem(METRICS._entries, "radius", contributed()["Radius"])
    run = trained(tmp_path / "run", "8gaussians-pcd", POINTS)
    assert "Mean norm of the samples." in cli("list", "metrics")[1]
    found = json.loads(cli("evaluate", run.path, "--only", "radius", "--n", "50", "--json")[1])
    assert found["radius"]["value"] > 0
    assert "radius" in json.loads((run.path / "evaluation.json").read_text())["metrics"]


def test_a_run_samples_without_its_data_set(cli, digits, monkeypatch):
    assert cli("sample", digits.path, "--n", "5", "--out", "with.npy")[0] == 0
    monkeypatch.setattr("energyscape.recipe.Experiment._data", never)
    assert cli("sample", digits.path, "--n", "5", "--out", "without.npy")[0] == 0
    assert np.array_equal(np.load("with.npy"), np.load("without.npy"))
    kept = digits.path / "reference.safetensors"
    content = kept.read_bytes()
    kept.write_bytes(content[:-9])
    status, _, err = cli("sample", digits.path, "--n", "5")
    assert (status, "reference.safetensors" in err, err.count("\n")) == (2, True, 1)
    kept.write_bytes(content)


def test_modes_of_unequal_mass_have_their_share_under_the_truth():
    law = FourSquares(shares=(0.4, 0.3, 0.2, 0.1))
    assert mode_shares(law, lambda x: -law.log_prob(x), temperature=1.0) == pytest.approx([1.0] * 4, abs=1e-3)
    warm = mode_shares(law, lambda x: -law.log_prob(x), temperature=2.0)
    root = [math.sqrt(share) for share in (0.4, 0.3, 0.2, 0.1)]
    wanted = [each / sum(root) / share for each, share in zip(root, (0.4, 0.3, 0.2, 0.1), strict=True)]
    assert sorted(warm) == pytest.approx(sorted(wanted), rel=0.01)


def test_a_landscape_is_energy_over_temperature():
    experiment = Experiment(Recipe.named("8gaussians-pcd", {"objective.kernel.temperature": "2.0"}))
    experiment.model, experiment.average = Gaussian(torch.zeros(2), torch.eye(2)), None
    grid = energies_on_grid(experiment.trained, ((-1.0, 1.0), (-3.0, 3.0)), side=3)
    # |x|² / 2 over T = 2, the first index along the first coordinate.
    torch.testing.assert_close(grid, torch.tensor([[2.5, 0.25, 2.5], [2.25, 0.0, 2.25], [2.5, 0.25, 2.5]]))
