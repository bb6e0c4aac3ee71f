"""Recipes: one TOML file says everything about a run.

Its sections are ``[data] [model] [objective] [sampler] [train] [guard]``. What they may say follows from the
constructors' signatures, so a recipe is checked before anything is built, and a resolved one names every default.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, final

import tomli_w

from energyscape.data import DATASETS
from energyscape.errors import UserError, did_you_mean, shortened
from energyscape.files import foreign, read_bytes, reading
from energyscape.inference import Chains, Descent
from energyscape.models import MODELS
from energyscape.objectives import OBJECTIVES
from energyscape.recipe.settings import Guarding, Training
from energyscape.registry import Registry, completed, schema
from energyscape.samplers import KERNELS

CONTEXT: Final = ("shape",)
"""Parameters of components that the experiment gives, not the recipe."""

FAMILIES: Final[dict[str, Registry]] = {"data": DATASETS, "model": MODELS, "objective": OBJECTIVES}
PLAIN: Final[dict[str, Callable[..., Any]]] = {"sampler": Chains, "train": Training, "guard": Guarding}
SECTIONS: Final = (*FAMILIES, *PLAIN)
LONGEST: Final = 100_000
DEEPEST: Final = 20


def plain(section: str, table: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the dataclass of a section that is no component: a sampler has chains or a solver."""
    return Descent if section == "sampler" and "solver" in table else PLAIN[section]


@final
@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    Args:
        name: The recipe's name, or its file's.
        tables: Its sections.
    """

    name: str
    tables: dict[str, dict[str, Any]]

    @staticmethod
    def named(name: str, overrides: Mapping[str, str] | None = None) -> "Recipe":
        """Return a built-in recipe, or one from a TOML file, with settings replaced as `overridden` does."""
        path = Path(name)
        stem = path.stem if path.suffix == ".toml" else name
        return Recipe(stem, parsed(recipe_text(name), name)).overridden(overrides or {})

    def overridden(self, overrides: Mapping[str, str]) -> "Recipe":
        """Return the recipe with some settings replaced.

        ``overrides`` maps ``section.setting`` to TOML text; a setting of ``[train]`` needs no section. A new ``name``
        of a component drops the old component's settings, and a solver those of the chains, or the other way round.
        """
        tables = _copied(self.tables)
        plainly = dict(_epochs(key, text) for key, text in overrides.items())
        for kind, other in (("solver", "kernel"), ("kernel", "solver")):
            if f"sampler.{kind}.name" in plainly and other in tables.get("sampler", {}):
                tables["sampler"] = {}
        names_first = sorted(plainly.items(), key=lambda item: (item[0].split(".")[-1] != "name", item[0].count(".")))
        for key, text in names_first:
            *path, setting = _full(key).split(".", DEEPEST)
            table = tables.setdefault(path[0], {})
            for step in path[1:]:
                inner = table.setdefault(step, {})
                table[step] = table = {"name": inner} if isinstance(inner, str) else inner
                if not isinstance(table, dict):
                    raise UserError(f"--{key}: {step!r} is not a table, so it has no setting {setting!r}")
            value = text if setting == "name" else _toml_value(text, key)
            if setting == "name" and table.get("name") != value:
                table.clear()
            table[setting] = value
        return Recipe(self.name, tables)

    def resolved(self) -> "Recipe":
        """Return the recipe with every default filled in and every value parsed: ``10k`` is 10000."""
        for section in self.tables:
            if section not in SECTIONS:
                raise UserError(
                    f"recipe {self.name!r}: there is no section [{section}]{did_you_mean(section, SECTIONS)} "
                    f"Known: {', '.join(SECTIONS)}."
                )
        tables: dict[str, dict[str, Any]] = {}
        for section, registry in FAMILIES.items():
            table = self.tables.get(section, {})
            if not isinstance(table, dict) or not isinstance(table.get("name"), str):
                raise UserError(f"recipe {self.name!r}: [{section}] needs a name, one of {', '.join(registry)}")
            settings = dict(table)
            name = settings.pop("name")
            title = f"{registry.family} {name!r}"
            tables[section] = {"name": name, **completed(registry[name], title, settings, hidden=CONTEXT)}
        for section in PLAIN:
            table = self.tables.get(section, {})
            tables[section] = completed(plain(section, table), f"[{section}]", table, hidden=CONTEXT)
        box, kernel = tables["objective"].get("kernel", {}), tables["sampler"].get("kernel", {})
        if "bounds" in box and "bounds" not in kernel and "name" in kernel:  # samples stay where the energy was learned
            known = schema(KERNELS[kernel["name"]])
            kernel.update({key: box[key] for key in ("bounds", "walls") if key in box and key in known})
        return Recipe(self.name, tables)

    def text(self) -> str:
        """Return the recipe as TOML."""
        return tomli_w.dumps(self.tables)

    def differences(self, other: "Recipe") -> list[str]:
        """Return what another recipe says differently, as ``section.setting: here → there``."""
        here, there = _flat(self.tables), _flat(other.tables)
        return [
            f"{key}: {here.get(key, 'unset')} → {there.get(key, 'unset')}"
            for key in sorted({*here, *there})
            if here.get(key) != there.get(key)
        ]


LEAPFROG: Final = ("hmc", "underdamped")
"""Kernels whose step is a length: a Langevin step of half its square."""


def langevin_step(kernel: Mapping[str, Any]) -> float | None:
    """Return the step of a kernel's table as one of Langevin, in squared units of ``x``; None without a step."""
    if "kernel" in kernel:  # of one replica
        return langevin_step(kernel["kernel"])
    size = kernel.get("step_size")
    if size is None:
        return None
    return float(size**2 / 2 if kernel["name"] in LEAPFROG else size)


