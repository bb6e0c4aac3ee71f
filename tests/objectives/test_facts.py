"""Facts: every listed column is written by an objective, and every column that is read is listed."""

import re
from pathlib import Path
from typing import get_args

import torch

import cases
import energyscape
from energyscape.objectives import ContrastiveDivergence, ReplayBuffer
from energyscape.objectives.facts import Column, Fact
from energyscape.training.guards.base import Report


def written():
    """The facts of two steps of each objective in the plane, and of one with persistent chains."""
    chains = ContrastiveDivergence(ReplayBuffer(32), cases.KERNELS["langevin"](0.1), steps=2)
    names = set()
    for objective in [*(make() for make in cases.OBJECTIVES.values()), chains]:
        model = cases.learner(objective, dtype=torch.float64)
        optimiser = torch.optim.Adam(model.parameters())
        for step in range(2):
            loss = objective(model, cases.normal(32, 2), generator=cases.generator(step))
            optimiser.zero_grad()
            loss.value.backward()
            optimiser.step()
            names |= set(loss.facts)
    return names


def test_objectives_write_every_listed_fact_and_no_other():
    names = written()
    assert set(get_args(Fact)) <= names
    # A later part of a weighted sum has its number behind the name.
    assert {re.sub(r"_2$", "", name) for name in names} - {"part"} <= set(get_args(Fact))


def test_every_column_that_guards_the_doctor_and_the_report_read_is_listed():
    """The source is searched, because a rule that returns early reads nothing."""
    columns = {name for part in get_args(Column) for name in get_args(part) or (part,)}
    assert set(Report(1, 1, 0.0, 0.0, {}).columns()) <= columns
    root = Path(energyscape.__file__).parent
    read = set()
    for folder, patterns in {
        "doctor": [r'\.(?:now|last|first|began|lost|column)\(\s*"(\w+)"'],
        "training/guards": [
            r'facts\.get\("(\w+)"',
            r'median\("(\w+)"',
            r'values\["(\w+)"',
            r'"(\w+)" in report\.facts',
        ],
        "reports": [r'metrics\["(\w+)"', r'column\("(\w+)"'],
        "cli": [r"""facts\[["'](\w+)"""],
    }.items():
        source = "".join(path.read_text(encoding="utf-8") for path in (root / folder).rglob("*.py"))
        found = {name for pattern in patterns for name in re.findall(pattern, source)}
        assert found, folder
        read |= found
    assert len(read) > 25
    assert read <= columns
