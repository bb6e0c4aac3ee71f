"""The command line as a user types it: what it does, and how it answers mistakes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from energyscape.cli import main
from energyscape.inference import Generated
from energyscape.recipe import Recipe
from energyscape.runs import Run

PLANE = ["--model.network.width", "16", "--objective.steps", "2", "--sampler.steps", "20", "--train.batch_size", "64"]
TINY = [*PLANE, "--train.budget", "1280", "--train.checkpoint_every", "640", "--objective.start.capacity", "128"]
DIGITS = [
    *("--model.network", '{name = "mlp", width = 16}', "--objective.steps", "2", "--sampler.steps", "20"),
    *("--train.batch_size", "32", "--train.budget", "640", "--objective.start.capacity", "64"),
]


@pytest.fixture(scope="module")
def plane(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plane") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["train", "8gaussians-pcd", *TINY, "--out", str(path)])
    assert not exit_.value.code
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["train", "digits-pcd", *DIGITS, "--out", str(path)])
    assert not exit_.value.code
    return path


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def array(path: str) -> np.ndarray:
    with np.load(path) as file:
        return file["x"]


def refused(answer: tuple[int, str, str], *words: str) -> None:
    """One line on stderr that says what is wrong, a non-zero exit, no traceback."""
    status, _, err = answer
    lines = [line for line in err.splitlines() if line]
    assert status == 2, err
    assert len(lines) == 1, err
    for each in words:
        assert each in lines[0]


def test_train_resumes_and_a_finished_run_says_so(cli, plane):
    before = {file.name: file.read_bytes() for file in plane.rglob("*") if file.is_file()}
    status, out, _ = cli("train", "8gaussians-pcd", *TINY, "--out", plane)
    assert status == 0
    assert "is finished (1,280 samples)" in out
    assert {file.name: file.read_bytes() for file in plane.rglob("*") if file.is_file()} == before


def test_default_folder_is_named_after_recipe_and_settings(cli):
    assert cli("train", "8gaussians-pcd", *TINY, "--seed", "3")[0] == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("8gaussians-pcd+")
    assert "seed=3" in folder.name
    assert Run.open(folder).recipe().tables["train"]["seed"] == 3


@pytest.mark.parametrize("start", ["noise", "data", "buffer"])
def test_sample_writes_numbers_and_pictures_and_repeats_itself(cli, plane, start):
    assert cli("sample", plane, "--n", 7, "--start", start, "--out", "a.npz")[0] == 0
    assert cli("sample", plane, "--n", 7, "--start", start, "--out", "b.npz")[0] == 0
    assert cli("sample", plane, "--n", 7, "--start", start, "--out", "c.npz", "--seed", 5)[0] == 0
    a, b, c = (array(f"{name}.npz") for name in "abc")
    assert a.shape == (7, 2)
    assert (a == b).all()
    assert not (a == c).any()
    assert cli("sample", plane, "--n", 3, "--out", "points.csv")[0] == 0
    assert np.loadtxt("points.csv", delimiter=",").shape == (3, 2)
    assert cli("sample", plane, "--n", 3, "--out", "points.png")[0] == 0
    assert size("points.png")[0] > 300


def test_sample_of_images_is_a_grid(cli, digits):
    assert cli("sample", digits, "--n", 4, "--out", "grid.png")[0] == 0
    width, height = size("grid.png")
    assert width == height
    assert width >= 64
    assert cli("sample", digits, "--n", 4, "--out", "x.npy")[0] == 0
    x = np.load("x.npy")
    assert x.shape == (4, 1, 8, 8)
    assert np.abs(x).max() <= 1


def test_denoise_reads_pictures_and_arrays(cli, digits):
    rng = np.random.default_rng(0)
    np.save("noisy.npy", rng.normal(size=(3, 1, 8, 8)).astype(np.float32))
    assert cli("denoise", digits, "noisy.npy", "--sigma", 0.4, "--steps", 8)[0] == 0
    assert np.load("noisy-restored.npy").shape == (3, 1, 8, 8)
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save("noisy.png")
    assert cli("denoise", digits, "noisy.png", "--sigma", 0.4, "--steps", 8, "--out", "clean.png")[0] == 0
    assert size("clean.png")[0] >= 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("denoise", "RUN", ".", "--sigma", "0.4"), "expected one of .png"),
        (("inpaint", "RUN", ".", "--mask", "mask.npy"), "expected one of .png"),
        (("inpaint", "RUN", "image.npy", "--mask", "mask.npy", "--n", "9" * 20), "of memory are available"),
    ],
)
def test_files_without_a_name_and_endless_draws_are_one_line(cli, digits, words, message):
    np.save("image.npy", np.linspace(-1, 1, 64).reshape(1, 8, 8))
    np.save("mask.npy", np.ones((8, 8), dtype=bool))
    refused(cli(*(str(digits) if each == "RUN" else each for each in words)), message)


def test_evaluate_prints_a_table_and_json(cli, plane):
    status, out, _ = cli("evaluate", plane)
    assert status == 0
    assert "KL(data‖model)" in out
    status, out, _ = cli("evaluate", plane, "--json")
    figures = json.loads(out)
    assert figures["KL(data‖model), nats"]["value"] > 0
    assert figures["KL(data‖model), nats"]["protocol"]


def test_report_is_one_file_without_network(cli, digits, plane):
    for run in (digits, plane):
        assert cli("report", run)[0] == 0
        text = (run / "report.html").read_text()
        assert "http://" not in text
        assert "https://" not in text
        assert "data:image/png;base64," in text
        assert "[objective]" in text


def test_a_run_that_a_guard_stopped_says_why_and_how_to_go_on(cli):
    nervous = ["--guard.gradient_factor", "1.01", "--guard.rollbacks", "0", "--train.budget", "64k", "--out", "run"]
    command = ["train", "8gaussians-pcd", *PLANE, *nervous]
    status, out, err = cli(*command)
    why = err.splitlines()[-1]
    assert status == 1
    assert "run: a guard stopped the training at sample" in why
    assert "the learning rate 0.003 is too high, try 0.0009" in why
    assert "To go on: energyscape train run/recipe.toml --train.learning_rate 0.0009 --out run-again" in why
    assert "finished" not in out
    assert cli(*command) == (1, "", f"{why}\n")  # no step is taken again
    for words in (["sample", "run", "--n", "4"], ["report", "run"]):
        status, _, err = cli(*words)
        assert (status, err.splitlines()[0]) == (0, why)
    assert "A guard stopped the training" in Path("run/report.html").read_text()


def test_interrupted_sampling_says_so_and_leaves_nothing(cli, plane, monkeypatch):
    def broken(trained, n, **_):
        yield Generated(torch.zeros(500, 2), torch.zeros(1, 0, 2), [0, 20], 0)
        assert list(Path().glob(".x.npz*"))
        raise KeyboardInterrupt

    monkeypatch.setattr("energyscape.inference.Trained.sampling", broken)
    before = sorted(Path().iterdir())
    assert cli("sample", plane, "--n", 1_000, "--out", "x.npz") == (130, "", "energyscape: interrupted\n")
    assert sorted(Path().iterdir()) == before


def test_what_diverged_is_told_of_all_batches(cli, plane, monkeypatch):
    def two(trained, n, **_):
        for many in (2, 3):
            yield Generated(torch.full((many, 2), 0.5), torch.zeros(1, 0, 2), [0, 20], many)

    monkeypatch.setattr("energyscape.inference.Trained.sampling", two)
    status, out, err = cli("sample", plane, "--n", 5, "--out", "x.npz")
    assert status == 0
    assert "5 proposals were not finite and were rejected" in err
    assert "5 samples from noise, 20 steps: x.npz" in out
    assert array("x.npz").shape == (5, 2)


@pytest.mark.parametrize("what", ["recipes", "datasets", "models", "networks", "objectives", "samplers", "starts"])
def test_list(cli, what):
    status, out, _ = cli("list", what)
    assert status == 0
    expected = {
        "recipes": "digits-pcd",
        "datasets": "mnist",
        "objectives": "dsm",
        "samplers": "mala",
        "starts": "buffer",
    }
    assert expected.get(what, "neural" if what == "models" else "conv") in out


def test_show_prints_a_recipe_as_it_is_written(cli):
    status, out, _ = cli("show", "8gaussians-sm")
    assert status == 0
    Path("mine.toml").write_text(out)
    assert Recipe.named("mine.toml").tables == Recipe.named("8gaussians-sm").tables
    assert "# Result: " in out
    assert cli("show", "mine.toml")[1] == out
    refused(cli("show", "8gausians-sm"), "did you mean '8gaussians-sm'")


def test_mistakes_in_words(cli, plane):
    refused(cli("trian"), "Did you mean", "train")
    refused(cli("train", "digit-pcd"), "did you mean 'digits-pcd'")
    refused(cli("train", "8gaussians-pcd", "--objective.stpes", 3), "did you mean 'steps'")
    refused(cli("train", "8gaussians-pcd", "--data.name", "moon"), "did you mean 'moons'")
    refused(cli("train", "8gaussians-pcd", "--train.budget"), "needs a value")
    refused(cli("train", "8gaussians-pcd", "--train.budget", "soon"), "a budget is")
    refused(cli("train", "8gaussians-pcd", "--train.budget", "2 epochs"), "a law has no epochs")
    refused(cli("sample", "runs/none"), "is no run")
    refused(cli("sample", plane, "--n", 0), "at least 1")
    refused(cli("sample", plane, "--n", "many"), "int")
    refused(cli("sample", plane, "--start", "data", "--out", "x.bmp"), "expected a name ending in")
    refused(cli("list", "things"), "things")
    assert not list(Path().rglob("*"))


def test_mistakes_in_files(cli, digits, plane):
    refused(cli("denoise", digits, "none.png", "--sigma", 0.3), "there is no such file")
    Path("text.png").write_text("hello")
    refused(
        cli("denoise", digits, "text.png", "--sigma", 0.3), "text.png: expected a readable PNG, JPEG or other image"
    )
    Image.new("L", (9, 9)).save("nine.png")
    refused(cli("denoise", digits, "nine.png", "--sigma", 0.3), "8×8", "9×9")
    np.save("flat.npy", np.zeros((3, 7)))
    refused(cli("denoise", digits, "flat.npy", "--sigma", 0.3), "(1, 8, 8)", "(3, 7)")
    np.save("nan.npy", np.full((1, 8, 8), np.nan))
    refused(cli("denoise", digits, "nan.npy", "--sigma", 0.3), "finite", "64 of 64")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(cli("denoise", digits, "objects.npy", "--sigma", 0.3), "expected an array of numbers")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save("eight.png")
    refused(cli("denoise", digits, "eight.png", "--sigma", -1), "sigma is positive")
    refused(cli("denoise", plane, "eight.png", "--sigma", 1), "shape (2,)")
    torch.save({}, "weights.npz")
    refused(cli("denoise", digits, "weights.npz", "--sigma", 0.3), "weights.npz")


def test_pictures_of_every_kind_are_read_right(cli):
    from energyscape.inference.files import read_points

    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    expected = torch.from_numpy(grey / 127.5 - 1).float().reshape(1, 1, 8, 8)
    Image.fromarray(grey).save("grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save("deep.png")
    Image.merge("RGBA", [Image.fromarray(grey)] * 3 + [Image.new("L", (8, 8), 255)]).save("opaque.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save("nothing.png")
    np.save("bytes.npy", grey)
    np.save("floats.npy", expected.numpy().astype(np.float64))
    for name in ("grey.png", "deep.png", "opaque.png", "bytes.npy", "floats.npy"):
        assert torch.allclose(read_points(Path(name), (1, 8, 8)), expected, atol=1e-6), name
    assert (read_points(Path("nothing.png"), (1, 8, 8)) == 1).all()  # nothing on white paper


def test_numbers_of_every_kind_are_read_right(cli, digits):
    from energyscape.inference.files import read_points

    np.save("bytes.npy", np.array([[1, 2]], dtype=np.uint8))  # points are not pixels
    assert read_points(Path("bytes.npy"), (2,)).tolist() == [[1, 2]]
    Path("points.csv").write_bytes(b"\xef\xbb\xbf1,2\r\n3,4\r\n")
    assert read_points(Path("points.csv"), (2,)).tolist() == [[1, 2], [3, 4]]
    np.save("long.npy", np.full((8, 8), 255))
    refused(cli("denoise", digits, "long.npy", "--sigma", 1), "floats on [-1, 1] or bytes", "int64")
    Path("ragged.csv").write_text("1,2\n3\n")
    np.savez("whole.npz", x=np.zeros(1000))
    Path("cut.npz").write_bytes(Path("whole.npz").read_bytes()[:-40])
    for name in ("ragged.csv", "cut.npz"):
        refused(cli("denoise", digits, name, "--sigma", 1, "--out", "x.npy"), name, "cannot be read")


def test_more_chains_than_the_buffer_keeps(cli, plane):
    refused(cli("sample", plane, "--n", 300, "--start", "buffer"), "keeps 128 chains; 300 were asked for")


def test_output_is_checked_before_the_work(cli, plane):
    refused(cli("sample", plane, "--n", 10**9, "--out", "x.txt"), "x.txt: expected a name ending in")


def test_corrupt_idx_file(cli):
    Path("mnist").mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        Path("mnist", name).write_bytes(b"\x00\x00\x08\x03\x00\x00")
    refused(cli("train", "8gaussians-pcd", "--data.name", "mnist", "--data.root", "mnist"), "train-images-idx3-ubyte")


def test_folder_that_cannot_be_written(cli):
    Path("file").write_text("")
    refused(
        cli("train", "8gaussians-pcd", *TINY, "--out", "file/run"), "cannot write file/run", "choose another folder"
    )


def test_full_disk_leaves_what_was_written(cli, monkeypatch, tmp_path):
    """The disk fills up when the second checkpoint is synced."""
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = cli("train", "8gaussians-pcd", *TINY, "--out", "run")
    assert status == 2
    assert "No space left on device" in err.splitlines()[-1]
    assert "run the same command again" in err.splitlines()[-1]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = Run.open(Path("run"))
    assert not list(run.path.rglob("*.part"))
    assert [int(each.stem) for each in run.checkpoints()] == [640]
    assert run.latest() is not None
    status, out, _ = cli("train", "8gaussians-pcd", *TINY, "--out", "run")
    assert (status, "going on at sample 640" in out) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_ends_on_a_checkpoint(tmp_path, number):
    command = [sys.executable, "-m", "energyscape.cli", "train", "8gaussians-pcd", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "run" / "metrics.jsonl").exists() and (tmp_path / "run" / "metrics.jsonl").stat().st_size:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    snapshot = Run.open(tmp_path / "run").latest()
    assert snapshot is not None
    assert f"stopped at sample {snapshot.tree['clock']['samples']:,}" in out


def test_help_and_import_do_not_load_torch():
    code = "import sys, energyscape, energyscape.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    help_ = subprocess.run(
        [sys.executable, "-m", "energyscape.cli", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("train", "sample", "denoise", "evaluate", "report", "list"):
        assert command in help_.stdout
    same = subprocess.run([sys.executable, "-m", "energyscape", "--help"], capture_output=True, text=True, check=True)
    assert same.stdout == help_.stdout
