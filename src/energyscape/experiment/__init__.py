"""Recipes, the objects they describe, and the directories they leave."""

from energyscape.experiment.assembly import Experiment
from energyscape.experiment.recipe import Recipe, overrides_from, recipe_header, recipe_names, recipe_text
from energyscape.experiment.run import Run
from energyscape.experiment.session import Session

__all__ = ["Experiment", "Recipe", "Run", "Session", "overrides_from", "recipe_header", "recipe_names", "recipe_text"]
