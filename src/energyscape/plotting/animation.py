"""Animations: chains on a landscape, a landscape during training.

All frames are drawn in one figure with new numbers, so limits, colours and layout cannot differ between them.
"""

import contextlib
import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import matplotlib as mpl
import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from energyscape.errors import UserError
from energyscape.files import write_whole
from energyscape.plotting.axes import (
    OKABE_ITO,
    Array,
    Box,
    draw_points,
    inside,
    numbers,
    plane,
    plane_axes,
    unseen,
)
from energyscape.plotting.fields import path_in_plane
from energyscape.plotting.relief import BAR, Relief, colour_bar, fill, fill_with_bar

SUFFIXES = (".gif", ".mp4")

BLANK = "#BBBBBB"
"""Colour of non-finite energies."""

TAILS, TRAIL = 10, 4
"""Chains that have a tail, and earlier positions that it joins."""


@final
@dataclass(frozen=True)
class Animation:
    """A sequence of pictures, each drawn on demand.

    Args:
        figure: The figure; its layout is fixed by the first frame.
        count: Number of frames.
        show: Puts the numbers of a frame, from 0, into the figure.

    Examples:
        >>> path = np.zeros((3, 1, 2))
        >>> film = animate_chains(path, np.eye(4), ((-1, 1), (-1, 1)), at=[0, 1, 2])
        >>> len(film), film.pixels(0).shape, film.pixels(0).dtype
        (3, (520, 630, 3), dtype('uint8'))
    """

    figure: Figure
    count: int
    show: Callable[[int], None]

    def __len__(self) -> int:
        return self.count

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Draw one frame, from 0, as bytes ``(height, width, 3)``."""
        if not 0 <= index < self.count:
            raise IndexError(f"frames are 0 to {self.count - 1}; there is no {index}")
        self.show(index)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[no-untyped-call]


class TrainingFrame(NamedTuple):
    """The state of a training run.

    Args:
        seen: Samples seen so far.
        energy_grid: Energies over temperature, ``(N, M)``, as `landscape` takes them.
        samples: Samples of the model, ``(S, 2)``, or none; the title counts those outside.
        progress: Share of the budget used, from 0 to 1, if known.
    """

    seen: int
    energy_grid: Array
    samples: Array | None = None
    progress: float | None = None


def animate_chains(
    path: Array, energy_grid: Array, box: Box, at: Sequence[int], *, top: float | None = None, title: str = ""
) -> Animation:
    """Animate chains on a landscape, the first few with a short tail, a frame for each kept position.

    If kept positions are evenly spaced in the logarithm of the step, later frames span more steps. The title shows the
    step.
    """
    kept = path_in_plane(path)
    if len(at) != len(kept):
        raise UserError(f"every kept position has its step; there were {len(kept)} positions and {len(at)} steps")
    figure, axes = plane_axes(box, title=" ", beside=BAR)
    fill_with_bar(figure, axes, Relief.of(energy_grid, box, top=top))
    tails = LineCollection([], colors="#FFFFFF", linewidths=1.2, alpha=0.8)
    axes.add_collection(tails, autolim=False)
    chains = draw_points(axes, kept[0], colour=OKABE_ITO[1], area=6_000, least=10, rim="#FFFFFF")

    def show(index: int) -> None:
        tails.set_segments(list(kept[max(index - TRAIL, 0) : index + 1, :TAILS].swapaxes(0, 1)))
        chains.set_offsets(kept[index])
        axes.set_title(_joined(title, f"step {at[index]:,}", unseen(inside(kept[index], box))), fontsize=11)

    return _settled(figure, len(kept), show)


def animate_training(
    frames: Sequence[TrainingFrame], data: Array, box: Box, *, top: float | None = None, title: str = ""
) -> Animation:
    """Animate the training of a landscape: its contours, the data and the samples, frame by frame.

    All frames share their colours. The last and steepest landscape sets the top, so early, flat ones are dark.
    """
    if not frames:
        raise UserError("an animation needs at least one frame; there was none")
    shapes = {numbers(each.energy_grid).shape for each in frames}
    if len(shapes) != 1:
        raise UserError(f"the grids of all frames have one shape; they were {sorted(shapes)}")
    finite = [each.energy_grid for each in frames if np.isfinite(numbers(each.energy_grid)).any()]
    last = Relief.of((finite or [frames[-1].energy_grid])[-1], box, top=top)
    clouds = [np.empty((0, 2)) if each.samples is None else plane(each.samples) for each in frames]
    figure, axes = plane_axes(box, title=" ", beside=BAR, below=0.3)
    axes.set_facecolor(BLANK)
    ground = [fill(axes, last)]
    colour_bar(figure, ground[0], last.top, beside=axes)
    draw_points(axes, plane(data), colour="#FFFFFF", area=3_000, least=2.5, label="data")
    samples = draw_points(axes, clouds[-1], colour=OKABE_ITO[1], area=6_000, least=10, rim="#FFFFFF", label="samples")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, markerscale=2)

    def show(index: int) -> None:
        seen, energy_grid, _, progress = frames[index]
        while ground:
            ground.pop().remove()
        if np.isfinite(numbers(energy_grid)).any():
            ground.append(fill(axes, Relief.of(energy_grid, box, top=last.top)))
        samples.set_offsets(clouds[index])
        done = "" if progress is None else f"{progress:.0%}"
        heading = _joined(title, f"{seen:,} samples seen", done, unseen(inside(clouds[index], box)))
        axes.set_title(heading, fontsize=11)

    return _settled(figure, len(frames), show)


def save_animation(animation: Animation, path: str | Path, *, fps: float = 10.0, hold: float = 1.0) -> None:
    """Write an animation atomically as a GIF or an MP4.

    An MP4 needs ffmpeg, the program or the package imageio-ffmpeg; a GIF needs nothing.

    Args:
        fps: Frames a second, at most 50 in a GIF, where each frame lasts whole hundredths of a second.
        hold: Extra seconds for the last frame.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a name ending in {' or '.join(SUFFIXES)}")
    if not 0 < fps <= (50 if suffix == ".gif" else 240) or not 0 <= hold <= 60:
        raise UserError(
            f"fps is positive, at most 50 in a GIF, and hold at most 60 seconds; they were {fps} and {hold}"
        )
    kind: Any = PillowWriter if suffix == ".gif" else FFMpegWriter  # matplotlib's types allow whole rates only
    writer = kind(fps=fps)
    last = len(animation) - 1
    with tempfile.TemporaryDirectory() as folder, mpl.rc_context({"animation.ffmpeg_path": _ffmpeg()}):
        if not writer.isAvailable():
            raise UserError(
                f"{path}: an MP4 needs ffmpeg: install it or imageio-ffmpeg, or choose a name ending in .gif"
            )
        made = Path(folder) / f"film{suffix}"
        try:
            with writer.saving(animation.figure, str(made), animation.figure.dpi):
                for index in [*range(last), *[last] * (1 + round(hold * fps))]:
                    animation.show(index)
                    writer.grab_frame()
        except subprocess.CalledProcessError as error:
            why = error.stderr.strip().splitlines()[-1:] or [str(error)]
            raise UserError(f"ffmpeg cannot make the film: {why[0]}; choose a name ending in .gif") from None
        write_whole(path, made.read_bytes())


def _ffmpeg() -> str:
    """Return the ffmpeg program, or the one of the package imageio-ffmpeg."""
    if shutil.which("ffmpeg") is None:
        with contextlib.suppress(ImportError, RuntimeError):
            return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    return "ffmpeg"


def _settled(figure: Figure, count: int, show: Callable[[int], None]) -> Animation:
    """Lay out a figure for its first frame and keep that layout for all of them."""
    show(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return Animation(figure, count, show)


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
