"""Names of components, and their schemas.

A constructor's signature is its schema: the names, types and defaults of its parameters define the settings in a
recipe, the output of ``--help`` and the hints in errors. A parameter whose annotation is a family's abstract class (a
`ChainInit`, a `Distribution`) is itself described by a table with a ``name``:

    [objective]
    name = "cd"
    start = {name = "buffer", capacity = 4096}

A name of the form ``module:Name`` is imported from the current folder or an installed package.
"""

import functools
import importlib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from energyscape.errors import UserError, did_you_mean, refused, shortened

Settings = Mapping[str, Any]
"""Settings of one component in a recipe, without its ``name``."""

Samples = Annotated[int, "samples, such as 50k"]
"""A number of samples; recipes may write ``50k`` or ``1.5M``."""

UNITS: Final = {"": 1.0, "k": 1e3, "M": 1e6}

SMALLEST, LARGEST = 1e-12, 1e12
"""Sizes of a float in a recipe, other than 0: cubes of both still fit 32 bits."""


@dataclass(frozen=True)
class Field:
    """One parameter of a component.

    Args:
        name: The parameter's name.
        annotation: Its type.
        default: Its default, or `inspect.Parameter.empty`.
        doc: Its line of the docstring's ``Args``.
    """

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        """Whether a recipe must set it."""
        return self.default is inspect.Parameter.empty


