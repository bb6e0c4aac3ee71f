"""Every recipe that comes with energyscape, stopped and gone on with: the same bits as one that was not."""

import struct

import numpy as np
import pytest

from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.runs import Run, Session

SMALL = {"train.budget": "96", "train.batch_size": "16", "train.checkpoint_every": "32", "train.frames": "0"}
NARROW = {"unet": "16", "resnet": "16", "mlp": "16", "conv": "4", "residual": "8", "noise-conv": "8", "noise-mlp": "16"}


def noise_as(folder, kind: str) -> None:
    """Writes images of noise in the layout of a published set."""
    draws, n = np.random.default_rng(0), 40
    if kind == "mnist":
        for half in ("train", "t10k"):
            pixels, labels = draws.integers(0, 256, (n, 28, 28)), draws.integers(0, 10, n)
            for stem, values in ((f"{half}-images-idx3-ubyte", pixels), (f"{half}-labels-idx1-ubyte", labels)):
                sizes = struct.pack(f">{values.ndim}I", *values.shape)
                (folder / stem).write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())
        return
    place = folder / "cifar-10-batches-bin"
    place.mkdir()
    for stem in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        rows = np.concatenate([draws.integers(0, 10, (n, 1)), draws.integers(0, 256, (n, 3072))], 1)
        (place / f"{stem}.bin").write_bytes(rows.astype(np.uint8).tobytes())


def small(name: str, folder) -> dict[str, str]:
    """Returns settings under which a recipe takes six steps in seconds, with all of its parts."""
    tables = Recipe.named(name).tables
    data = tables["data"]["name"]
    changes, network, path = dict(SMALL), tables["model"].get("network", {}), "model.network"
    if data in ("mnist", "cifar10"):
        changes["data.root"] = str(folder)
    while "network" in network:  # a head around a network
        network, path = network["network"], f"{path}.network"
    if network.get("name") in NARROW:
        changes[f"{path}.width"] = NARROW[network["name"]]
    if "attention" in network:
        changes[f"{path}.blocks"] = "1"
    if tables["objective"].get("start", {}).get("name") == "buffer":
        changes["objective.start.capacity"] = "64"
    return changes


def trained(path, name: str, changes: dict[str, str], *, until: int | None = None) -> Run:
    experiment = Experiment(Recipe.named(name, changes))
    with Session(Run.create(path, experiment), experiment) as session:
        for report in session:
            if until is not None and report.samples >= until:
                session.keep()
                break
    return Run.open(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_stopped_and_resumed_has_the_same_bits(tmp_path, name):
    for kind in ("mnist", "cifar10"):
        if name.startswith(kind):
            noise_as(tmp_path, kind)
    changes = small(name, tmp_path)
    whole = trained(tmp_path / "whole", name, changes)
    trained(tmp_path / "broken", name, changes, until=48)
    broken = trained(tmp_path / "broken", name, changes)
    last = whole.checkpoints()[-1].name
    assert broken.checkpoints()[-1].name == last
    assert (whole.path / "checkpoints" / last).read_bytes() == (broken.path / "checkpoints" / last).read_bytes()
    assert whole.metrics_path.read_bytes() == broken.metrics_path.read_bytes()
