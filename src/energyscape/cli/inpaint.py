"""Complete pictures of which a part is missing."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, open_run, say, working
from energyscape.errors import UserError


@app.command
def inpaint(
    run: RunFolder,
    picture: Path,
    /,
    *,
    mask: Path,
    out: Path | None = None,
    n: int = 8,
    steps: int | None = None,
    seed: int | None = None,
) -> int:
    """Complete an image of which a part is missing: several draws of what may have been there.

    Args:
        run: The run's folder, of images.
        picture: The image, without noise (.png, .jpg, .npy, .npz).
        mask: A picture or an array of the same size: white (or true, or 1) is missing, black is known.
        out: File of the completions; by default beside the picture, with -completed in its name.
        n: Number of draws.
        steps: Steps of each chain; those of the recipe's sampler by default.
        seed: Seed of the chains; the run's by default.
    """
    from energyscape.inference.files import check_writable, read_mask, read_points, write_points

    opened = open_run(run)
    experiment = opened.experiment()
    shape = experiment.space.shape
    if not experiment.space.is_image:
        raise UserError(f"{run}: inpainting is for runs of images; this run's points have shape {shape}")
    y, missing = read_points(picture, shape, extent=opened.extent()), read_mask(mask, shape)
    path = out or picture.with_name(f"{picture.stem}-completed.png")
    check_writable(path, shape)
    if len(y) != 1:
        raise UserError(f"expected one image; {picture} holds {len(y)}")
    with working("completing"):
        x = experiment.trained.inpaint(y, missing, n=n, steps=steps, seed=seed)
    write_points(path, x[:, 0])
    say(f"{n} completions of {int(missing.sum())} missing pixels of {missing.numel()}: {path}")
    return 0
