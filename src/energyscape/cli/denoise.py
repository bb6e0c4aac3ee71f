"""Restore noisy images or points."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, open_run, say, working


@app.command
def denoise(
    run: RunFolder, noisy: Path, /, *, sigma: float, out: Path | None = None, steps: int = 300, seed: int | None = None
) -> int:
    """Restore noisy images or points: the mean of what they may have been, given the noise.

    Args:
        run: The run's folder.
        noisy: A picture (.png, .jpg) or an array (.npy, .npz, .csv) of one or many.
        sigma: Standard deviation of the noise, in the model's units (images are on [-1, 1]).
        out: File to write; by default beside the input, with -restored in its name.
        steps: Steps of the posterior's chains.
        seed: Seed of the chains; the run's by default.
    """
    from energyscape.inference.files import check_writable, read_points, write_points

    opened = open_run(run)
    experiment = opened.experiment()
    y = read_points(noisy, experiment.space.shape, extent=opened.extent(), sigma=sigma)
    path = out or noisy.with_stem(f"{noisy.stem}-restored")
    check_writable(path, experiment.space.shape)
    with working("restoring"):
        x = experiment.trained.restore(y, sigma=sigma, steps=steps, seed=seed)
    write_points(path, x)
    say(f"{len(x)} restored: {path}")
    return 0
