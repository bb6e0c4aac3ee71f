"""How soon training knows the truth: seconds until KL(law‖model) ≤ 0.05 nats, by objective, on laws in the plane.

Each recipe of `8gaussians-…` is trained with the whole budget of `--seconds` of processor time on one thread, so that
rates that decay have done so at its end, and the KL of the weights that would be sampled from (averaged where the
recipe averages) is taken by quadrature every second, off the clock. Everything before that counts: making the model,
first steps, compilation where there is one. "Lost" says that the KL was above the line again later; inf that it never
came there.

    python benchmarks/truth.py [--laws 8gaussians,moons] [--objectives sm,cd] [--seconds 30] [--seeds 1]
"""

import argparse
import math
import time

import torch

from energyscape.evaluation import kl
from energyscape.experiment import Experiment, Recipe, recipe_names
from energyscape.training import Verdict

GOAL = 0.05
"""Nats."""

EDGE = 1e-3
"""A model with more of its mass at the edge of the widest box is taken for infinitely far."""


def divergence(experiment: Experiment) -> float:
    """Returns the KL of what would be sampled from."""
    told = kl(experiment.source, experiment.energy, temperature=experiment.objective.temperature, nodes=160)
    return told.value if math.isfinite(told.value) and told.edge_mass <= EDGE else math.inf


def approach(law: str, objective: str, *, seed: int, seconds: float) -> tuple[float, float, bool, str]:
    """Trains, and returns the seconds to the goal, the last KL, whether the goal was lost, and how it ended."""
    overrides = {"data.name": law, "train.budget": f"{seconds:g} cpu-s", "train.seed": str(seed), "train.threads": "1"}
    begun = time.process_time()
    experiment = Experiment(Recipe.named(f"8gaussians-{objective}", overrides).resolved())
    fit, looked, off = experiment.fit(), 0.0, 0.0
    first, lost, value, verdict = math.inf, False, math.inf, ""
    for report in fit:
        spent = time.process_time() - begun - off
        if report.verdict == Verdict.STOP:
            verdict = "stopped"
        if spent - looked >= 1 or fit.progress >= 1:
            looked, looking = spent, time.process_time()
            value = divergence(experiment)
            off += time.process_time() - looking
            if value <= GOAL:
                first = min(first, spent)
            elif math.isfinite(first):
                lost = True
    return first, value, lost, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", default="8gaussians", help="names, with commas between")
    parser.add_argument("--objectives", help="names of the recipes without 8gaussians-; all when left out")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    prefix = "8gaussians-"
    known = [name.removeprefix(prefix) for name in recipe_names() if name.startswith(prefix)]
    print(f"| law | objective | seconds to KL ≤ {GOAL} | KL after {args.seconds:g} s | |\n|---|---|---|---|---|")
    for law in args.laws.split(","):
        for objective in args.objectives.split(",") if args.objectives else known:
            told = [approach(law, objective, seed=seed, seconds=args.seconds) for seed in range(args.seeds)]
            times, values = [f"{each[0]:.1f}" for each in told], [f"{each[1]:.4f}" for each in told]
            notes = sorted({note for each in told for note in ("lost" if each[2] else "", each[3]) if note})
            print(
                f"| {law} | {objective} | {', '.join(times)} | {', '.join(values)} | {', '.join(notes)} |", flush=True
            )


if __name__ == "__main__":
    main()
