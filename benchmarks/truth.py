"""Measure the seconds of training until KL(data‖model) ≤ 0.05 nats in the plane, or until samples are digits.

Each recipe of `8gaussians-…` that makes an energy trains with a budget of `--seconds` of CPU time on one thread, so its
learning rate has decayed at the end. Every second, off the clock, quadrature gives the KL of the weights that a sampler
would use (averaged if the recipe averages). Everything else counts: building the model, first steps, compilation.
"Lost" means that the KL rose above the goal again later; inf means that it never reached the goal.

Recipes of images keep their own budget. Each time a tenth more time has passed, 200 samples are drawn from noise, off
the clock. The goal is that a classifier of the training images is sure of 80 % of them (an SVC at 0.8 for the small
digits, a network at 0.9 for MNIST), and that their classes have 0.9 of the entropy of equal shares.

    python benchmarks/truth.py [--laws 8gaussians,moons] [--objectives sm,cd] [--seconds 30] [--seeds 1]
    python benchmarks/truth.py --images digits-pcd,digits-ncsn,mnist-edm [--seeds 1]
"""

import argparse
import math
import time
from collections.abc import Callable

import torch

from energyscape.evaluation import classifier_for, kl, recognise
from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.training import Verdict

GOAL = 0.05
"""Nats."""

JUDGED = 200
"""Samples in each look at images."""

EVEN = 0.9
"""Entropy of the classes that are seen, over that of equal shares: to an SVC the mean of all digits is surely an 8."""

EDGE = 1e-3
"""A model with more of its mass at the edge of the widest box is taken for infinitely far."""


def has_energy(recipe: str) -> bool:
    return Experiment(Recipe.named(recipe).resolved()).trained.energy is not None


def divergence(experiment: Experiment) -> float:
    """Return the KL of what would be sampled from."""
    found = kl(
        experiment.source, experiment.trained.require_energy(), temperature=experiment.objective.temperature, nodes=160
    )
    return found.value if math.isfinite(found.value) and found.edge_mass <= EDGE else math.inf


def unrecognised(experiment: Experiment) -> float:
    """Return the share of samples that are no digits to a classifier; all, if they are of few classes."""
    train = experiment.source
    seen = recognise(classifier_for(train), experiment.trained.sample(JUDGED, seed=1).x, 0.9)
    entropy = -(seen.shares * seen.shares.clamp(min=1e-12).log()).sum() / math.log(len(seen.shares))
    return 1 - seen.sure if entropy >= EVEN else 1.0


def approach(
    recipe: str, overrides: dict[str, str], *, distance: Callable[[Experiment], float], goal: float, rests: float
) -> tuple[float, float, float, bool, str]:
    """Trains; returns seconds to the goal and in all, the last distance, whether the goal was lost, how it ended.

    `rests` is how much of the time that was spent passes until the next look, which is at least a second.
    """
    begun = time.process_time()
    experiment = Experiment(Recipe.named(recipe, overrides | {"train.threads": "1"}).resolved())
    fit, looked, off = experiment.fit(), 0.0, 0.0
    first, lost, value, verdict = math.inf, False, math.inf, ""
    for report in fit:
        spent = time.process_time() - begun - off
        if report.verdict == Verdict.STOP:
            verdict = "stopped"
        if spent - looked >= max(1, rests * looked) or fit.progress >= 1:
            looked, looking = spent, time.process_time()
            value = distance(experiment)
            experiment.model.train()
            off += time.process_time() - looking
            if value <= goal:
                first = min(first, spent)
            elif math.isfinite(first):
                lost = True
    return first, spent, value, lost, verdict


def line(found: list[tuple[float, float, float, bool, str]], *, digits: int) -> str:
    """Return what was found with each seed, as cells of a table."""
    firsts, alls, values = ([f"{each[i]:.{digits if i == 2 else 1}f}" for each in found] for i in range(3))
    notes = sorted({note for each in found for note in ("lost" if each[3] else "", each[4]) if note})
    return " | ".join(", ".join(each) for each in (firsts, alls, values, notes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", default="8gaussians", help="names, with commas between")
    parser.add_argument("--objectives", help="names of recipes of energies without 8gaussians-; all when left out")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--images", help="recipes of digits to train instead, with commas between")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.images:
        print("| recipe | seconds to 80 % digits | seconds in all | share that is none | |\n|---|---|---|---|---|")
        for recipe in args.images.split(","):
            found = [
                approach(recipe, {"train.seed": str(seed)}, distance=unrecognised, goal=0.2, rests=0.1)
                for seed in range(args.seeds)
            ]
            print(f"| {recipe} | {line(found, digits=3)} |", flush=True)
        return
    prefix = "8gaussians-"
    known = [name.removeprefix(prefix) for name in recipe_names() if name.startswith(prefix) and has_energy(name)]
    chosen = args.objectives.split(",") if args.objectives else known
    if strange := sorted(set(chosen) - set(known)):
        parser.error(
            f"--objectives are names of recipes of energies, {', '.join(known)}; there was {', '.join(strange)}"
        )
    print(f"| law | objective | seconds to KL ≤ {GOAL} | seconds in all | KL at the end | |\n|---|---|---|---|---|---|")
    for law in args.laws.split(","):
        for objective in chosen:
            found = [
                approach(
                    f"{prefix}{objective}",
                    {"data.name": law, "train.budget": f"{args.seconds:g} cpu-s", "train.seed": str(seed)},
                    distance=divergence,
                    goal=GOAL,
                    rests=0,
                )
                for seed in range(args.seeds)
            ]
            print(f"| {law} | {objective} | {line(found, digits=4)} |", flush=True)


if __name__ == "__main__":
    main()
