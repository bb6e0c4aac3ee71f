"""Every method, or every sampler, against the exact truth."""

import os
import sys
from pathlib import Path
from typing import Any

from energyscape.cli.terminal import Settings, app, interruptible, say, working
from energyscape.errors import UserError


@app.command
def compare(
    laws: str,
    /,
    *settings: Settings,
    objectives: str | None = None,
    samplers: str | None = None,
    seeds: int = 3,
    budget: str = "30cpu-s",
    jobs: int | None = None,
    out: Path = Path("runs/compare"),
) -> int:
    """Train every method on laws in the plane, or run every sampler on one, and score them against the exact truth.

    Finished cells are not run again; Ctrl-C puts the others aside, and the same command goes on.

    Args:
        laws: 8gaussians, moons, …: laws with an exact density, with commas between them, or all.
        settings: Any setting of the law or the recipes, such as --data.noise 0.05 or --data.path points.csv.
        objectives: all, or names with commas between them; they are the recipes named 8gaussians-NAME. The default.
        samplers: all, or names of samplers, on the landscape of one law.
        seeds: How many runs of each.
        budget: Of each run: a time (30s), a time of the processor (30cpu-s) or, for objectives, samples (400k).
        jobs: Runs side by side, each in a process; one for each processor when left out.
        out: Where the runs, scores.csv, scoreboard.md, scoreboard.png and scoreboard.html go.
    """
    from energyscape.laboratory import laws_named, plan, plan_samplers
    from energyscape.recipe import overrides_from
    from energyscape.reports.comparison_page import write_methods, write_samplers

    if objectives is not None and samplers is not None:
        raise UserError("compare either --objectives or --samplers: the one trains, the other samples what is known")
    if not 1 <= seeds <= 1_000:
        raise UserError(f"seeds is at {'least 1' if seeds < 1 else 'most 1,000'}; it was {seeds}")
    names, overrides = laws_named(laws), overrides_from(settings)
    if samplers is not None:
        if len(names) != 1:
            raise UserError(f"samplers are compared on the landscape of one law; there were {len(names)}")
        cells = plan_samplers(names[0], which=samplers, seeds=seeds, budget=budget, folder=out, settings=overrides)
        scores = contested(cells, jobs, budget)
        return 130 if scores is None else boards(write_samplers(cells, scores))
    which = "all" if objectives is None else objectives
    trainings = plan(names, which=which, seeds=seeds, budget=budget, folder=out, settings=overrides)
    reached = contested(trainings, jobs, budget)
    return 130 if reached is None else boards(write_methods(trainings, reached, out=out, command=command_line()))


def contested(cells: Any, jobs: int | None, budget: str) -> Any:
    """Run the cells of a comparison, say what they cost and reach, and return their scores, or none if stopped."""
    from energyscape.laboratory import contest
    from energyscape.recipe.settings import Budget

    scores: list[Any] = [None] * len(cells)
    side_by_side = (os.cpu_count() or 1) if jobs is None else jobs
    seconds, left = Budget.parse(budget, epoch=1).seconds, sum(each.score() is None for each in cells)
    if left and side_by_side > 0:
        cost = "" if seconds is None else f", together about {seconds * left / 60:,.1f} minutes"
        print(f"{left} runs of {budget} each{cost}, {side_by_side} side by side", file=sys.stderr, flush=True)
    with (
        interruptible(lambda: "the same command goes on, and finished runs are kept") as interrupted,
        working(f"{len(cells)} runs"),
    ):
        for done, (place, score) in enumerate(contest(cells, jobs=side_by_side, stopping=interrupted), 1):
            scores[place] = score
            print(f"{done} of {len(cells)}: {score.said()}", file=sys.stderr, flush=True)
    if None in scores:
        say(f"stopped with {len(cells) - scores.count(None)} of {len(cells)} done; the same command goes on")
        return None
    return scores


def boards(written: Any) -> int:
    """Print scoreboards while they are written.

    Args:
        written: Pairs of a table, or none, and what to say after it.
    """
    from rich.console import Console
    from rich.table import Column, Table

    for table, text in written:
        if table:
            head, *rows = table
            shown = Table(*(Column(name, no_wrap=name == head[0], overflow="fold") for name in head), box=None)
            for row in rows:
                shown.add_row(*row)
            Console().print(shown)
        say(text)
    return 0


def command_line() -> str:
    """Return the command that this process was started with."""
    import shlex

    return shlex.join(["energyscape", *sys.argv[1:]])
