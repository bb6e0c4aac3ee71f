"""Signatures as schemas: what a recipe may say, and what it hears when it is wrong."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import cases
from energyscape.errors import UserError, did_you_mean
from energyscape.models import ENERGIES, MLP, NETWORKS
from energyscape.objectives import OBJECTIVES, STARTS, NoiseInit, ReplayBuffer
from energyscape.registry import Field, Registry, build, completed, construct, convert, schema
from energyscape.samplers import HMC, KERNELS

FAMILIES = (KERNELS, STARTS, OBJECTIVES, NETWORKS, ENERGIES)


class Shape:
    """A family of its own, so that nothing here depends on the library's components."""


class Round(Shape):
    """A disc.

    Args:
        radius: How far
            it reaches; in metres.
        colour: What it looks like.

    Raises:
        ValueError: If ``radius`` is negative.
    """

    def __init__(self, radius: float = 1.0, *, colour: Literal["red", "green"] = "red") -> None:
        if radius < 0:
            raise ValueError(f"radius is positive; it was {radius}")
        self.radius, self.colour = radius, colour


class Pair(Shape):
    def __init__(self, first: Shape, second: Shape | None = None, *, seed: int = 0) -> None:
        self.first, self.second, self.seed = first, second, seed


class Row(Shape):
    def __init__(self, shapes: tuple[Shape, ...], *, gaps: tuple[float, ...] = ()) -> None:
        self.shapes, self.gaps = shapes, gaps


SHAPES = Registry("shape", {"round": Round, "pair": Pair, "row": Row}, kind=Shape)


@dataclass
class Bound:
    energy: Callable[[float], float]
    _: KW_ONLY
    size: float
    steps: int = 3


LATE = Registry("sampler", {"bound": Bound}, late=("energy",))


# --- registries, schemas ----------------------------------------------------------------------------------------------


def test_a_registry_is_a_mapping_in_order():
    assert list(SHAPES) == ["round", "pair", "row"]
    assert len(SHAPES) == 3
    assert SHAPES["round"] is Round
    assert "round" in SHAPES
    assert "square" not in SHAPES


def test_an_unknown_name_is_answered_with_a_hint():
    with pytest.raises(UserError, match=r"no shape named 'rond'; did you mean 'round'\?.*Known: round, pair, row"):
        SHAPES["rond"]


def test_a_schema_is_the_signature_with_the_docstring():
    fields = schema(Round)
    assert fields["radius"] == Field("radius", float, 1.0, "How far it reaches; in metres.")
    assert fields["colour"] == Field("colour", Literal["red", "green"], "red", "What it looks like.")
    assert list(fields) == ["radius", "colour"]
    assert not fields["radius"].required
    pair = schema(Pair)
    assert pair["first"].required
    assert pair["second"].annotation == Shape | None
    assert list(schema(Bound)) == ["energy", "size", "steps"]


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in FAMILIES for name in family],
    ids=lambda x: getattr(x, "family", x),
)
def test_every_setting_of_every_component_has_a_type_and_a_line_of_documentation(family, name):
    for field in schema(family[name]).values():
        assert field.doc, field.name
        assert field.annotation is not Any, field.name
        default = field.default
        if not field.required and default is not None and not isinstance(default, tuple):
            assert convert(default, field.annotation, field.name) == default


def test_hints():
    assert did_you_mean("raduis", ["radius", "colour"]) == "; did you mean 'radius'?"
    assert did_you_mean("zzz", ["radius", "colour"]) == "."
    assert did_you_mean("step", ["leapfrog_steps", "size"]) == "; did you mean 'leapfrog_steps'?"


# --- building ---------------------------------------------------------------------------------------------------------


def test_build_gives_settings_and_defaults():
    shape = build(SHAPES, "round", {"radius": 2})
    assert isinstance(shape, Round)
    assert (shape.radius, shape.colour) == (2.0, "red")
    assert isinstance(shape.radius, float)
    assert build(SHAPES, "round").radius == 1.0


def test_components_nest_to_any_depth_and_context_reaches_each():
    inner = {"name": "pair", "first": {"name": "round", "radius": 3}, "second": "round"}
    made = build(SHAPES, "pair", {"first": inner}, seed=7)
    assert made.second is None
    assert made.first.first.radius == 3.0
    assert made.first.second.radius == 1.0
    assert (made.seed, made.first.seed) == (7, 7)


