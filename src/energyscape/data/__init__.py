"""Data that models learn from: distributions with a known density, images, and batches of either."""

from energyscape.data.batches import Batch, Batches, Source, batches
from energyscape.data.cifar import cifar10
from energyscape.data.dataset import Dataset, Rows, Space
from energyscape.data.distributions import (
    Banana,
    Checkerboard,
    Distribution,
    DoubleWell,
    EightGaussians,
    FourSquares,
    Funnel,
    GaussianGrid,
    Pinwheel,
    Points,
    Rescaled,
    Rings,
    SwissRoll,
    TwoMoons,
    TwoSpirals,
    mixture_log_prob,
    points_file,
)
from energyscape.data.images import Images, digits, image_folder
from energyscape.data.published import fashion_mnist, kmnist, mnist
from energyscape.registry import Registry

DISTRIBUTIONS = Registry(
    "law",
    {
        "8gaussians": EightGaussians,
        "25gaussians": GaussianGrid,
        "moons": TwoMoons,
        "rings": Rings,
        "spirals": TwoSpirals,
        "swissroll": SwissRoll,
        "pinwheel": Pinwheel,
        "checkerboard": Checkerboard,
        "squares": FourSquares,
        "banana": Banana,
        "funnel": Funnel,
        "doublewell": DoubleWell,
        "points": points_file,
        "rescaled": Rescaled,
    },
    kind=Distribution,
)
"""Laws in the plane by the name that a recipe gives."""

DATASETS = Registry(
    "dataset",
    {
        **DISTRIBUTIONS,
        "digits": digits,
        "mnist": mnist,
        "fashion-mnist": fashion_mnist,
        "kmnist": kmnist,
        "cifar10": cifar10,
        "folder": image_folder,
    },
)
"""Laws and images by the name that a recipe gives."""

__all__ = [
    "DATASETS",
    "DISTRIBUTIONS",
    "Banana",
    "Batch",
    "Batches",
    "Checkerboard",
    "Dataset",
    "Distribution",
    "DoubleWell",
    "EightGaussians",
    "FourSquares",
    "Funnel",
    "GaussianGrid",
    "Images",
    "Pinwheel",
    "Points",
    "Rescaled",
    "Rings",
    "Rows",
    "Source",
    "Space",
    "SwissRoll",
    "TwoMoons",
    "TwoSpirals",
    "batches",
    "cifar10",
    "digits",
    "fashion_mnist",
    "image_folder",
    "kmnist",
    "mixture_log_prob",
    "mnist",
    "points_file",
]
