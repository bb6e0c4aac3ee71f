"""Modules before 0.2 under their old names: `energyscape.recipe` and `energyscape.runs` have their contents now."""

import sys
import warnings
from typing import Any, Final

from energyscape import recipe, runs
from energyscape.recipe import build, settings
from energyscape.recipe import recipe as recipe_module
from energyscape.runs import run, session

MOVED: Final = {"assembly": build, "recipe": recipe_module, "settings": settings, "run": run, "session": session}
sys.modules |= {f"{__name__}.{name}": module for name, module in MOVED.items()}


def __getattr__(name: str) -> Any:
    home = next((each for each in (recipe, runs) if name in each.__all__), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {home.__name__}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(home, name)