def test_settings_are_not_changed():
    inner = {"name": "round", "radius": 3}
    settings = {"first": inner}
    build(SHAPES, "pair", settings)
    assert settings == {"first": {"name": "round", "radius": 3}}


def test_late_parameters_give_a_partial_until_they_are_there():
    half = build(LATE, "bound", {"size": 2, "steps": 4.0})
    assert isinstance(half, functools.partial)
    assert half(abs) == Bound(abs, size=2.0, steps=4)
    assert build(LATE, "bound", {"size": 2}, energy=abs) == Bound(abs, size=2.0)
    with pytest.raises(UserError, match="no setting 'energy'"):
        build(LATE, "bound", {"size": 2, "energy": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"raduis": 1}, r"shape 'round' has no setting 'raduis'; did you mean 'radius'\? Its settings: radius, colour"),
        ({"radius": "big"}, r"shape 'round': radius is of type float; it was 'big'"),
        ({"radius": True}, "radius is of type float; it was True"),
        ({"radius": None}, "radius is of type float"),
        ({"colour": "grene"}, r"colour is one of red, green; it was 'grene'; did you mean 'green'\?"),
        ({"colour": 3}, "colour is one of red, green; it was 3"),
        ({"radius": -1}, "shape 'round': radius is positive; it was -1"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        build(SHAPES, "round", settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "shape 'pair' needs a value for 'first'"),
        ({"first": {"radius": 1}}, r"first is a shape, a table with a name such as \{name = 'round'\}"),
        ({"first": 3}, "first is a shape"),
        ({"first": {"name": "rund"}}, r"no shape named 'rund'; did you mean 'round'"),
        ({"first": {"name": "round", "radius": "x"}}, "shape 'round': radius is of type float"),
        ({"first": {"name": "pair"}}, "shape 'pair' needs a value for 'first'"),
        ({"first": {"name": 3}}, "first is a shape"),
        ({"first": {"name": ["round"]}}, "first is a shape"),
        ({"first": "round", "second": {"name": 3}}, "second is a shape"),
    ],
)
def test_wrong_nested_components_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build(SHAPES, "pair", settings)


def test_a_component_without_settings_says_so():
    with pytest.raises(UserError, match="It has no settings"):
        build(STARTS, "data", {"low": 1})


def test_what_context_gives_no_recipe_may_set():
    with pytest.raises(UserError, match="no setting 'seed'"):
        build(SHAPES, "pair", {"first": "round", "seed": 3}, seed=1)


def test_construct_works_without_a_registry():
    assert construct(Round, "the disc", {"radius": 4}).radius == 4.0
    with pytest.raises(UserError, match="the disc has no setting"):
        construct(Round, "the disc", {"size": 4})


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (3, float, 3.0),
        (2.5, float, 2.5),
        (3, int, 3),
        (3.0, int, 3),
        (True, bool, True),
        ("a", str, "a"),
        ("none", str, "none"),
        ("a/b", Path, Path("a/b")),
        (Path("a"), Path, Path("a")),
        (3, Any, 3),
        (None, float | None, None),
        ("none", float | None, None),
        ("none", str | None, "none"),
        ("none", Literal["a"] | None, None),
        (2, float | None, 2.0),
        ("a", Literal["a", "b"], "a"),
        ([0, 1], tuple[float, float], (0.0, 1.0)),
        ((0, 1), tuple[float, float] | None, (0.0, 1.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        ([], tuple[int, ...], ()),
        ([1, "a"], tuple[int, str], (1, "a")),
        ([3, 32, 32], int | tuple[int, ...], (3, 32, 32)),
        (2, int | tuple[int, ...], 2),
    ],
)
def test_convert(value, annotation, result):
    converted = convert(value, annotation, "it")
    assert converted == result
    assert type(converted) is type(result)
    if isinstance(result, tuple):
        assert [type(each) for each in converted] == [type(each) for each in result]


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (True, int, "it is of type int; it was True"),
        (False, float, "it is of type float"),
        (1, bool, "it is of type bool; it was 1"),
        ("maybe", bool | Literal["auto", "later"], "it is of type bool or 'auto' or 'later'; it was 'maybe'"),
        (2.5, int, "it is of type int; it was 2.5"),
        ("3", float, "it is of type float; it was '3'"),
        ("3", int, "it is of type int"),
        (3, str, "it is of type str"),
        (3, Path, "it is of type Path"),
        ("none", float, "it is of type float"),
        (None, int, "it is of type int"),
        ("x", float | None, "it is of type float"),
        ([1], tuple[float, float], "it has 2 entries; it was given 1"),
        ([1, "a"], tuple[float, float], "it is of type float; it was 'a'"),
        ([1.5], tuple[int, ...], "it is of type int"),
        ("ab", tuple[str, str], "it is of type tuple"),
        ([True, 1], tuple[int, int], "it is of type int; it was True"),
        (3.5, int | tuple[int, ...], "it is"),
    ],
)
def test_convert_refuses(value, annotation, message):
    with pytest.raises(UserError, match=message):
        convert(value, annotation, "it")


