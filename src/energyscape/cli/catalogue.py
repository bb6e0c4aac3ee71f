"""Lists of recipes, data sets and components, with their settings."""

import re
from typing import Literal, get_args

from energyscape.cli.terminal import app
from energyscape.errors import UserError

What = Literal[
    "recipes",
    "datasets",
    "models",
    "networks",
    "denoising-networks",
    "preconditionings",
    "objectives",
    "levels",
    "weights",
    "samplers",
    "solvers",
    "grids",
    "starts",
    "metrics",
]


@app.command(name="list")
def list_(what: What | None = None, /) -> int:
    """List what there is, with its settings.

    Args:
        what: The family.
    """
    if what is None:
        raise UserError(f"list needs one of {', '.join(get_args(What))}")
    from inspect import getdoc

    from rich.console import Console
    from rich.table import Table

    from energyscape.data import DATASETS
    from energyscape.metrics import METRICS
    from energyscape.models import DENOISING_NETWORKS, MODELS, NETWORKS, NOISE_NETWORKS, PRECONDITIONINGS
    from energyscape.objectives import OBJECTIVES, STARTS, WEIGHTS
    from energyscape.recipe import recipe_header, recipe_names
    from energyscape.recipe.recipe import CONTEXT
    from energyscape.registry import Registry, schema
    from energyscape.samplers import DESCENTS, KERNELS, SOLVERS
    from energyscape.schedules import GRIDS, LEVELS

    console = Console()
    if what == "recipes":
        table = Table("recipe", "what it trains", "result", box=None)
        for name in recipe_names():
            trains, result, *_ = recipe_header(name)
            table.add_row(name, trains, result.removeprefix("Result: "))
        console.print(table)
        return 0
    registry = {
        "datasets": DATASETS,
        "models": MODELS,
        "networks": Registry("network", {**NETWORKS, **NOISE_NETWORKS}),
        "denoising-networks": DENOISING_NETWORKS,
        "preconditionings": PRECONDITIONINGS,
        "objectives": OBJECTIVES,
        "levels": LEVELS,
        "weights": WEIGHTS,
        "samplers": Registry("sampler", {**KERNELS, **DESCENTS}, late=DESCENTS.late),
        "solvers": SOLVERS,
        "grids": GRIDS,
        "starts": STARTS,
        "metrics": METRICS,
    }[what]
    table = Table(registry.family, "what it is", "settings", box=None)
    for name, component in registry.items():
        fields = [field for field in schema(component).values() if field.name not in (*CONTEXT, *registry.late)]
        settings = ", ".join(each.name if each.required else f"{each.name}={each.default}" for each in fields)
        plain = re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", (getdoc(component) or "").split("\n")[0])
        table.add_row(name, plain, settings)
    console.print(table)
    return 0