_FOLDER = resources.files("energyscape") / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with energyscape."""
    return sorted(each.name.removesuffix(".toml") for each in _FOLDER.iterdir() if each.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """Return a recipe as it is written: one that comes with energyscape, or a TOML file."""
    path = Path(name)
    if path.suffix == ".toml":
        with reading(path, "a recipe"):
            return read_bytes(path, limit=LONGEST).decode()
    known = recipe_names()
    if name not in known:
        raise UserError(f"there is no recipe named {name!r}{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def recipe_header(name: str) -> list[str]:
    """Return the lines at the head of a recipe: what it trains, its result, its cost, notes."""
    return [line[2:] for line in takewhile(lambda line: line.startswith("# "), recipe_text(name).splitlines())]


def parsed(text: str, where: str) -> dict[str, dict[str, Any]]:
    """Read the sections of a recipe in TOML; ``where`` names it in messages."""
    tables = read_toml(text, f"recipe {where}")
    stray = [key for key, value in tables.items() if not isinstance(value, dict)]
    if stray:
        raise UserError(f"recipe {where}: {stray[0]!r} stands outside the sections {', '.join(SECTIONS)}")
    return tables


def read_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of TOML text within limits of length and depth."""
    if len(text) > LONGEST:
        raise UserError(f"{where}: at most {LONGEST:,} characters are read; there are {len(text):,}")
    with foreign(f"{where}: not valid TOML"):
        tables = tomllib.loads(text)
    inside: list[Any] = [tables]
    for _ in range(DEEPEST):
        if strange := [each for each in inside if isinstance(each, str) and not each.isprintable()]:
            raise UserError(f"{where}: settings are printable text; one was {shortened(strange[0])}")
        inside = [
            each
            for outer in inside
            if isinstance(outer, dict | list)
            for each in ([*outer, *outer.values()] if isinstance(outer, dict) else outer)
        ]
    if inside:
        raise UserError(f"{where}: tables are nested at most {DEEPEST} deep")
    return tables


def overrides_from(tokens: Sequence[str]) -> dict[str, str]:
    """Read ``--section.setting value`` and ``--section.setting=value`` pairs.

    Examples:
        >>> overrides_from(["--train.budget", "60s", "--learning-rate=0.001"])
        {'train.budget': '60s', 'learning_rate': '0.001'}
    """
    found: dict[str, str] = {}
    rest = list(tokens)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=")
        if not key.startswith("--") or len(key) < 3:
            raise UserError(f"expected a setting such as --train.budget 60s; it was {word!r}")
        name = key.removeprefix("--").replace("-", "_")
        if not equals:
            if not rest:
                _full(_epochs(name, "")[0])
                raise UserError(f"{key} needs a value, such as {key} 1")
            value = rest.pop(0)
        found[name] = value
    return found


def _epochs(key: str, text: str) -> tuple[str, str]:
    """Epochs are a way to say the budget."""
    return ("train.budget", f"{text} epochs") if key in ("epochs", "train.epochs") else (key, text)


def _full(key: str) -> str:
    """Complete a setting's name with its section."""
    section, dot, _ = key.partition(".")
    if dot:
        if section not in SECTIONS:
            raise UserError(
                f"--{key}: there is no section {section!r}{did_you_mean(section, SECTIONS)} "
                f"Known: {', '.join(SECTIONS)}."
            )
        return key
    known = schema(Training)
    if key not in known:
        settings = [*known, *(f"{section}.…" for section in SECTIONS)]
        raise UserError(
            f"there is no setting --{key.replace('_', '-')}{did_you_mean(key, known)} Known: {', '.join(settings)}."
        )
    return f"train.{key}"


def _toml_value(text: str, key: str) -> Any:
    """Return the value that a text is in TOML, or the text itself."""
    if len(text) > LONGEST or not text.isprintable():
        raise UserError(f"--{key}: a value is at most {LONGEST:,} printable characters; it was {shortened(text)}")
    try:
        return read_toml(f"value = {text}", key)["value"]
    except UserError:
        return text


def _copied(thing: Any) -> Any:
    return {key: _copied(each) for key, each in thing.items()} if isinstance(thing, dict) else thing


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
