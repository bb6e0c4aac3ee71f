"""Denoising and completing held-out images with a small run, beside what needs no learning."""

import html

import numpy as np
import pytest
import torch
from PIL import Image

from energyscape.cli import main
from energyscape.evaluation import psnr
from energyscape.metrics import Evidence
from energyscape.metrics.evaluation import evaluate
from energyscape.metrics.restoration import masks, restorations
from energyscape.models import Gaussian
from energyscape.recipe import Experiment, Recipe
from energyscape.reports.run_page import denoising_section, inpainting_section, run_page
from energyscape.runs import Run, Session


@pytest.fixture(scope="module")
def gaussian():
    """An experiment on digits whose energy is that of the Gaussian with the mean and covariance of noised digits."""
    experiment = Experiment(Recipe.named("digits-pcd", {"model.network.width": "8", "sampler.steps": "20"}))
    level, x = experiment.objective.level, experiment.source.floats().double()
    covariance = x.flatten(1).mT.cov() + level**2 * torch.eye(64)
    experiment.model, experiment.average = Gaussian(x.mean(0).float(), covariance.float()), None
    return experiment


def test_the_best_linear_prior_beats_the_median_filter(gaussian, monkeypatch):
    monkeypatch.setattr("energyscape.metrics.restoration.IMAGES", 32)
    restored = restorations(Evidence(gaussian, seed=0))[1]
    assert list(restored.ways) == ["noisy", "restored", "one step", "median"]
    gain = restored.gain("median")
    assert float(gain.mean()) > 5 * float(gain.std()) / 32**0.5
    for name, x in restored.ways.items():
        assert x.abs().max() <= 1
        row = next(row for row in restored.rows() if str(row[1]).startswith(name))
        assert row[0] == 0.3
        assert row[2] == pytest.approx(float(psnr(x, restored.clean).mean()))
    figures = {each.title: each.value for each in restored.metrics()}
    assert figures["PSNR over median filter at σ = 0.6, dB"] == pytest.approx(float(gain.mean()))
    assert figures["PSNR over noisy at σ = 0.6, dB"] == pytest.approx(float(restored.gain("noisy").mean()))


def test_the_report_shows_every_level_and_every_mask(gaussian, monkeypatch):
    monkeypatch.setattr("energyscape.metrics.restoration.IMAGES", 4)
    evidence = Evidence(gaussian, seed=0)
    section = denoising_section(evidence)
    assert len(section.table) == 1 + 3 * 4
    assert len(section.figures) == 3
    section = inpainting_section(evidence)
    assert [caption.split(" is missing")[0] for _, caption in section.figures] == [
        "The " + name for name in masks((1, 8, 8))
    ]


def test_masks_hide_a_part():
    hidden = {name: float(mask.double().mean()) for name, mask in masks((1, 28, 28)).items()}
    assert hidden["lower half"] == hidden["right half"] == 0.5
    assert 0.1 < hidden["middle"] < 0.25


def test_the_command_completes_a_picture(tmp_path, capsys):
    settings = {"model.network.width": "8", "sampler.steps": "5", "train.budget": "256", "train.batch_size": "64"}
    experiment = Experiment(Recipe.named("digits-pcd", settings | {"objective.start.capacity": "64"}))
    run = Run.create(tmp_path / "run", experiment)
    with Session(run, experiment) as session:
        for _ in session:
            pass
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "picture.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ["inpaint", str(run.path), str(tmp_path / "picture.png"), "--mask", str(tmp_path / "mask.png"), "--n", "3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "out.npy")])
    assert ended.value.code == 0
    assert "3 completions of 32 missing pixels of 64" in capsys.readouterr().out
    x = np.load(tmp_path / "out.npy")
    known = np.asarray(Image.open(tmp_path / "picture.png")) / 127.5 - 1
    assert x.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(x[:, 0, :4], np.broadcast_to(known[:4], (3, 4, 8)), atol=1e-6)
    assert np.abs(x[0] - x[1]).max() > 0
    Image.fromarray(0 * mask).save(tmp_path / "mask.png")
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "no pixel is missing" in capsys.readouterr().err


def test_evaluate_and_report_give_the_same_figures_under_the_same_names(tmp_path):
    settings = {"model.network.width": "8", "sampler.steps": "5", "train.budget": "256", "train.batch_size": "64"}
    experiment = Experiment(Recipe.named("digits-pcd", settings | {"objective.start.capacity": "64"}))
    run = Run.create(tmp_path / "run", experiment)
    with Session(run, experiment) as session:
        for _ in session:
            pass
    evaluation = evaluate(run, seed=3)
    page = html.unescape(run_page(run, seed=3))
    for each in evaluation.metrics:
        cells = (each.title, each.shown, each.shown_error, each.protocol)
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page.replace("\n", ""), each.name