# --- completion -------------------------------------------------------------------------------------------------------


def test_completed_fills_in_defaults_of_nested_components_too():
    given = {"first": "round", "second": {"name": "round", "colour": "green"}}
    table = completed(Pair, "pair", given, hidden={"seed"})
    disc = {"name": "round", "radius": 1.0, "colour": "red"}
    assert table == {"first": disc, "second": {**disc, "colour": "green"}}
    made, again = build(SHAPES, "pair", given), build(SHAPES, "pair", table)
    assert vars(made.second) == vars(again.second)
    assert completed(Pair, "pair", {"first": "round"})["seed"] == 0
    assert "second" not in completed(Pair, "pair", {"first": "round"})


def test_a_tuple_of_components_is_a_list_of_tables():
    given = {"shapes": ["round", {"name": "row", "shapes": [{"name": "round", "radius": 3}]}]}
    table = completed(Row, "row", given)
    disc = {"name": "round", "radius": 1.0, "colour": "red"}
    inner = {"name": "row", "shapes": [{**disc, "radius": 3.0}], "gaps": []}
    assert table == {"shapes": [disc, inner], "gaps": []}
    for settings in (given, table):
        made = build(SHAPES, "row", settings)
        assert isinstance(made.shapes, tuple)
        assert made.shapes[0].radius == 1.0
        assert made.shapes[1].shapes[0].radius == 3.0
    with pytest.raises(UserError, match=r"no shape named 'rund'; did you mean 'round'"):
        build(SHAPES, "row", {"shapes": ["round", "rund"]})


def test_the_library_builds_its_own_components_from_tables():
    cd = build(
        OBJECTIVES,
        "cd",
        {
            "steps": 4,
            "start": {"name": "buffer", "capacity": 50, "fresh": {"name": "noise", "low": 0, "high": 1}},
            "kernel": {"name": "hmc", "step_size": 0.2, "temperature": 0.5},
        },
    )
    assert isinstance(cd.start, ReplayBuffer)
    assert isinstance(cd.start.fresh, NoiseInit)
    assert (cd.start.fresh.low, cd.start.fresh.high, cd.start.capacity) == (0.0, 1.0, 50)
    assert cd.kernel(abs) == HMC(abs, step_size=0.2, temperature=0.5)
    assert cd.temperature == 0.5
    net = build(NETWORKS, "mlp", {"width": 8}, shape=(1, 8, 8))
    assert isinstance(net, MLP)
    energy = build(ENERGIES, "neural", {"network": {"name": "mlp", "width": 8}, "reference_std": 2}, shape=(2,))
    assert energy.reference_std == 2.0
    assert energy.network.layers[1].in_features == 2
    with pytest.raises(UserError, match=r"objective 'cd': step_size is positive"):
        build(OBJECTIVES, "cd", {"steps": 1, "start": "data", "kernel": {"name": "mala", "step_size": 0}})


def test_defaults_of_the_library_are_the_ones_of_the_signature():
    table = completed(KERNELS["hmc"], "hmc", {"step_size": 0.1}, hidden={"energy"})
    assert table == {"step_size": 0.1, "leapfrog_steps": 10, "temperature": 1.0, "jitter": 0.0}
    assert all(field.default is not inspect.Parameter.empty for field in schema(Round).values())


def test_every_registered_component_has_a_case():
    tables = {"sampler": cases.KERNELS, "start": cases.STARTS, "objective": cases.OBJECTIVES, "network": cases.NETWORKS}
    for family in (KERNELS, STARTS, OBJECTIVES, NETWORKS):
        assert {name.split(":")[0] for name in tables[family.family]} == set(family), family.family
