"""Cells of a comparison: one component, such as an objective, on one distribution with one seed.

A cell keeps its score in a file, so the same command again measures only the cells that are missing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from torch import Tensor

from energyscape import __version__
from energyscape.data import DISTRIBUTIONS, Distribution
from energyscape.errors import UserError, did_you_mean
from energyscape.files import as_json, read_json, write_whole
from energyscape.recipe import Recipe
from energyscape.registry import build

STD: Final = 2.0325
"""Root mean square deviation of the coordinates of the eight Gaussians, to which other distributions are scaled."""

NEED_SETTINGS: Final = ("points", "rescaled")
"""Distributions that ``all`` leaves out, because they have required settings."""

MOST_SEEDS: Final = 1_000
SCORE: Final = "score.json"


class Column(NamedTuple):
    """A number of a score: a column of scores.csv and, if it has a title, of the scoreboard.

    Args:
        field: Name in score.json and scores.csv.
        title: Heading in the scoreboard, or empty.
        summary: Text for the values of all seeds.
    """

    field: str
    title: str = ""
    summary: Callable[[Sequence[float]], str] = str


class Panels(NamedTuple):
    """Arrays for one row of the scoreboard's picture: draws, energies on a grid, generated samples."""

    exact: Tensor
    energy_grid: Tensor
    generated: Tensor


@dataclass(frozen=True)
class Cell(ABC):
    """One component on one distribution with one seed.

    Args:
        distribution: Name of the distribution.
        name: Name of the component.
        seed: Seed of all random streams.
        recipe: Settings, among them those of the distribution.
        folder: Directory for the score and all else that is kept.
    """

    distribution: str
    name: str
    seed: int
    recipe: Recipe
    folder: Path

    component: ClassVar[str]
    """Heading of the names, such as ``"sampler"``."""

    suffix: ClassVar[str]
    """End of the distribution's name in the name of a comparison's folder."""

    columns: ClassVar[tuple[Column, ...]]
    """All numbers of a score."""

    rank: ClassVar[str]
    """Field that orders the scoreboard, the lowest value first."""

    protocol: ClassVar[str]
    """How the columns are measured."""

    @staticmethod
    @abstractmethod
    def names() -> list[str]:
        """Return the names of all components that can be compared."""

    @staticmethod
    @abstractmethod
    def recipe_of(name: str, overrides: Mapping[str, str]) -> Recipe:
        """Return the recipe of a component; refuse settings that it does not have."""

    @abstractmethod
    def measure(self, stopping: Callable[[], bool]) -> "Score | None":
        """Return the score, or None if `stopping` became true before the end."""

    @abstractmethod
    def panels(self) -> Panels | None:
        """Return the row of the scoreboard's picture, or None if the cell kept nothing to draw."""

    def truth(self) -> Distribution:
        """Return the distribution."""
        return _built(self.recipe.tables["data"])

    def entropy(self) -> float:
        """Return the entropy of the distribution before it was scaled, in nats."""
        data = self.recipe.tables["data"]
        return _built(data["law"] if data["name"] == "rescaled" else data).entropy

    def stored(self) -> "Score | None":
        """Return the score of an earlier run of this version, or None."""
        try:
            stored = read_json(self.folder / SCORE, "a score")
            values = {each.field: stored[each.field] for each in self.columns}
            failed = stored["failed"]
        except (ValueError, KeyError):
            return None
        if stored.get("energyscape") != __version__:
            return None
        return Score(self, {key: math.nan if value is None else value for key, value in values.items()}, failed)

    def score(self, stopping: Callable[[], bool]) -> "Score | None":
        """Return the stored score, or else measure and store it."""
        score = self.stored()
        if score is None and (score := self.measure(stopping)) is not None:
            text = as_json({"energyscape": __version__, **score.row()})
            write_whole(self.folder / SCORE, text.encode())
        return score


class Score(NamedTuple):
    """The measured numbers of a cell.

    Args:
        cell: The cell.
        values: Numbers by the fields of the cell's columns; NaN if unknown.
        failed: Reason why the score does not count, or empty.
    """

    cell: Cell
    values: Mapping[str, float]
    failed: str = ""

    def row(self) -> dict[str, Any]:
        """Return the score as a row of scores.csv."""
        cell = self.cell
        names = {"law": cell.distribution, cell.component: cell.name, "seed": cell.seed}
        return {**names, **{each.field: self.values[each.field] for each in cell.columns}, "failed": self.failed}

    def summary(self) -> str:
        """Return the score in a line for people."""
        cell = self.cell
        numbers = [f"{each.title}: {each.summary([self.values[each.field]])}" for each in cell.columns if each.title]
        return f"{cell.distribution}, {cell.name}, seed {cell.seed}: {self.failed or '; '.join(numbers)}"


def distributions_named(words: str) -> list[str]:
    """Return the names of distributions with a known density, from names with commas between them or ``all``."""
    if words == "all":
        return [name for name in DISTRIBUTIONS if name not in NEED_SETTINGS]
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in DISTRIBUTIONS:
            hint = did_you_mean(name, DISTRIBUTIONS)
            raise UserError(
                f"{name!r} is no law in the plane, so there is no exact truth to compare with{hint} "
                f"Known: {', '.join(DISTRIBUTIONS)}, all."
            )
    return names


def plan(
    kind: type[Cell],
    distributions: Sequence[str],
    *,
    which: str,
    seeds: int,
    budget: str,
    folder: Path,
    settings: Mapping[str, str] | None = None,
) -> list[Cell]:
    """Return the cells of a comparison; ``which`` names components with commas between them, or is ``all``."""
    names = kind.names() if which == "all" else [name.strip() for name in which.split(",")]
    for name in names:
        if ":" not in name and name not in kind.names():
            hint = did_you_mean(name, kind.names())
            raise UserError(f"there is no {kind.component} {name!r}{hint} Known: {', '.join(kind.names())}, all.")
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"seeds is at least 1 and at most {MOST_SEEDS:,}; it was {seeds}")
    settings = settings or {}
    of_data = {key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")}
    other = {key: value for key, value in settings.items() if not key.startswith("data.")}
    cells = []
    for distribution in distributions:
        words = [
            f"{distribution}{kind.suffix}-{budget}",
            *(f"{key}={value}" for key, value in sorted(settings.items())),
        ]
        place = folder / "+".join(words).replace("/", "_").replace(" ", "")
        for name in names:
            for seed in range(seeds):
                overrides = {**scaled(distribution, of_data), **other, "train.budget": budget, "train.seed": str(seed)}
                recipe = kind.recipe_of(name, overrides)
                cells.append(kind(distribution, name, seed, recipe, place / f"{name}-{seed}"))
    return cells


def scaled(distribution: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings of ``[data]`` that scale a distribution to the size that the recipes were made for."""
    if distribution == "8gaussians" and not settings:
        return {"data.name": distribution}
    inner = {f"data.law.{key}": value for key, value in settings.items()}
    return {"data.name": "rescaled", "data.law.name": distribution, **inner, "data.std": str(STD)}


def _built(table: Mapping[str, Any]) -> Distribution:
    settings = dict(table)
    distribution: Distribution = build(DISTRIBUTIONS, settings.pop("name"), settings)
    return distribution
