"""The examples run, end in a picture, and what they say is so."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from energyscape.data import digits

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        yield


def test_every_example_has_a_test_and_fits_on_a_page():
    here = Path(__file__).read_text()
    for path in EXAMPLES:
        assert f'example("{path.stem}")' in here, path.name
        assert len(path.read_text().splitlines()) <= 70, path.name


def test_the_first_landscape_is_learned(tmp_path, capsys):
    out = tmp_path / "picture.png"
    loss = example("first_landscape").main(samples=400_000, out=out)
    # A normal law of the data's variance would lose 1 + log(2π · 2.03²) - 2.834 = 1.42 nats; a half says it has modes.
    assert loss < 0.7
    assert f"{loss:.4f} nats" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.width > 500


def test_methods_differ_as_documented(tmp_path, capsys):
    out = tmp_path / "picture.png"
    shares = example("how_methods_differ").main(samples=60_000, out=out)
    right = {name: (1 - share) / 0.1 for name, share in shares.items()}
    # Noise contrast is consistent and sees both islands: the small one is right within a half after a short training.
    assert 1 / 1.5 < right["noise contrast"] < 1.5
    # Score matching does not see how many data there are on the right: it is off by several times.
    assert abs(math.log(right["score matching"])) > math.log(2)
    assert capsys.readouterr().out.count("the data have 90%") == len(shares)
    with Image.open(out) as picture:
        assert picture.height > 500


def test_compositions_are_sampled_and_a_sum_of_scores_is_not(tmp_path, capsys):
    out = tmp_path / "picture.png"
    found = example("compositions").main(chains=2000, out=out)
    assert max(found[name] for name in ("both", "either", "the ring without the blobs")) < 0.05
    assert found["sum"] > 0.1
    assert f"{found['sum']:.3f} nats" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.height > 500


def test_samplers_fail_as_documented(tmp_path, capsys):
    out = tmp_path / "picture.png"
    results = example("how_samplers_fail").main(steps=600, out=out)
    truth = 2.834  # the entropy, which is the mean energy of exact draws
    assert results["healthy"]["mean energy"] == pytest.approx(truth, abs=0.1)
    assert results["unstable"]["drift / noise"] > 1.5
    assert results["unstable"]["mean energy"] > truth + 3
    assert results["frozen"]["moved"] < 0.1 < 1 < results["healthy"]["moved"]
    assert results["frozen"]["drift / noise"] < 0.1
    assert results["noise-dominated"]["mean energy"] > truth + 10
    with Image.open(out) as picture:
        assert picture.height > 500


def test_the_journey_through_failures_is_refused(tmp_path, capsys):
    out = tmp_path / "picture.png"
    named = example("failure_journey").main(samples=10_000, steps=60, out=out)
    assert named == {"noise": "hot_chains", "black and white": "long_step", "noise again": "one_noise_level"}
    printed = capsys.readouterr().out
    assert "T = 50" in printed
    assert "--objective.name denoising" in printed
    with Image.open(out) as picture:
        assert picture.height > 500


def test_the_notebook_on_replay_buffers_runs_and_draws(tmp_path, capsys):
    path = ROOT / "docs" / "notebooks" / "replay_buffer.py"
    settings = {"images": digits(), "samples": 1_280, "width": 4, "steps": (2, 16), "out": tmp_path}
    namespace: dict = {"settings": settings}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    for name in ("gap", "from-noise", "from-data"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 400, name
    assert len(namespace["short"]) == len(namespace["kept"]) == 20
    # Chains that go on from where they were have been through forty times as many steps as are taken at once.
    assert namespace["kept"][-1].facts["age"] >= 1
    assert "age" not in namespace["short"][-1].facts
    assert "noise of 0.6 removed" in capsys.readouterr().out


def test_the_notebook_on_noise_conditional_scores_runs_and_draws(tmp_path, capsys):
    path = ROOT / "docs" / "notebooks" / "noise_conditional_scores.py"
    namespace: dict = {"settings": {"samples": 12_800, "width": 64, "out": tmp_path}}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    for name in ("levels", "samples", "evolution", "classes"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 200, name
    # The ladder is the one that the data ask for, and samples that came down it are of the data's size.
    assert "levels from" in capsys.readouterr().out
    assert namespace["path"][0].std() == pytest.approx(namespace["high"], rel=0.05)
    assert namespace["path"][-1].square().mean().sqrt() == pytest.approx(namespace["size"], rel=0.5)  # hardly trained
    high = [report.facts["relative_high"] for report in namespace["reports"]]
    assert sum(high[-10:]) < 0.7 * sum(high[:10])
    assert namespace["rows"].shape == (100, 1, 8, 8)


def test_the_notebook_on_denoising_diffusion_runs_and_draws(tmp_path):
    path = ROOT / "docs" / "notebooks" / "denoising_diffusion.py"
    settings = {"images": digits(), "samples": 3_200, "width": 16, "ancestral": 20, "out": tmp_path}
    namespace: dict = {"settings": settings}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    for name in ("loss", "ways"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 400, name
    assert set(namespace["rows"]) == {
        "DDPM, 20 evaluations",
        "DDIM, 20 evaluations",
        "Heun, 19 evaluations",
        "DPM-Solver++, 20 evaluations",
    }
    # Two ways to solve one equation, from the same noise, come to nearly the same images; the third draws more noise.
    heun, fast, slow = (namespace["rows"][name] for name in list(namespace["rows"])[2:] + list(namespace["rows"])[:1])
    assert (heun - fast).square().mean() < 0.5 * (heun - slow).square().mean()