class Registry(Mapping[str, Callable[..., Any]]):
    """The components of one family by name.

    Args:
        family: Name of a component in messages, such as ``"objective"``.
        entries: Name to constructor.
        kind: The annotation that stands for this family in other components' signatures.
        late: Parameters outside the recipe, such as a kernel's ``energy``; without them `build` returns a partial.
    """

    by_kind: typing.ClassVar[dict[Any, "Registry"]] = {}

    def __init__(
        self, family: str, entries: Mapping[str, Callable[..., Any]], *, kind: Any = None, late: tuple[str, ...] = ()
    ) -> None:
        self.family = family
        self.late = late
        self._entries = dict(entries)
        if kind is not None:
            self.by_kind[kind] = self

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if ":" in name:
            return _imported(name, self.family)
        if name not in self._entries:
            raise UserError(
                f"there is no {self.family} named {name!r}{did_you_mean(name, self)} Known: {', '.join(self)}; "
                "or module:Name for your own."
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or (isinstance(name, str) and ":" in name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _imported(name: str, family: str) -> Callable[..., Any]:
    """Return a component that is named ``module:Name``, from the current folder or an installed package."""
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        component = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # a user's module may raise anything
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        why = f"there is no module {module!r} in {here} or installed" if absent else f"{type(error).__name__}: {error}"
        raise UserError(f"{family} {name!r} cannot be imported: {why}") from error
    if not callable(component):
        raise UserError(f"{family} {name!r}: module {module!r} has no class or function {attribute!r}")
    return typing.cast("Callable[..., Any]", component)


def schema(component: Callable[..., Any]) -> dict[str, Field]:
    """Return the parameters of a component by name.

    Examples:
        >>> def law(*, radius: float = 2.0) -> None:
        ...     '''A circle.
        ...
        ...     Args:
        ...         radius: Of the circle.
        ...     '''
        >>> schema(law)["radius"]
        Field(name='radius', annotation=<class 'float'>, default=2.0, doc='Of the circle.')
    """
    hints = hints_of(component.__init__ if inspect.isclass(component) else component)
    docs = _argument_docs(inspect.getdoc(component) or "")
    return {
        name: Field(name, hints.get(name, Any), parameter.default, docs.get(name, ""))
        for name, parameter in inspect.signature(component).parameters.items()
        # A class without a constructor inherits torch's, ``(*args, **kwargs)``: it has no settings.
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters, without those that only type checkers import."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        return {name: each for name, each in function.__annotations__.items() if not isinstance(each, str)}


def build(registry: Registry, name: str, settings: Settings | None = None, **context: Any) -> Any:
    """Make a component from its name and settings."""
    return construct(registry[name], f"{registry.family} {name!r}", settings or {}, late=registry.late, **context)


def construct(
    component: Callable[..., Any], title: str, settings: Settings, *, late: tuple[str, ...] = (), **context: Any
) -> Any:
    """Call a component with a recipe's settings, checked against its signature."""
    fields = schema(component)
    values = {key: context[key] for key in fields if key in context}
    open_ = {key for key in late if key in fields and key not in context}
    allowed = [key for key in fields if key not in context and key not in late]
    _check_known(settings, allowed, title)
    values |= {key: _parsed(value, fields[key], title, **context) for key, value in settings.items()}
    missing = [key for key, field in fields.items() if field.required and key not in values and key not in open_]
    if missing:
        raise UserError(f"{title} needs a value for {', '.join(map(repr, missing))}.")
    with refused(title):
        return functools.partial(component, **values) if open_ else component(**values)


def _check_known(settings: Iterable[str], allowed: list[str], title: str) -> None:
    for key in settings:
        if key not in allowed:
            known = f"Its settings: {', '.join(allowed)}." if allowed else "It has no settings."
            raise UserError(f"{title} has no setting {key!r}{did_you_mean(key, allowed)} {known}")


def _parsed(value: Any, field: Field, title: str, **context: Any) -> Any:
    same = type(value) is type(field.default) and value == field.default  # which may be infinite
    return value if same else convert(value, field.annotation, f"{title}: {field.name}", **context)


def completed(
    component: Callable[..., Any], title: str, settings: Settings, *, hidden: Iterable[str] = ()
) -> dict[str, Any]:
    """Return settings with every default filled in and every value parsed, as a table for a recipe."""
    fields = {name: field for name, field in schema(component).items() if name not in hidden}
    _check_known(settings, list(fields), title)
    table: dict[str, Any] = {}
    for name, field in fields.items():
        value = settings.get(name, field.default)
        if value is inspect.Parameter.empty or _is_none(value, field.annotation):
            continue
        if kind := _family(field.annotation):
            several = isinstance(value, list | tuple) and typing.get_origin(field.annotation) is tuple
            nested = [_completed(kind, each, f"{title}: {name}", hidden) for each in (value if several else [value])]
            table[name] = nested if several else nested[0]
            continue
        value = _parsed(value, field, title)
        table[name] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return table


def _completed(kind: Registry, value: Any, where: str, hidden: Iterable[str]) -> dict[str, Any]:
    nested = _table(kind, value, where)
    name = nested.pop("name")
    return {"name": name, **completed(kind[name], f"{kind.family} {name!r}", nested, hidden={*hidden, *kind.late})}


def _is_none(value: Any, annotation: Any) -> bool:
    """Whether a value is none, written as a string in TOML, for a parameter that may be none."""
    arguments = typing.get_args(annotation)
    return value is None or (value == "none" and type(None) in arguments and str not in arguments)


def _family(annotation: Any) -> Registry | None:
    """Return the registry of an annotation, also inside an optional one or a tuple."""
    kinds = [annotation, *typing.get_args(annotation)] if annotation not in Registry.by_kind else [annotation]
    return next((Registry.by_kind[each] for each in kinds if each in Registry.by_kind), None)


def convert(value: Any, annotation: Any, where: str, **context: Any) -> Any:
    """Convert a recipe's value to the type of an annotation.

    Examples:
        >>> convert(3, float, "step_size")
        3.0
        >>> convert([0, 1], tuple[float, float] | None, "bounds")
        (0.0, 1.0)
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in Registry.by_kind:
        return _nested(Registry.by_kind[annotation], value, where, context)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if _is_none(value, annotation):
            return None
        return _first_that_fits(value, [each for each in arguments if each is not type(None)], where, context)
    if origin is typing.Literal:
        if value in arguments:
            return value
        hint = did_you_mean(str(value), map(str, arguments))
        raise UserError(f"{where} is one of {', '.join(map(str, arguments))}; it was {shortened(value)}{hint}")
    is_tuple = origin is tuple and isinstance(value, list | tuple)
    return _tuple(value, arguments, where, context) if is_tuple else _plain(value, annotation, where)


def _nested(registry: Registry, value: Any, where: str, context: Settings) -> Any:
    table = _table(registry, value, where)
    return build(registry, table.pop("name"), table, **context)


def _table(registry: Registry, value: Any, where: str) -> dict[str, Any]:
    """Return the settings of a nested component: a table with a name, or only the name."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        example = f"{{name = {next(iter(registry))!r}}}; it was {shortened(value)}"
        raise UserError(f"{where} is a {registry.family}, a table with a name such as {example}")
    return dict(value)


def _first_that_fits(value: Any, annotations: list[Any], where: str, context: Settings) -> Any:
    for annotation in annotations[:-1]:
        try:
            return convert(value, annotation, where, **context)
        except UserError:
            continue
    try:
        return convert(value, annotations[-1], where, **context)
    except UserError:
        if len(annotations) == 1:
            raise
        kinds = " or ".join(map(_type_name, annotations))
        raise UserError(f"{where} is of type {kinds}; it was {shortened(value)}") from None


def _tuple(value: list[Any] | tuple[Any, ...], arguments: tuple[Any, ...], where: str, context: Settings) -> Any:
    kinds = [arguments[0]] * len(value) if arguments[-1:] == (...,) else list(arguments)
    if len(kinds) != len(value):
        raise UserError(f"{where} has {len(kinds)} entries; it was given {len(value)}")
    return tuple(convert(each, kind, where, **context) for each, kind in zip(value, kinds, strict=True))


def _plain(value: Any, annotation: Any, where: str) -> Any:
    if annotation in (int, float, Samples):
        return _number(counted(value) if annotation is Samples and isinstance(value, str) else value, annotation, where)
    if annotation is Path and isinstance(value, str):
        return Path(value)
    if isinstance(annotation, type) and isinstance(value, annotation):
        return value
    raise UserError(f"{where} is of type {_type_name(annotation)}; it was {shortened(value)}")


def counted(text: str) -> Any:
    """Return the number of samples in a text such as ``50k``, or the text if it has none."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([kM]?)\s*", text)
    return math.ceil(min(float(match[1]) * UNITS[match[2]], 1e300)) if match else text


def _number(value: Any, annotation: Any, where: str) -> int | float:
    """Return an integer of 64 bits, or a float whose cube is one of 32 bits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and annotation is float and (value == 0 or SMALLEST <= abs(value) <= LARGEST):
        return float(value)
    if number and annotation is not float and abs(value) < 1 << 63 and value == int(value):
        return int(value)
    limits = f", 0 or {SMALLEST:g} to {LARGEST:g} in size" if annotation is float else ", below 2⁶³ in size"
    kind = _type_name(annotation) + (limits if number and (annotation is float or not value % 1) else "")
    raise UserError(f"{where} is of type {kind}; it was {shortened(value)}")


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(annotation)))
    if annotation is Samples:
        return "int or a text such as 50k"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _argument_docs(doc: str) -> dict[str, str]:
    """Read the ``Args`` of a Google docstring: name to its text on one line."""
    found: dict[str, str] = {}
    inside, indent, name = False, 0, ""
    for line in inspect.cleandoc(doc).splitlines():
        depth = len(line) - len(line.lstrip())
        if line.strip() == "Args:":
            inside, indent = True, depth
        elif inside and line.strip() and depth <= indent:
            break
        elif inside and depth == indent + 4 and ":" in line:
            name, text = (part.strip() for part in line.split(":", 1))
            found[name] = text
        elif inside and name and line.strip():
            found[name] += " " + line.strip()
    return found
