"""Compare objectives, or samplers, with the exact density."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from energyscape.cli.terminal import Settings, app, interruptible, say, working
from energyscape.errors import UserError

if TYPE_CHECKING:
    from energyscape.laboratory import Cell, Score


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
    """Train every objective on laws in the plane, or run every sampler on one, and score them by the exact density.

    Finished cells are not run again. Ctrl-C keeps the others, and the same command continues them.

    Args:
        laws: 8gaussians, moons, …: laws with an exact density, with commas between them, or all.
        settings: Any setting of the law or the recipes, such as --data.noise 0.05 or --data.path points.csv.
        objectives: all, or names with commas between them (the default, all): recipes named 8gaussians-NAME, and
            objectives of plain energies.
        samplers: all, or names of samplers, on the landscape of one law.
        seeds: Number of runs of each.
        budget: Length of each run: a time (30s), a time of the processor (30cpu-s) or, for objectives, samples (400k).
        jobs: Number of runs side by side, each in its own process; by default one for each processor.
        out: Folder for the runs, scores.csv, scoreboard.md, scoreboard.png and scoreboard.html.
    """
    from energyscape.laboratory import KernelCell, ObjectiveCell, distributions_named, plan
    from energyscape.recipe import overrides_from
    from energyscape.reports.comparison_page import write_comparison

    if objectives is not None and samplers is not None:
        raise UserError("compare either --objectives or --samplers: the one trains, the other samples what is known")
    names, kind = distributions_named(laws), ObjectiveCell if samplers is None else KernelCell
    if samplers is not None and len(names) != 1:
        raise UserError(f"samplers are compared on the landscape of one law; there were {len(names)}")
    which = samplers or objectives or "all"
    cells = plan(kind, names, which=which, seeds=seeds, budget=budget, folder=out, settings=overrides_from(settings))
    scores = run_cells(cells, jobs, budget)
    if scores is None:
        return 130
    summary = out if samplers is None else cells[0].folder.parent
    print_tables(write_comparison(scores, out=summary, command=command_line()))
    return 0


def run_cells(cells: "Sequence[Cell]", jobs: int | None, budget: str) -> "list[Score] | None":
    """Run the cells of a comparison, print their cost and results, and return the scores, or None if stopped."""
    from energyscape.laboratory import run_jobs
    from energyscape.recipe.settings import Budget

    scores: dict[int, Score] = {}
    side_by_side = (os.cpu_count() or 1) if jobs is None else jobs
    seconds, left = Budget.parse(budget, epoch=1).seconds, sum(each.stored() is None for each in cells)
    if left and side_by_side > 0:
        cost = "" if seconds is None else f", together about {seconds * left / 60:,.1f} minutes"
        print(f"{left} runs of {budget} each{cost}, {side_by_side} side by side", file=sys.stderr, flush=True)
    with (
        interruptible(lambda: "the same command goes on, and finished runs are kept") as interrupted,
        working(f"{len(cells)} runs"),
    ):
        for index, score in run_jobs(cells, jobs=side_by_side, stopping=interrupted):
            scores[index] = score
            print(f"{len(scores)} of {len(cells)}: {score.summary()}", file=sys.stderr, flush=True)
    if len(scores) < len(cells):
        say(f"stopped with {len(scores)} of {len(cells)} done; the same command goes on")
        return None
    return [scores[index] for index in range(len(cells))]


def print_tables(written: "Iterable[tuple[list[list[str]] | None, str]]") -> None:
    """Print tables, each with the text after it, while they are written."""
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


def command_line() -> str:
    """Return the command that this process was started with."""
    import shlex

    return shlex.join(["energyscape", *sys.argv[1:]])
