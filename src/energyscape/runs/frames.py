"""Frames of a training run, at even steps of its progress.

For a law in the plane a frame is one ``frames/NNNN.npz`` for a film of the training: energies over temperature on a
grid, samples, samples seen, share of the budget. For images it is a picture, ``frames/NNNN.png``: samples from the same
noise every time. Frames are written atomically and drawn from their own stream, so an interrupted run has the same
frames as an uninterrupted one.
"""

import io
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from energyscape.calculus import Box
from energyscape.errors import UserError
from energyscape.files import reading, write_whole
from energyscape.inference.files import write_points
from energyscape.inference.scoring import energies_on_grid
from energyscape.objectives.contrastive import evaluating
from energyscape.recipe import Experiment
from energyscape.training import Fit

SIDE: Final = 120
"""Points along each side of a frame's landscape."""

SAMPLES: Final = 300
"""Of a law, in a frame."""

PICTURED: Final = 64
"""Images in a frame."""


@final
class Frames:
    """The frames of one run.

    Args:
        folder: Folder of the frames.
        experiment: The run's objects.
        progress: Share of the budget used so far.

    Raises:
        UserError: If frames are wanted of a law whose model has no energy.
    """

    def __init__(self, folder: Path, experiment: Experiment, *, progress: float) -> None:
        self.folder, self.experiment = folder, experiment
        self.wanted = experiment.training.frames
        if self.wanted and experiment.source.box is not None and experiment.trained.energy is None:
            raise UserError("frames of a law show its energy, which this model has not: set --train.frames 0")
        self._next = self._due(progress) + (progress > 0)

    def _due(self, progress: float) -> int:
        return int(self.wanted * progress + 1e-9)

    def follow(self, fit: Fit[Any]) -> None:
        """Keep a frame where one is due."""
        source, due = self.experiment.source, self._due(fit.progress)
        if not self.wanted or due < self._next:
            return
        self._next = due + 1
        with evaluating(self.experiment.best):
            if source.box is not None:
                self._keep(due, source.box, fit)
            else:
                x = self.experiment.trained.sample(PICTURED, shown=1, frames=2).x
                write_points(self.folder / f"{due:04d}.{'png' if source.space.is_image else 'npy'}", x)

    def _keep(self, due: int, box: Box, fit: Fit[Any]) -> None:
        energy = energies_on_grid(self.experiment.trained, box, side=SIDE)
        x = self.experiment.trained.sample(SAMPLES, shown=1, frames=2).x
        content = io.BytesIO()
        np.savez_compressed(
            content, energy=energy.numpy().astype(np.float32), x=x.numpy(), seen=fit.samples, progress=fit.progress
        )
        write_whole(self.folder / f"{due:04d}.npz", content.getvalue())


class Frame(NamedTuple):
    """The state of a training run at one frame.

    Args:
        seen: Samples seen.
        energy: Energies over temperature on a grid, ``(N, N)``.
        x: Samples, ``(S, 2)``.
        progress: Share of the budget used.
    """

    seen: int
    energy: NDArray[np.float32]
    x: NDArray[np.float32]
    progress: float


def kept_frames(folder: Path) -> list[Frame]:
    """Return the frames of a run, in order."""
    paths = sorted(folder.glob("[0-9]*.npz"))
    if not paths:
        raise UserError(
            f"{folder} holds no frames: train a law in the plane with --train.frames 40, then animate the run"
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> Frame:
    with reading(path, "a frame of a film; delete it"), open(path, "rb") as file, np.load(file) as kept:
        frame = Frame(int(kept["seen"]), kept["energy"], kept["x"], float(kept["progress"]))
        if frame.energy.shape != (SIDE, SIDE) or frame.x.shape[1:] != (2,) or frame.x.dtype.kind != "f":
            raise ValueError("its arrays have other shapes")
    return frame
