"""Laws in the plane with known density and entropy, to compare a learned landscape with.

Each is sampled exactly, from the given generator only, and normalised exactly: in closed form, by a change of
variables, or by a quadrature with a stated, negligible error. Entropies are computed from the density on first use.
Default settings are those of the literature, if any. The user's own points are a law too, and any law can be moved and
scaled.
"""

from energyscape.data.distributions.base import Distribution
from energyscape.data.distributions.curves import Rings, SwissRoll, TwoMoons, TwoSpirals
from energyscape.data.distributions.mixtures import EightGaussians, GaussianGrid, mixture_log_prob
from energyscape.data.distributions.points import Points, points_file
from energyscape.data.distributions.rescaled import Rescaled
from energyscape.data.distributions.squares import Checkerboard, FourSquares
from energyscape.data.distributions.warped import Banana, Funnel, Pinwheel
from energyscape.data.distributions.wells import DoubleWell

__all__ = [
    "Banana",
    "Checkerboard",
    "Distribution",
    "DoubleWell",
    "EightGaussians",
    "FourSquares",
    "Funnel",
    "GaussianGrid",
    "Pinwheel",
    "Points",
    "Rescaled",
    "Rings",
    "SwissRoll",
    "TwoMoons",
    "TwoSpirals",
    "mixture_log_prob",
    "points_file",
]
