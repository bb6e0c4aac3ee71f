"""Truth of the documents: their code runs, their commands exist, their links resolve."""

import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import cases
from energyscape import cli
from energyscape.errors import UserError
from energyscape.objectives import OBJECTIVES
from energyscape.recipe import Recipe, overrides_from, recipe_header, recipe_names, recipe_text
from energyscape.registry import Registry, build

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")),
    *(ROOT / "docs").rglob("*.md"),
]


def blocks(document: Path, language: str) -> list[str]:
    fences = re.findall(rf"^( *)```{language}\n(.*?)^ *```", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [dedent(body) for _, body in fences]


def test_the_readme_s_python_learns_and_samples_eight_gaussians(capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    x = namespace["chain"].x
    assert x.shape == (100, 512, 2)
    # The law's radius is 2.83: chains that began within the circle have found it.
    assert x.norm(dim=-1).median() == pytest.approx(2.83, abs=0.2)
    assert namespace["chain"].accept_prob.mean() > 0.8
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_readme_s_commands_are_words_of_the_command_line():
    lines = [line.split("#")[0] for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if "energyscape" in line]
    assert len(commands) > 6
    for words in commands:
        command, *rest = words[[word.endswith("energyscape") for word in words].index(True) + 1 :]
        function, bound, unused = cli.app.parse_known_args([command, *rest])[:3]
        assert function.__name__.strip("_") == command
        assert not unused
        if command == "train":
            assert rest[0] in recipe_names()
            Recipe.named(rest[0], overrides_from(bound.args[1:])).resolved()


def contributed() -> dict:
    """The names that the code of CONTRIBUTING defines."""
    names: dict = {}
    for code in blocks(ROOT / "CONTRIBUTING.md", "python"):
        exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_objective_of_contributing_is_an_objective():
    names = contributed()
    registry = Registry("objective", {**OBJECTIVES, "cnce": names["ConditionalNCE"]})
    objective = build(registry, "cnce", {"sigma": 0.5})
    with pytest.raises(UserError, match="did you mean 'sigma'"):
        build(registry, "cnce", {"sgima": 0.5})
    slopes = {}
    for p in (0.15, 0.25, 0.4):  # the inverse variance of the data is 0.25
        energy, result = cases.Quadratic(p), []
        for seed in range(40):
            loss = objective(energy, 2 * cases.normal(512, 2, seed=seed), generator=cases.generator(1000 + seed)).value
            result.append(torch.autograd.grad(loss, energy.p)[0])
        slopes[p] = cases.z_score(torch.stack(result))
    # Five standard errors: at the truth the slope is none, on either side it points back.
    assert abs(slopes[0.25]) < 5
    assert slopes[0.15] < -5
    assert slopes[0.4] > 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        assert link.startswith("https://") or (document.parent / link.split("#")[0]).exists(), link


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_begins_with_what_it_trains_its_result_its_cost_and_notes(name):
    trains, *labelled = recipe_header(name)
    assert trains.endswith(".")
    assert [line.split(": ")[0] for line in labelled] == ["Result", "Cost", "Notes"]
    assert re.search(r"\d", labelled[0])
    assert recipe_text(name).splitlines()[4] == ""
