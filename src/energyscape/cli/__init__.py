"""The command line. Heavy imports are inside the commands, so that ``--help`` answers at once."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter

from energyscape.cli import catalogue, compare, doctor, export, inpaint, score, show  # noqa: F401 (they add their commands)
from energyscape.cli.terminal import RunFolder, Settings, app, complain, interruptible, open_run, say, working
from energyscape.errors import UserError


@app.command
def train(recipe: str, /, *settings: Settings, seed: int | None = None, out: Path | None = None) -> int:
    """Train a recipe; the same command again resumes, and a finished run says so.

    Ctrl-C ends on a checkpoint.

    Args:
        recipe: A recipe's name (see `energyscape list recipes`) or the path of a TOML file.
        settings: Any setting of the recipe, such as --train.budget 60s or --objective.steps 10.
        seed: Of everything random.
        out: The run's folder; runs/RECIPE when left out, with the settings you changed in its name.
    """
    from energyscape.experiment import Experiment, Recipe, Run, overrides_from
    from energyscape.experiment.examination import forewarned

    overrides = overrides_from(settings) | ({} if seed is None else {"train.seed": str(seed)})
    experiment = Experiment(Recipe.named(recipe, overrides))
    changed = "".join(f"+{key.removeprefix('train.')}={value}" for key, value in sorted(overrides.items()))
    name = f"{Path(recipe).stem if recipe.endswith('.toml') else recipe}{changed}".replace("/", "_").replace(" ", "")
    run = Run.create(out or Path("runs") / name, experiment)
    for each in () if run.checkpoints() else forewarned(experiment):
        complain(f"warning: {each.cause} ({each.evidence}): {each.remedy}")
    if experiment.objective.conditional and (names := run.classes()):
        say(f"{run.path}: classes {', '.join(f'{index} {each!r}' for index, each in enumerate(names[:100]))}")
    return carry_on(run, experiment)


def carry_on(run: Any, experiment: Any) -> int:
    """Train a run from where it is until it ends or is stopped, and return the exit status."""
    from energyscape.display import TrainingDisplay
    from energyscape.experiment import Session
    from energyscape.experiment.efficiency import efficiency
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
    say(str(efficiency(experiment, speed=display.speed)))
    say(f"{run.path}: finished. Next: energyscape sample {run.path}, energyscape report {run.path}")
    return 0


@app.command
def sample(
    run: RunFolder,
    /,
    *settings: Settings,
    n: int = 64,
    out: Path | None = None,
    start: Literal["noise", "data", "buffer"] = "noise",
    steps: int | None = None,
    label: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    seed: int | None = None,
) -> int:
    """Generate from a trained run.

    Args:
        run: The run's folder.
        settings: Settings of the recipe's sampler to change, such as --sampler.solver.name dpm++.
        n: How many samples.
        out: Where to write: .png (a picture), .npy, .npz or .csv (numbers), or for points in the plane .gif or .mp4 (a
            film of the chains); RUN/samples.png when left out.
        start: Where chains begin.
        steps: Steps of each chain or of the solver; the recipe's when left out.
        label: Class of all samples, its name or else its number, of a run that has learned classes; each class in turn
            when left out.
        seed: Of the chains; the run's when left out.
    """
    from energyscape.experiment import overrides_from
    from energyscape.experiment.files import check_writable, write_batches
    from energyscape.experiment.film import FILMS, check_film, write_film
    from energyscape.experiment.generation import generating
    from energyscape.experiment.solving import Generated, joined

    opened = open_run(run)
    experiment = opened.experiment(overrides_from(settings))
    path = out or opened.path / "samples.png"
    moving = path.suffix.lower() in FILMS
    check_film(path, experiment) if moving else check_writable(path, experiment.shape)
    steps = experiment.sampling.steps if steps is None else steps
    index, what = opened.label(label)
    if label and label.isdecimal() and int(label) != index:
        complain(f"--label {label} is the name of a class here, not its number:{what}")
    diverged = drawn = 0

    def followed(batches: Iterable[Generated]) -> Iterator[Generated]:
        nonlocal diverged, drawn
        for batch in batches:
            diverged, drawn = diverged + batch.diverged, drawn + len(batch.x)
            tell(f"{drawn:,} of {n:,}")
            yield batch

    with working("sampling") as tell:
        shown = {"shown": min(n, 300), "frames": 60} if moving else {"shown": 0}
        batches = followed(generating(experiment, n, start=start, steps=steps, label=index, seed=seed, **shown))
        if moving:
            write_film(path, experiment, joined(batches))
        else:
            write_batches(path, (batch.x for batch in batches), shape=(n, *experiment.shape))
    if diverged:
        rejected = "proposals were not finite and were rejected" if experiment.has_chains else "samples are not finite"
        complain(f"{diverged} {rejected}")
    say(f"{n} samples{what} from {start}, {steps} steps: {path}")
    return 0


@app.command
def denoise(
    run: RunFolder, noisy: Path, /, *, sigma: float, out: Path | None = None, steps: int = 300, seed: int | None = None
) -> int:
    """Restore noisy images or points: the mean of what they may have been, given the noise.

    Args:
        run: The run's folder.
        noisy: A picture (.png, .jpg) or an array (.npy, .npz, .csv) of one or many.
        sigma: Standard deviation of the noise, in the model's units (images are on [-1, 1]).
        out: Where to write; beside the input, with -restored in its name, when left out.
        steps: Steps of the posterior's chains.
        seed: Of the chains; the run's when left out.
    """
    from energyscape.experiment.files import check_writable, read_points, write_points
    from energyscape.experiment.generation import restored

    opened = open_run(run)
    experiment = opened.experiment()
    y = read_points(noisy, experiment.shape, extent=opened.extent(), sigma=sigma)
    path = out or noisy.with_stem(f"{noisy.stem}-restored")
    check_writable(path, experiment.shape)
    with working("restoring"):
        x = restored(experiment, y, sigma=sigma, steps=steps, seed=seed)
    write_points(path, x)
    say(f"{len(x)} restored: {path}")
    return 0


@app.command
def evaluate(
    run: RunFolder,
    /,
    *,
    n: int = 1_000,
    steps: int | None = None,
    inception_weights: Path | None = None,
    json: bool = False,
    seed: int | None = None,
) -> int:
    """Measure a trained run: each figure with its error bar and protocol.

    Args:
        run: The run's folder.
        n: Samples that are judged.
        steps: Steps of their chains; the recipe's when left out.
        inception_weights: pt_inception-2015-12-05-6726825d.pth, or the same as safetensors, to compare images on the
            features that published Fréchet distances use too.
        json: Print JSON instead of a table.
        seed: Of the chains; the run's when left out.
    """
    from energyscape.experiment.measures import measure
    from energyscape.files import as_json

    opened = open_run(run)
    with working("measuring"):
        experiment = opened.experiment()
        figures = measure(experiment, n=n, steps=steps, inception_weights=inception_weights, seed=seed)
    if json:
        print(as_json({figure.name: figure._asdict() for figure in figures}, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", "± s.e.", "protocol", box=None)
    for figure in figures:
        table.add_row(figure.name, figure.shown, figure.shown_error, figure.protocol)
    Console().print(table)
    return 0


@app.command
def report(run: RunFolder, /, *, out: Path | None = None, seed: int | None = None) -> int:
    """Write a run's page: what it is, how it went, what it can do. One file that needs no network.

    Args:
        run: The run's folder.
        out: Where to write; RUN/report.html when left out.
        seed: Of the chains; the run's when left out.
    """
    from energyscape.experiment.story import story
    from energyscape.files import write_whole

    opened = open_run(run)
    path = out or opened.path / "report.html"
    with working("measuring and drawing"):
        page = story(opened, seed=seed)
    write_whole(path, page.encode())
    say(f"report: {path}")
    return 0


@app.command
def animate(run: RunFolder, /, *, out: Path | None = None, fps: float = 8.0) -> int:
    """Make a film of a run's training, from the frames that it kept: train with --train.frames 40.

    Args:
        run: The run's folder, of a law in the plane.
        out: Where to write: .gif, or .mp4 where there is ffmpeg; RUN/training.gif when left out.
        fps: Frames a second.
    """
    from energyscape.experiment.film import check_film, training_film
    from energyscape.plotting import save_animation

    opened = open_run(run)
    path = out or opened.path / "training.gif"
    check_film(path, opened.experiment())
    with working("drawing"):
        save_animation(training_film(opened), path, fps=fps)
    say(f"film: {path}")
    return 0


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 stopped by a guard, 2 a mistake, 130 interrupted.

    Args:
        words: Of the command line; the process's own when left out.
    """
    # Threads that wait for work sleep: spinning ones starve whatever else runs, and each other when cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = lambda message, *_: complain(str(message))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(words, print_error=False, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(f"{error} See energyscape --help.")
        status = 2
    except UserError as error:
        complain(str(error))
        status = 2
    except KeyboardInterrupt:
        complain("interrupted")
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        complain(f"{error.filename or 'output'}: {error.strerror or error}")
        status = 2
    except (MemoryError, RuntimeError) as error:
        # Whoever asks for too much is told so; anything else is a fault of ours and shows where it is.
        if not isinstance(error, MemoryError) and "memory" not in str(error) and "allocate" not in str(error):
            raise
        complain("not enough memory for that: ask for fewer samples, smaller batches or a smaller buffer")
        status = 2
    sys.exit(status if isinstance(status, int) else 0)
