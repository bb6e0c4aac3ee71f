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

from energyscape.calculus import score
from energyscape.data import Distribution
from energyscape.errors import UserError
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.generation import draw_data
from energyscape.noise import noised

DRAWS = 4
"""Of the noise, for each point."""

KNOWN = 2_000
"""Held-out points that others are compared with, as far as there are any."""

BATCH = 500


def energies(experiment: Experiment, x: Tensor, *, draws: int = DRAWS, seed: int | None = None) -> Tensor:
    """Return energies over temperature, ``(n,)`` in float64, averaged over draws of the noise of the training."""
    return _averaged(experiment, experiment.energy, x, draws, seed)


def slopes(experiment: Experiment, x: Tensor, *, draws: int = DRAWS, seed: int | None = None) -> Tensor:
    r"""Return :math:`\|\nabla E\| / T`, averaged likewise: large where mass is far below."""
    return _averaged(experiment, lambda y: score(experiment.energy, y).flatten(1).norm(dim=1), x, draws, seed)


def _averaged(
    experiment: Experiment, value: Callable[[Tensor], Tensor], x: Tensor, draws: int, seed: int | None
) -> Tensor:
    level, temperature = experiment.level, experiment.objective.temperature
    generator, confined = seeded(experiment, seed, "noise of scores"), experiment.objective.confined
    many = draws if level > 0 else 1
    parts = []
    for part in x.split(BATCH):
        clean = part.to(experiment.training.torch_device)
        with torch.no_grad():
            noisy = (confined(noised(clean, level, generator=generator)[0]) for _ in range(many))
            values = [value(y).double() for y in noisy]
        parts.append(torch.stack(values).mean(0).cpu() / temperature)
    return torch.cat(parts)


class Scored(NamedTuple):
    """Energies of points over temperature, the share of known points below each (or NaN), and which those are."""

    energy: Tensor
    quantile: Tensor
    among: str


def quantiles(experiment: Experiment, x: Tensor, *, draws: int = DRAWS, seed: int | None = None) -> Scored:
    """Return energies of points and their quantiles among held-out data, or training data where none are held out."""
    held = (
        isinstance(experiment.source, Distribution) or experiment.recipe.tables["data"].get("split", "train") == "train"
    )
    source = experiment.held_out if held else experiment.source
    many = KNOWN if isinstance(source, Distribution) else min(KNOWN, len(source))
    known = draw_data(source, many, generator=seeded(experiment, seed, "known", device="cpu"))
    among = f"{many:,} {'draws of the law' if isinstance(source, Distribution) else 'held-out' if held else 'training'}"
    among += "" if isinstance(source, Distribution) else " images"
    energy = energies(experiment, x, draws=draws, seed=seed)
    ordered = energies(experiment, known, draws=draws, seed=seed).sort().values
    share = torch.searchsorted(ordered, energy, right=True).double() / many
    return Scored(energy, share.where(~energy.isnan(), torch.nan), among)


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
    if path.suffix.lower() != ".csv" or path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise UserError(f"{path}: scores are a table: expected the name of a file that ends in .csv")
    if draws < 1:
        raise UserError(f"at least 1 draw of the noise; there were {draws}")
