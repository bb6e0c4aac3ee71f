r"""Pictures that move: chains on a landscape, a landscape as it is learned.

One figure is drawn again and again with other numbers in it, so that limits, colours and layout cannot differ between
frames. A frame is an array of bytes; what writes them to a file sees arrays only, whoever drew them.

A GIF has one palette of 256 colours for all frames, taken from a few of them: the same height is the same colour
throughout.
"""

import importlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from PIL import Image

from energyscape.errors import UserError
from energyscape.files import write_whole
from energyscape.plotting.axes import (
    OKABE_ITO,
    Array,
    Box,
    draw_points,
    frame,
    inside,
    numbers,
    plane,
    plane_axes,
    unseen,
)
from energyscape.plotting.fields import path_in_plane
from energyscape.plotting.relief import BAR, COLOURS, Relief, colour_bar, one_top

SUFFIXES = (".gif", ".mp4")

BLANK = "#BBBBBB"
"""Where an energy is not a number."""

PALETTE_FRAMES = 6
"""Frames that a GIF's colours are taken from."""

TAILS, TRAIL = 10, 4
"""Chains that have a tail, and earlier positions that it joins."""


@final
@dataclass(frozen=True)
class Animation:
    """A sequence of pictures, each drawn when it is asked for.

    Args:
        figure: What is drawn in; its layout is fixed by the first frame.
        count: How many frames there are.
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

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.pixels(index) for index in range(self.count))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Draw one frame."""
        if not 0 <= index < self.count:
            raise IndexError(f"frames are 0 to {self.count - 1}; there is no {index}")
        self.show(index)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[no-untyped-call]


class TrainingFrame(NamedTuple):
    """Where a training run stands.

    Args:
        seen: Samples seen so far.
        energy_grid: Energies over temperature, ``(N, M)``, as `landscape` takes them.
        samples: What the model generates now, ``(S, 2)``, or none; the title counts those outside.
        progress: Share of the budget used, from 0 to 1, if known.
    """

    seen: int
    energy_grid: Array
    samples: Array | None = None
    progress: float | None = None


def animate_chains(
    path: Array, energy_grid: Array, box: Box, at: Sequence[int], *, top: float | None = None, title: str = ""
) -> Animation:
    """Let chains move on a landscape, the first few with a short tail, a frame for each kept position.

    Where kept positions are spread evenly in the logarithm of the step, later frames span more steps; the title says
    which step each shows.
    """
    kept = path_in_plane(path)
    if len(at) != len(kept):
        raise UserError(f"every kept position has its step; there were {len(kept)} positions and {len(at)} steps")
    figure, axes = plane_axes(box, title=" ", beside=BAR)
    relief = Relief.of(energy_grid, box, top=top)
    colour_bar(figure, _ground(axes, relief, box), relief.top, beside=axes)
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
    """Let a landscape be learned: its contours, the data and the samples, frame by frame.

    All frames share their colours. Early landscapes are flat and late ones steep; the last one decides where the top
    is, so that early frames are dark because they are flat.
    """
    if not frames:
        raise UserError("an animation needs at least one frame; there was none")
    shapes = {numbers(each.energy_grid).shape for each in frames}
    if len(shapes) != 1:
        raise UserError(f"the grids of all frames have one shape; they were {sorted(shapes)}")
    finite = [each.energy_grid for each in frames if np.isfinite(numbers(each.energy_grid)).any()]
    top = one_top(finite[-1:], box) if top is None else top
    reliefs = [_relief(each.energy_grid, box, top) for each in frames]
    clouds = [np.empty((0, 2)) if each.samples is None else plane(each.samples) for each in frames]
    figure, axes = plane_axes(box, title=" ", beside=BAR, below=0.3)
    ground = _ground(axes, reliefs[-1], box)
    colour_bar(figure, ground, reliefs[-1].top, beside=axes)
    draw_points(axes, plane(data), colour="#FFFFFF", area=3_000, least=2.5, label="data")
    samples = draw_points(axes, clouds[-1], colour=OKABE_ITO[1], area=6_000, least=10, rim="#FFFFFF", label="samples")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, markerscale=2)

    def show(index: int) -> None:
        ground.set_data(reliefs[index].capped.T)
        samples.set_offsets(clouds[index])
        progress = frames[index].progress
        done = "" if progress is None else f"{progress:.0%}"
        axes.set_title(
            _joined(title, f"{frames[index].seen:,} samples seen", done, unseen(inside(clouds[index], box))),
            fontsize=11,
        )

    return _settled(figure, len(frames), show)


