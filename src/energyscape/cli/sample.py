"""Generate from a trained run."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from energyscape.cli.terminal import RunFolder, Settings, app, complain, open_run, say, working


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
        n: Number of samples.
        out: File to write: .png (a picture), .npy, .npz or .csv (numbers), or for points in the plane .gif or .mp4 (a
            film of the chains); RUN/samples.png by default.
        start: Start of the chains.
        steps: Steps of each chain or of the solver; the recipe's by default.
        label: Class of all samples, its name or else its number, of a run that has learned classes; each class in turn
            by default.
        seed: Seed of the chains; the run's by default.
    """
    from energyscape.inference import Generated, joined
    from energyscape.inference.files import check_writable, write_batches
    from energyscape.recipe import overrides_from
    from energyscape.reports.film import FILMS, check_film, write_film

    opened = open_run(run)
    experiment = opened.experiment(overrides_from(settings))
    path = out or opened.path / "samples.png"
    moving = path.suffix.lower() in FILMS
    check_film(path, experiment) if moving else check_writable(path, experiment.space.shape)
    steps = experiment.sampler.steps if steps is None else steps
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
        batches = followed(experiment.trained.sampling(n, start=start, steps=steps, label=index, seed=seed, **shown))
        if moving:
            write_film(path, experiment, joined(batches))
        else:
            write_batches(path, (batch.x for batch in batches), shape=(n, *experiment.space.shape))
    if diverged:
        complain(f"{diverged} {experiment.sampler.not_finite}")
    say(f"{n} samples{what} from {start}, {steps} steps: {path}")
    return 0
