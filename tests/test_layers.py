"""The order of the modules: a file imports only from what stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import energyscape

ROOT = Path(energyscape.__file__).parent

ORDER = [
    ("errors",),
    ("memory", "registry", "rng"),
    ("files",),
    ("calculus",),
    ("noise", "schedules"),
    ("data",),
    ("models",),
    ("samplers",),
    ("objectives",),
    ("training",),
    ("evaluation",),
    ("exchange",),
    ("plotting",),
    ("inference",),
    ("recipe",),
    ("runs",),
    ("experiment",),
    ("metrics",),
    ("doctor",),
    ("laboratory",),
    ("reports",),
    ("studio",),
    ("cli",),
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem not in {"__init__", "__main__"})


def imported(path):
    """Returns the modules of this package that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute"
            names = [node.module or ""]
            if node.module == "energyscape":
                names = [f"energyscape.{each.name}" for each in node.names]
        else:
            continue
        yield from ((node.lineno, name.split(".")) for name in names if name.split(".")[0] == "energyscape")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_above(path):
    family = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert family in LEVEL, f"{family} has no place in the order: give it one"
    for line, parts in imported(path):
        if parts[1:2] == ["__version__"]:  # a number, of no layer
            continue
        assert len(parts) > 1, f"{path.name}:{line}: names the module it means, not the package"
        assert parts[1] in LEVEL, f"{path.name}:{line}: there is no module {parts[1]}"
        assert parts[1] == family or LEVEL[parts[1]] < LEVEL[family], f"{path.name}:{line}: {parts[1]} stands below"


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_does_not_import_torch():
    loaded = fresh("import sys, energyscape; dir(energyscape); energyscape.__version__; print(*sys.modules)")
    assert "energyscape" in loaded
    assert not {"torch", "numpy", "matplotlib", "sklearn"} & set(loaded)


def test_every_public_name_is_there():
    names = [name for name in energyscape.__all__ if hasattr(energyscape, name)]
    assert names == energyscape.__all__
    assert dir(energyscape) == energyscape.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        energyscape.nothing  # noqa: B018


def test_names_before_0_2_still_work_with_a_warning():
    from energyscape import noise

    with pytest.warns(DeprecationWarning, match=r"es\.Data is now es\.DataInit"):
        assert energyscape.Data is energyscape.DataInit
    with pytest.warns(DeprecationWarning, match=r"noise\.Karras is now energyscape\.schedules\.Karras"):
        assert noise.Karras is energyscape.Karras
    with pytest.raises(AttributeError):
        _ = noise.Nothing
    from energyscape.experiment.settings import Training

    from energyscape import experiment, recipe

    with pytest.warns(DeprecationWarning, match=r"experiment\.Recipe is now energyscape\.recipe\.Recipe"):
        assert experiment.Recipe is recipe.Recipe
    assert Training.__module__ == "energyscape.recipe.settings"
