"""Train a recipe, or go on with a run."""

from pathlib import Path
from typing import Any

from energyscape.cli.terminal import Settings, app, complain, interruptible, say


@app.command
def train(recipe: str, /, *settings: Settings, seed: int | None = None, out: Path | None = None) -> int:
    """Train a recipe; the same command again resumes, and a finished run says so.

    Ctrl-C ends on a checkpoint.

    Args:
        recipe: A recipe's name (see `energyscape list recipes`) or the path of a TOML file.
        settings: Any setting of the recipe, such as --train.budget 60s or --objective.steps 10.
        seed: Seed of all random streams.
        out: The run's folder; runs/RECIPE by default, with the settings you changed in its name.
    """
    from energyscape.doctor.from_run import forewarned
    from energyscape.recipe import Experiment, Recipe, overrides_from
    from energyscape.runs import Run

    overrides = overrides_from(settings) | ({} if seed is None else {"train.seed": str(seed)})
    experiment = Experiment(Recipe.named(recipe, overrides))
    changed = "".join(f"+{key.removeprefix('train.')}={value}" for key, value in sorted(overrides.items()))
    name = f"{Path(recipe).stem if recipe.endswith('.toml') else recipe}{changed}".replace("/", "_").replace(" ", "")
    run = Run.create(out or Path("runs") / name, experiment)
    for each in () if run.checkpoints() else forewarned(experiment):
        complain(f"warning: {each.cause} ({each.evidence}): {each.advice}")
    if experiment.objective.conditional and (names := run.classes()):
        say(f"{run.path}: classes {', '.join(f'{index} {each!r}' for index, each in enumerate(names[:100]))}")
    return carry_on(run, experiment)


def carry_on(run: Any, experiment: Any) -> int:
    """Train a run from where it is until it ends or is stopped, and return the exit status."""
    from energyscape.cli.progress import TrainingDisplay
    from energyscape.runs import Session
    from energyscape.training import Verdict

    if why := run.stopped():
        complain(why)
        return 1

    def place() -> str:
        last = [each.name for each in run.checkpoints()][-1:] or ["the beginning"]
        return f"{run.path}: the same command goes on from {last[0]}"

    with interruptible(place) as interrupted, Session(run, experiment) as session:
        if session.finished:
            say(f"{run.path} is finished ({session.fit.samples:,} samples). Next: energyscape report {run.path}")
            return 0
        if session.resumed:
            say(f"{run.path}: going on at sample {session.fit.samples:,}")
            if differing := run.changed_conditions(experiment):
                complain(f"{run.path}: the bits will differ from an uninterrupted run's ({'; '.join(differing)})")
        with TrainingDisplay(session) as display:
            report = None
            for report in display.follow(session):
                if interrupted():
                    kept = session.keep()
                    where = "there" if kept else "the last checkpoint, because numbers here are not finite"
                    say(f"{run.path}: stopped at sample {report.samples:,}; the same command goes on from {where}")
                    return 130
    if report is not None and report.verdict == Verdict.STOP:
        complain(run.stopped())
        return 1
    say(f"{display.speed:,.0f} samples/s")
    say(f"{run.path}: finished. Next: energyscape sample {run.path}, energyscape report {run.path}")
    return 0
