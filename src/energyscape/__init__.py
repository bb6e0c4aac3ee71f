"""Learn, sample and diagnose energy landscapes.

The stub beside this file is the one list of public names. Type checkers read it, and so does `__getattr__`, which
imports a name's module on first use. Importing energyscape therefore costs nothing; torch comes with the first name
that needs it.
"""

import ast
import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

__version__ = "0.2.0"

_HOME = {
    name.asname or name.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module
    for name in node.names
}

_RENAMED = {
    "Law": "Distribution",
    "Start": "ChainInit",
    "Data": "DataInit",
    "Noise": "NoiseInit",
    "Constant": "ConstantInit",
    "Mixture": "MixtureInit",
    "Ladder": "GeometricSchedule",
}
"""Names before 0.2, which still work with a warning."""

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _RENAMED and name not in _HOME:
        warnings.warn(f"es.{name} is now es.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        return __getattr__(_RENAMED[name])
    if name not in _HOME and importlib.util.find_spec(f"energyscape.{name}"):
        return importlib.import_module(f"energyscape.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'energyscape' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
