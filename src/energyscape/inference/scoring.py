r"""Energies of given points: the lower, the likelier.

A point's score is its energy over the temperature, averaged over draws of the noise that the model was trained with,

.. math:: \bar E(x) = \frac{1}{K} \sum_k E(x + \sigma z_k) / T.

What is compared needs the same :math:`\sigma`: an energy of noised data calls clean data unlikely.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from energyscape.calculus import Box, score
from energyscape.data import Dataset
from energyscape.errors import UserError
from energyscape.files import check_file_name
from energyscape.inference.trained import Trained
from energyscape.noise import noised

DRAWS = 4
"""Of the noise, for each point."""

KNOWN = 2_000
"""Held-out points that others are compared with, as far as there are any."""

BATCH = 500

GRID = 400
"""Points along each side of a landscape."""


def energies(trained: Trained, x: Tensor, *, draws: int = DRAWS, seed: int | None = None) -> Tensor:
    """Return energies over temperature, ``(n,)`` in float64, averaged over draws of the noise of the training."""
    return _averaged(trained, trained.require_energy(), x, draws, seed)


def slopes(trained: Trained, x: Tensor, *, draws: int = DRAWS, seed: int | None = None) -> Tensor:
    r"""Return :math:`\|\nabla E\| / T`, averaged likewise: large where mass is far below."""
    energy = trained.require_energy()
    return _averaged(trained, lambda y: score(energy, y).flatten(1).norm(dim=1), x, draws, seed)


def _averaged(trained: Trained, value: Callable[[Tensor], Tensor], x: Tensor, draws: int, seed: int | None) -> Tensor:
    generator, confined = trained.stream("noise of scores", seed=seed), trained.objective.confined
    many = draws if trained.level > 0 else 1
    parts = []
    for part in x.split(BATCH):
        clean = part.to(trained.device)
        with torch.no_grad():
            noisy = (confined(noised(clean, trained.level, generator=generator)[0]) for _ in range(many))
            values = [value(y).double() for y in noisy]
        parts.append(torch.stack(values).mean(0).cpu() / trained.temperature)
    return torch.cat(parts)


def energies_on_grid(trained: Trained, box: Box, *, side: int = GRID) -> Tensor:
    """Return energies over temperature on a regular grid, ``(side, side)``, the lowest 0; the first index is x₀."""
    points = torch.cartesian_prod(*(torch.linspace(low, high, side) for low, high in box)).to(trained.device)
    energy_fn = trained.require_energy()
    with torch.no_grad():
        energy = torch.cat([energy_fn(part) for part in points.split(20_000)]).cpu()
    return ((energy - energy.min()) / trained.temperature).reshape(side, side)


class Scored(NamedTuple):
    """Energies of points over temperature, and their quantiles.

    Args:
        energy: ``(n,)``.
        quantile: Share of known points with no higher energy, or NaN, ``(n,)``.
        among: Name of the known points.
    """

    energy: Tensor
    quantile: Tensor
    among: str


def quantiles(
    trained: Trained, known: Dataset, x: Tensor, *, among: str, draws: int = DRAWS, seed: int | None = None
) -> Scored:
    """Return energies of points and their quantiles among known data; ``among`` names those."""
    many = min(KNOWN, known.size or KNOWN)
    drawn = known.draw(many, generator=trained.stream("known", seed=seed, device="cpu"))
    energy = energies(trained, x, draws=draws, seed=seed)
    ordered = energies(trained, drawn, draws=draws, seed=seed).sort().values
    share = torch.searchsorted(ordered, energy, right=True).double() / many
    return Scored(energy, share.where(~energy.isnan(), torch.nan), f"{many:,} {among} points")


def score_table(scored: Scored) -> str:
    """Return scores as a table with commas.

    Examples:
        >>> print(score_table(Scored(torch.tensor([1.5]), torch.tensor([0.25]), "100 images")), end="")
        index,energy,quantile
        0,1.5,0.25
    """
    rows = zip(scored.energy.tolist(), scored.quantile.tolist(), strict=True)
    lines = (f"{index},{energy:.9g},{share:.6g}\n" for index, (energy, share) in enumerate(rows))
    return "index,energy,quantile\n" + "".join(lines)


def check_table(path: Path, draws: int) -> None:
    """Raise an error before any work is done if a table of scores could not be made."""
    check_file_name(path)
    if path.suffix.lower() != ".csv":
        raise UserError(f"{path}: scores are a table: expected the name of a file that ends in .csv")
    if draws < 1:
        raise UserError(f"at least 1 draw of the noise; there were {draws}")
