"""Films of what happens in the plane: a landscape that is learned, chains that move on one."""

from pathlib import Path
from typing import Final

from energyscape.data import Distribution
from energyscape.errors import UserError
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.frames import kept_frames
from energyscape.experiment.generation import draw_data, energies_on_grid
from energyscape.experiment.run import Run
from energyscape.experiment.solving import Generated
from energyscape.plotting import Animation, TrainingFrame, animate_chains, animate_training, save_animation

FILMS: Final = (".gif", ".mp4")


def check_film(path: Path, experiment: Experiment) -> None:
    """Raise before any work is done if a film could not be written there."""
    if path.suffix.lower() not in FILMS:
        raise UserError(f"{path}: expected a name ending in {' or '.join(FILMS)}")
    if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise UserError(f"{path}: expected the name of a file in a folder")
    if not isinstance(experiment.source, Distribution):
        raise UserError(f"{path}: films show laws in the plane; this run's points have shape {experiment.shape}")


def training_film(run: Run) -> Animation:
    """Return the film of a run's training."""
    experiment = run.experiment()
    law = _law(experiment)
    frames = [
        TrainingFrame(frame.seen, frame.energy, frame.x, frame.progress) for frame in kept_frames(run.frames_path)
    ]
    data = draw_data(law, 1_000, generator=seeded(experiment, None, "film", device="cpu"))
    return animate_training(frames, data, law.box)


def write_film(path: Path, experiment: Experiment, generated: Generated) -> None:
    """Write the film of chains on their landscape."""
    law = _law(experiment)
    energy = energies_on_grid(experiment, law.box)
    save_animation(animate_chains(generated.path, energy, law.box, generated.at), path)


def _law(experiment: Experiment) -> Distribution:
    assert isinstance(experiment.source, Distribution)  # `check_film` has looked
    return experiment.source
