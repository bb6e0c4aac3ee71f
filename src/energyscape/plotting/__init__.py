"""Figures from arrays.

This package knows neither models nor runs, and never touches matplotlib's global state or opens a window. A figure is a
value for `Figure.savefig` or `report.page`, an animation a sequence of pictures. Colours are those of Okabe and Ito,
and of viridis, which every kind of colour vision can distinguish. In one figure, and in all frames of one animation,
compared panels have the same limits and colour levels.

References:
    Color universal design (Okabe & Ito, 2008). https://jfly.uni-koeln.de/color/
"""

from energyscape.plotting.animation import Animation, TrainingFrame, animate_chains, animate_training, save_animation
from energyscape.plotting.axes import OKABE_ITO, Array, Box
from energyscape.plotting.fields import score_field, trajectories
from energyscape.plotting.images import SEPARATOR, evolution, grid_array, image_grid, save_grid, side_by_side
from energyscape.plotting.multiples import Multiple, small_multiples
from energyscape.plotting.points import box_around, real_and_generated, scatter
from energyscape.plotting.relief import landscape, surface
from energyscape.plotting.series import WIDTH, curves, histogram

__all__ = [
    "OKABE_ITO",
    "SEPARATOR",
    "WIDTH",
    "Animation",
    "Array",
    "Box",
    "Multiple",
    "TrainingFrame",
    "animate_chains",
    "animate_training",
    "box_around",
    "curves",
    "evolution",
    "grid_array",
    "histogram",
    "image_grid",
    "landscape",
    "real_and_generated",
    "save_animation",
    "save_grid",
    "scatter",
    "score_field",
    "side_by_side",
    "small_multiples",
    "surface",
    "trajectories",
]
