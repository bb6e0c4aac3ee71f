"""Scoreboards: methods of training, or samplers, side by side on laws whose truth is known."""

from energyscape.experiment.comparison.board import Row, board, markdown
from energyscape.experiment.comparison.contest import Cell, contest
from energyscape.experiment.comparison.methods import MethodCell, Score, laws_named, method_names, plan
from energyscape.experiment.comparison.samplers import SamplerCell, SamplerScore, plan_samplers, sampler_names

__all__ = [
    "Cell",
    "MethodCell",
    "Row",
    "SamplerCell",
    "SamplerScore",
    "Score",
    "board",
    "contest",
    "laws_named",
    "markdown",
    "method_names",
    "plan",
    "plan_samplers",
    "sampler_names",
]
