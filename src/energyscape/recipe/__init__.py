"""Recipes and the objects that they describe."""

from energyscape.recipe.build import Experiment
from energyscape.recipe.recipe import Recipe, overrides_from, recipe_header, recipe_names, recipe_text

__all__ = ["Experiment", "Recipe", "overrides_from", "recipe_header", "recipe_names", "recipe_text"]
