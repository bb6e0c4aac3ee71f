"""`energyscape score` as a user types it, and what evaluate says of weights that are not there."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from energyscape.cli import main
from energyscape.inference.scoring import energies
from energyscape.runs import Run

TINY = ["--train.batch_size", "32", "--train.budget", "320", "--objective.steps", "2", "--sampler.steps", "10"]
SMALL = [*TINY, "--objective.start.capacity", "64", "--model.network.width", "16"]


def trained(folder, recipe, *settings) -> Path:
    with pytest.raises(SystemExit) as exit_:
        main(["train", recipe, *SMALL, *settings, "--out", str(folder / "run")])
    assert not exit_.value.code
    return folder / "run"


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("plane"), "8gaussians-pcd")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("images"), "digits-pcd", "--model.network", '{name = "mlp", width = 16}')


def table(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refused(answer: tuple[int, str, str], *words: str) -> None:
    status, _, err = answer
    lines = [line for line in err.splitlines() if line]
    assert status == 2, err
    assert len(lines) == 1, err
    for each in words:
        assert each in lines[0]


def test_points_get_their_energies(cli, plane):
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    np.savetxt("points.csv", x, delimiter=",")
    status, out, _ = cli("score", plane, "points.csv")
    assert status == 0
    assert "7 scored" in out
    rows = table("scores.csv")
    assert [row["index"] for row in rows] == [str(i) for i in range(7)]
    expected = energies(Run.open(plane).experiment().trained, torch.from_numpy(x)).tolist()
    assert [float(row["energy"]) for row in rows] == pytest.approx(expected, rel=1e-5)
    shares = [float(row["quantile"]) for row in rows]
    # A higher energy is a higher quantile.
    assert [shares[i] for i in np.argsort(expected)] == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_images_of_every_kind_and_the_same_twice(cli, images):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    np.save("bytes.npy", pixels)
    np.savez("floats.npz", x=pixels.astype(np.float32) / 127.5 - 1)
    Image.fromarray(pixels[0]).save("one.png")
    for name in ("bytes.npy", "floats.npz", "one.png"):
        assert cli("score", images, name, "--out", f"{name}.csv")[0] == 0
    one, same, first = (table(f"{name}.csv") for name in ("bytes.npy", "floats.npz", "one.png"))
    read = [[float(row["energy"]) for row in rows] for rows in (one, same)]
    assert read[0] == pytest.approx(read[1], rel=1e-5)
    assert len(first) == 1
    assert cli("score", images, "bytes.npy", "--out", "again.csv", "--draws", 4)[0] == 0
    assert Path("again.csv").read_bytes() == Path("bytes.npy.csv").read_bytes()
    assert cli("score", images, "bytes.npy", "--out", "other.csv", "--seed", 5)[0] == 0
    assert Path("other.csv").read_bytes() != Path("again.csv").read_bytes()


def test_an_energy_that_is_not_finite_is_reported_and_written(cli, plane):
    np.save("far.npy", np.array([[0.0, 0.0], [1e30, 0.0]], dtype=np.float32))
    status, _, err = cli("score", plane, "far.npy")
    rows = table("scores.csv")
    assert status == 0
    if not np.isfinite(float(rows[1]["energy"])):
        assert "1 of 2 energies" in err
    assert len(rows) == 2


def test_mistakes(cli, images, plane):
    np.save("flat.npy", np.zeros((3, 7)))
    refused(cli("score", images, "flat.npy"), "(1, 8, 8)", "(3, 7)")
    refused(cli("score", images, "none.npy"), "there is no such file")
    refused(cli("score", "runs/none", "flat.npy"), "is no run")
    np.save("nan.npy", np.full((1, 8, 8), np.nan))
    refused(cli("score", images, "nan.npy"), "finite")
    np.save("good.npy", np.zeros((1, 8, 8)))
    refused(cli("score", images, "good.npy", "--out", "scores.txt"), "ends in .csv")
    refused(cli("score", images, "good.npy", "--draws", 0), "at least 1 draw")
    refused(cli("evaluate", images, "--inception-weights", "none.pth"), "none.pth: there is no such file")
    refused(cli("evaluate", plane, "--inception-weights", "none.pth"), "of images; this run's are points")
    refused(cli("evaluate", images, "--n", 2), "at least 4 samples")
    assert not list(Path().glob("*.csv"))
    assert not list(Path().glob(".*"))


def test_evaluate_has_outliers_and_says_how_samples_were_made(cli, images):
    status, out, _ = cli("evaluate", images, "--n", 20, "--steps", 3, "--json")
    figures = json.loads(out)
    assert status == 0
    assert "20 samples from noise, 3 steps" in figures["recognised"]["protocol"]
    assert "AUROC grey, energy" in figures
    assert "AUROC noise, nearest neighbour" in figures
    assert "Fréchet distance" in figures