def save_animation(
    frames: Iterable[NDArray[np.uint8]], path: str | Path, *, fps: float = 10.0, hold: float = 1.0
) -> None:
    """Write frames as a GIF or an MP4; the file appears whole or not at all.

    An MP4 needs ffmpeg, the program or the package imageio-ffmpeg; a GIF needs nothing, and in it a frame that repeats
    the one before makes that one last longer.

    Args:
        fps: Frames a second, at most 50 in a GIF, whose clock has hundredths of seconds.
        hold: Seconds for which the last frame stays in addition.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a name ending in {' or '.join(SUFFIXES)}")
    if not 0 < fps <= (50 if suffix == ".gif" else 240) or not 0 <= hold <= 60:
        raise UserError(
            f"fps is positive, at most 50 in a GIF, and hold at most 60 seconds; they were {fps} and {hold}"
        )
    # Asked before anything is drawn: drawing takes long.
    ffmpeg = _ffmpeg(path) if suffix == ".mp4" else ""
    pictures = [np.ascontiguousarray(each) for each in frames]
    shapes = {(each.shape, each.dtype.name) for each in pictures}
    if len(shapes) != 1 or pictures[0].ndim != 3 or pictures[0].shape[2] != 3 or pictures[0].dtype != np.uint8:
        raise UserError(
            f"frames are at least one, of bytes (height, width, 3), of one shape; they were {shapes or 'none'}"
        )
    write_whole(path, _mp4(pictures, ffmpeg, fps, hold) if suffix == ".mp4" else _gif(pictures, fps, hold))


def _gif(pictures: Sequence[NDArray[np.uint8]], fps: float, hold: float) -> bytes:
    some = np.unique(np.linspace(0, len(pictures) - 1, PALETTE_FRAMES).round().astype(int))
    palette = Image.fromarray(np.concatenate([pictures[index] for index in some])).quantize(256)
    # Dithering would hide the palette's few colours, at three times the size.
    first, *others = (Image.fromarray(each).quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures)
    # A frame lasts hundredths of seconds, so that its end is rounded, not its length.
    ends = np.rint(100 * np.arange(len(pictures) + 1) / fps)
    lasting = 10 * np.diff(ends)
    lasting[-1] += 1000 * hold
    content = io.BytesIO()
    first.save(
        content,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[int(each) for each in lasting],
        loop=0,
        optimize=False,
    )
    return content.getvalue()


def _mp4(pictures: Sequence[NDArray[np.uint8]], ffmpeg: str, fps: float, hold: float) -> bytes:
    high, wide, _ = pictures[0].shape
    pictures = [*pictures, *[pictures[-1]] * round(hold * fps)]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "film.mp4"
        raw = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{wide}x{high}", "-framerate", f"{fps:g}"]
        # Sides must be even, and only this layout of colours is shown everywhere.
        shown = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        command = [ffmpeg, "-loglevel", "error", "-y", *raw, "-i", "-", *shown, str(made)]
        done = subprocess.run(command, input=b"".join(map(bytes, pictures)), capture_output=True, check=False)
        if done.returncode or not made.exists():
            why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise UserError(f"ffmpeg cannot make the film: {why[0]}; choose a name ending in .gif")
        return made.read_bytes()


def _ffmpeg(path: Path) -> str:
    """Return where ffmpeg is, the program itself or the one that comes in a package."""
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            found = str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
        except (ImportError, RuntimeError):
            raise UserError(
                f"{path}: an MP4 needs ffmpeg: install it or imageio-ffmpeg, or choose a name ending in .gif"
            ) from None
    return found


def _relief(energy_grid: Array, box: Box, top: float | None) -> Relief:
    """Return a relief to draw, blank if the energy is finite nowhere: a run that fails is shown as one."""
    grid = numbers(energy_grid).astype(float)
    if top is not None and grid.ndim == 2 and not np.isfinite(grid).any():
        return Relief.of(np.zeros(grid.shape), box, top=top)._replace(height=np.full(grid.shape, np.nan))
    return Relief.of(grid, box, top=top)


def _ground(axes: Axes, relief: Relief, box: Box) -> AxesImage:
    """Draw a relief as an image, whose heights can be exchanged, in the bands of colour of filled contours."""
    n, m = relief.height.shape
    (x0, x1), (y0, y1) = box
    # The outer points lie on the edges, so the outer pixels' centres do.
    dx, dy = (x1 - x0) / (n - 1) / 2, (y1 - y0) / (m - 1) / 2
    norm = BoundaryNorm(relief.levels, 256, extend="max")
    image = axes.imshow(
        relief.capped.T,
        origin="lower",
        extent=(x0 - dx, x1 + dx, y0 - dy, y1 + dy),
        norm=norm,
        cmap=mpl.colormaps[COLOURS].with_extremes(bad=BLANK),
        interpolation="bilinear",
        interpolation_stage="data",
    )
    axes.grid(visible=False)
    frame(axes, box)
    return image


def _settled(figure: Figure, count: int, show: Callable[[int], None]) -> Animation:
    """Lay a figure out for its first frame and keep that layout for all of them."""
    show(0)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return Animation(figure, count, show)


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
