"""Comparisons: objectives or samplers, side by side on distributions whose density is known."""

from energyscape.laboratory.cells import Cell, Column, Score, distributions_named, plan
from energyscape.laboratory.jobs import run_jobs
from energyscape.laboratory.kernels import KernelCell
from energyscape.laboratory.objectives import ObjectiveCell

__all__ = ["Cell", "Column", "KernelCell", "ObjectiveCell", "Score", "distributions_named", "plan", "run_jobs"]
