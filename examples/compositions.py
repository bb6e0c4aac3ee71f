"""Compose two models: both, either, one without the other. Compare "both" with a plain sum of scores."""

import warnings
from functools import partial
from pathlib import Path

import torch

import energyscape as es
from energyscape import plotting
from energyscape.models import ComposedLevels, Mixture, MixtureDenoiser, Negation, Product, ScoreSum
from energyscape.samplers import DDPM, descend, solve
from energyscape.schedules import Karras, geometric

BOX, CELLS, FINE = ((-4.8, 4.8), (-4.8, 4.8)), 20, 15
LOW, TOP = 0.15, 5.0


def divergence(x: torch.Tensor, grid: torch.Tensor) -> float:
    """Return the KL of samples to a landscape in cells of the box, minus the expected value for exact samples."""
    mass = (grid.min() - grid).exp().view(CELLS, FINE, CELLS, FINE).sum((1, 3)).flatten()
    place = ((x - BOX[0][0]) / (BOX[0][1] - BOX[0][0]) * CELLS).floor().long().clamp(0, CELLS - 1)
    share = torch.bincount(place @ torch.tensor([CELLS, 1]), minlength=CELLS**2) / len(x)
    there = share > 0
    kl = (share[there] * (share[there] / (mass / mass.sum())[there]).log()).sum()
    return float(kl) - (int(there.sum()) - 1) / (2 * len(x))


def main(chains: int = 4000, steps: int = 12, out: Path = Path("compositions.png")) -> dict[str, float]:
    torch.set_num_threads(1)
    draws = torch.Generator().manual_seed(0)
    ring = MixtureDenoiser(es.GaussianMixture(es.EightGaussians().modes, std=0.354))
    places = torch.cartesian_prod(torch.tensor([-2.0, 0.0, 2.0]), torch.tensor([-2.0, 2.0]))
    blobs = MixtureDenoiser(es.GaussianMixture(places, std=0.6, weights=torch.tensor([3.0, 1, 1, 2, 1, 1])))
    noise = torch.randn(chains, 2, generator=draws)
    width = (BOX[0][1] - BOX[0][0]) / (CELLS * FINE)
    axis = BOX[0][0] + width * (torch.arange(CELLS * FINE) + 0.5)
    kernel, sigmas = partial(es.HMC, step_size=0.7, leapfrog_steps=3, jitter=0.3), geometric(LOW, TOP, 8)[::-1]

    rules = {"both": Product(), "either": Mixture((0.3, 0.7)), "the ring without the blobs": Negation(strength=0.3)}
    rows, found = [], {}
    for name, rule in rules.items():
        # Compose the energies at every level, and sample each level with a kernel that has a Metropolis test.
        levels = ComposedLevels(rule, ring, blobs)
        *_, last = descend(levels, TOP * noise, sigmas=sigmas, kernel=kernel, steps=steps, detail=0.25, generator=draws)
        grid = levels.at(LOW)(torch.cartesian_prod(axis, axis)).detach().view(len(axis), -1)
        found[name] = divergence(last.x, grid)
        rows.append((f"{name}: {type(rule).__name__.lower()}", found[name], grid, last.x))

    # A solver assumes that the sum of scores is the score of noised data. It is not.
    with warnings.catch_warnings(action="ignore"):
        both = ScoreSum(ring, blobs)
    solver = DDPM(both, Karras()(100))
    *_, end = solve(solver, solver.start(noise), generator=draws)
    found["sum"] = divergence(end.x, rows[0][2])
    rows.insert(1, ("both, by a plain sum of scores", found["sum"], rows[0][2], end.x))

    multiples = []
    for title, kl, grid, x in rows:
        cells = torch.multinomial((grid.min() - grid).exp().flatten(), chains, replacement=True, generator=draws)
        exact = torch.cartesian_prod(axis, axis)[cells] + width * (torch.rand(chains, 2, generator=draws) - 0.5)
        multiples.append(plotting.Multiple(title, f"KL {kl:.3f}", exact, grid, x))
        print(f"{title}: KL(samples‖truth) = {kl:.3f} nats")
    plotting.small_multiples(multiples, BOX, title="two models made one (left: exact draws)").savefig(out, dpi=200)
    return found


if __name__ == "__main__":
    main()
