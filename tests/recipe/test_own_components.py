"""Components in a user's own file, named ``module:Name``."""

import os
import subprocess
import sys

import numpy as np
import pytest

from energyscape.errors import UserError
from energyscape.objectives import OBJECTIVES
from energyscape.recipe import Experiment
from energyscape.runs import Run

MINE = '''
from typing import TYPE_CHECKING

import torch
from torch import nn

from energyscape.data import Dataset
from energyscape.metrics import Measure, Metric
from energyscape.noise import noised
from energyscape.objectives.base import Loss, Objective
from energyscape.samplers import Langevin

if TYPE_CHECKING:
    from energyscape.models import Energy


class Contrast(Objective):
    def __init__(self, *, sigma: float = 1.0) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, model: "Energy", x, label=None, *, generator=None):
        y, _ = noised(x, self.sigma, generator=generator)
        return Loss(nn.functional.softplus(model(x) - model(y)).mean(), {})


class Net(nn.Module):
    def __init__(self, shape, *, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape[0], width), nn.SiLU(), nn.Linear(width, 1, bias=False))

    def forward(self, x):
        return self.layers(x).squeeze(1)


class Ring(Dataset):
    def __init__(self, *, radius: float = 2.0) -> None:
        self.radius = radius

    @property
    def shape(self):
        return (2,)

    def drawing(self, sizes, *, generator):
        for n in sizes:
            x = torch.randn(n, 2, generator=generator)
            yield self.radius * x / x.norm(dim=1, keepdim=True)


class Constant(Measure):
    def applies(self, evidence):
        return True

    def measure(self, evidence):
        return [Metric("radius of data", float(evidence.source.radius), None, "as set")]


class Kernel(Langevin):
    """Langevin of another name."""
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder holds the user's file under a name that no other test imports."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def energyscape(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "energyscape", *words], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_components_train_evaluate_and_sample(folder, tmp_path):
    own = {
        "data": "Ring",
        "model.network": "Net",
        "objective": "Contrast",
        "sampler.kernel": "Kernel",
    }
    changes = [word for key, name in own.items() for word in (f"--{key}.name", f"{folder}:{name}")]
    step = ["--sampler.kernel.step_size", "0.1", "--sampler.steps", "5", "--train.budget", "2k"]
    energyscape("train", "8gaussians-nce", "--out", "run", *changes, "--data.radius", "3.0", *step)
    assert "radius of data" in energyscape("evaluate", "run", "--only", f"{folder}:Constant,mmd", "--n", "50")
    energyscape("sample", "run", "--n", "3", "--out", "x.npy")
    assert np.load("x.npy").shape == (3, 2)
    experiment: Experiment = Run.open(tmp_path / "run").experiment()
    assert experiment.source.radius == 3.0
    assert {type(each).__name__ for each in (experiment.objective, experiment.model.network)} == {"Contrast", "Net"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Contrast", "there is no module 'no_such_module'"),
        ("{folder}:Contrst", "has no class or function 'Contrst'"),
        ("{folder}:", "has no class or function ''"),
        ("broken:Contrast", "ZeroDivisionError"),
    ],
)
def test_a_component_that_cannot_be_imported_is_one_line(folder, tmp_path, name, message):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=message) as raised:
        OBJECTIVES[name.format(folder=folder)]
    assert "\n" not in str(raised.value)
