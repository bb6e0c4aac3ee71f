"""Make a film of a run's training."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, open_run, say, working


@app.command
def animate(run: RunFolder, /, *, out: Path | None = None, fps: float = 8.0) -> int:
    """Make a film of a run's training, from the frames that it kept: train with --train.frames 40.

    Args:
        run: The run's folder, of a law in the plane.
        out: File to write: .gif, or .mp4 with ffmpeg; RUN/training.gif by default.
        fps: Frames a second.
    """
    from energyscape.plotting import save_animation
    from energyscape.reports.film import check_film, training_film

    opened = open_run(run)
    path = out or opened.path / "training.gif"
    check_film(path, opened.experiment())
    with working("drawing"):
        save_animation(training_film(opened), path, fps=fps)
    say(f"film: {path}")
    return 0
