"""Laws in the plane whose density and entropy are known, to compare a learned landscape with.

Each is sampled exactly, from the generator it is given and nothing else, and normalised exactly: by a closed form, by a
change of variables, or by a quadrature whose error is stated and too small to see. Entropies are computed from the
density when first asked for. Default settings are those of the literature, where it has any. The user's own points are
a law too, and any law can be moved and scaled.
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
