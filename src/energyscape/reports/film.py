"""Films of what happens in the plane: a landscape that is learned, chains that move on one."""

from pathlib import Path
from typing import Final

from energyscape.calculus import Box
from energyscape.errors import UserError
from energyscape.files import check_file_name
from energyscape.inference import Generated
from energyscape.inference.scoring import energies_on_grid
from energyscape.plotting import Animation, TrainingFrame, animate_chains, animate_training, save_animation
from energyscape.recipe import Experiment
from energyscape.runs import Run
from energyscape.runs.frames import kept_frames

FILMS: Final = (".gif", ".mp4")


def check_film(path: Path, experiment: Experiment) -> None:
    """Raise before any work is done if a film could not be written there."""
    if path.suffix.lower() not in FILMS:
        raise UserError(f"{path}: expected a name ending in {' or '.join(FILMS)}")
    check_file_name(path)
    if experiment.source.box is None:
        raise UserError(f"{path}: films show points in the plane; this run's have shape {experiment.space.shape}")


def training_film(run: Run) -> Animation:
    """Return the film of a run's training."""
    experiment = run.experiment()
    frames = [
        TrainingFrame(frame.seen, frame.energy, frame.x, frame.progress) for frame in kept_frames(run.frames_path)
    ]
    data = experiment.source.draw(1_000, generator=experiment.trained.stream("film", device="cpu"))
    return animate_training(frames, data, _box(experiment))


def write_film(path: Path, experiment: Experiment, generated: Generated) -> None:
    """Write the film of chains on their landscape."""
    box = _box(experiment)
    energy = energies_on_grid(experiment.trained, box)
    save_animation(animate_chains(generated.path, energy, box, generated.at), path)


def _box(experiment: Experiment) -> Box:
    assert experiment.source.box is not None  # `check_film` has looked
    return experiment.source.box
