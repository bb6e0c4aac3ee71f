"""Frames of a training, and films of it and of chains."""

import numpy as np
import pytest
import torch
from PIL import Image

from energyscape.cli import main
from energyscape.data import Distribution
from energyscape.recipe import Experiment, Recipe
from energyscape.runs import Run, Session
from energyscape.runs.frames import kept_frames


def energyscape(*words):
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, words)))
    return exit_.value.code


SETTINGS = {
    "train.budget": "4000",
    "train.frames": "5",
    "train.checkpoint_every": "1000",
    "sampler.steps": "3",
    "model.network.width": "16",
}


def begun(path):
    experiment = Experiment(Recipe.named("8gaussians-nce", SETTINGS))
    return Run.create(path, experiment), experiment


def trained(path):
    run, experiment = begun(path)
    with Session(run, experiment) as session:
        list(session)
    return run


def test_frames_are_kept_at_even_steps_and_show_the_landscape(tmp_path):
    run = trained(tmp_path / "run")
    frames = kept_frames(run.frames_path)
    assert [frame.seen for frame in frames] == [256, 1024, 1792, 2560, 3328, 4096]
    assert [round(frame.progress, 2) for frame in frames] == [0.06, 0.26, 0.45, 0.64, 0.83, 1.0]
    experiment = run.experiment()
    law = experiment.source
    assert isinstance(law, Distribution)
    n = len(frames[-1].energy)
    points = torch.cartesian_prod(*(torch.linspace(low, high, n) for low, high in law.box))
    with torch.no_grad():
        energy = experiment.trained.require_energy()(points).reshape(n, n)
    assert np.allclose(frames[-1].energy, energy - energy.min(), atol=1e-4)
    assert frames[0].x.shape == frames[-1].x.shape == (300, 2)
    assert not np.allclose(frames[0].energy, frames[-1].energy)


def test_a_run_that_was_stopped_has_the_same_frames_and_the_same_weights(tmp_path):
    whole = trained(tmp_path / "whole")
    run, experiment = begun(tmp_path / "stopped")
    with Session(run, experiment) as session:
        for report in session:
            if report.samples > 1_500:
                session.keep()
                break
    run = trained(tmp_path / "stopped")
    names = sorted(path.name for path in whole.frames_path.iterdir())
    assert names == sorted(path.name for path in run.frames_path.iterdir())
    for name in names:
        assert (whole.frames_path / name).read_bytes() == (run.frames_path / name).read_bytes()
    # Frames draw from streams of their own: a run without them learns the same bits.
    bare = Experiment(Recipe.named("8gaussians-nce", SETTINGS | {"train.frames": "0"}))
    plain = Run.create(tmp_path / "plain", bare)
    with Session(plain, bare) as session:
        list(session)
    assert plain.checkpoints()[-1].read_bytes() == whole.checkpoints()[-1].read_bytes()


def test_films_of_training_and_of_chains(tmp_path, capsys):
    run = trained(tmp_path / "run")
    assert energyscape("animate", run.path) == 0
    with Image.open(run.path / "training.gif") as film:
        assert film.n_frames == 6
    chains = tmp_path / "chains.gif"
    assert energyscape("sample", run.path, "--n", "20", "--steps", "8", "--out", chains) == 0
    with Image.open(chains) as film:
        assert film.n_frames >= 5
        first = np.asarray(film.convert("L")).copy()
        film.seek(film.n_frames - 1)
        assert not np.array_equal(first, np.asarray(film.convert("L")))
    capsys.readouterr()


def test_mistakes(tmp_path, capsys):
    run = trained(tmp_path / "run")
    frame = sorted(run.frames_path.iterdir())[0]
    assert energyscape("animate", run.path, "--out", tmp_path / "film.avi") == 2
    frame.write_bytes(b"nothing")
    assert energyscape("animate", run.path) == 2
    for path in run.frames_path.iterdir():
        path.unlink()
    assert energyscape("animate", run.path) == 2
    assert energyscape("train", "8gaussians-edm", "--train.frames", "3", "--out", tmp_path / "no-energy") == 2
    assert energyscape("train", "8gaussians-nce", "--train.frames", "-1", "--out", tmp_path / "other") == 2
    lines = capsys.readouterr().err.splitlines()
    for line, message in zip(
        lines,
        [
            "ending in .gif or .mp4",
            "expected a frame of a film",
            "--train.frames 40",
            "which this model has not",
            "frames are 0",
        ],
        strict=True,
    ):
        assert message in line
