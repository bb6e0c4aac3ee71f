"""Scoreboards: methods of training, or samplers, side by side on laws whose truth is known."""

from energyscape.laboratory.jobs import Cell, contest
from energyscape.laboratory.kernels import SamplerCell, SamplerScore, plan_samplers, sampler_names
from energyscape.laboratory.objectives import MethodCell, Score, laws_named, method_names, plan
from energyscape.laboratory.scoreboard import Row, board, markdown

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
