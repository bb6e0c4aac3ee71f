"""Frames show their own numbers on one scale, and a file has all of them or is not there."""

import itertools
import os
import sys

import numpy as np
import pytest
from PIL import Image

from energyscape.errors import UserError
from energyscape.plotting import Animation, TrainingFrame, animate_chains, animate_training, save_animation
from energyscape.plotting.relief import Relief
from pictures import BOX, bowl, colour_at, darkest

PATH = np.array([[[0.0, 0.5], [-2.0, 1.5]], [[1.0, 0.0], [-1.0, 1.0]], [[2.0, -0.4], [np.nan, 0.0]]])


def chains():
    return animate_chains(PATH, bowl(2.0, -0.5), BOX, [0, 10, 2000], title="ULA")


def training(**settings):
    frames = [
        TrainingFrame(0, bowl(-2.0, 1.5, depth=0.5), None, 0.0),
        TrainingFrame(256, bowl(0.0, 0.5), [[0.0, 0.5]], 0.5),
        TrainingFrame(512, bowl(2.0, -0.5, depth=2.0), [[2.0, -0.5], [0.0, 7.0]]),
    ]
    return animate_training(frames, [[2.0, -0.5], [1.0, 1.0]], BOX, **settings), frames


def drawn(film):
    return [film.pixels(index) for index in range(len(film))]


def labelled(axes):
    return {each.get_label(): each for each in axes.collections}


def gif(path):
    """The frames of a GIF and their lengths in milliseconds."""
    with Image.open(path) as file:
        frames, lasting = [], []
        for index in range(file.n_frames):
            file.seek(index)
            frames.append(np.asarray(file.convert("RGB")))
            lasting.append(file.info["duration"])
        assert file.info["loop"] == 0
    return frames, lasting


# What is drawn


def test_chains_are_where_they_are_and_only_they_move():
    film = chains()
    axes = film.figure.axes[0]
    tails, points = axes.collections[-2:]
    frames, titles, ends, limits = [], [], [], []
    for index in range(len(film)):
        frames.append(film.pixels(index))
        titles.append(axes.get_title())
        np.testing.assert_array_equal(np.ma.filled(points.get_offsets(), np.nan), PATH[index])
        ends.append([segment[-1].tolist() for segment in tails.get_segments()])
        limits.append((axes.get_xlim(), axes.get_ylim(), axes.get_position().bounds))
    assert titles == ["ULA · step 0", "ULA · step 10", "ULA · step 2,000 · 1 of 2 outside"]
    assert ends[1] == PATH[1].tolist()
    assert limits == [(*BOX, limits[0][2])] * 3
    changed = [(one != other).any(2).mean() for one, other in itertools.pairwise(frames)]
    # Two points, their tails and the title: something, and a small part of the picture.
    assert all(0 < share < 0.05 for share in changed)
    np.testing.assert_array_equal(film.pixels(0), frames[0])
    np.testing.assert_array_equal(drawn(film), frames)
    with pytest.raises(IndexError):
        film.pixels(3)


def test_the_ground_of_an_animation_lies_on_its_points_to_the_edge():
    # 13 points a side: half a distance between them would be a quarter, and the darkest place a tenth off.
    film = animate_chains(np.full((1, 1, 2), np.nan), bowl(2.0, -0.5, n=13, m=13), BOX, [0])
    assert darkest(film.figure.axes[0], film.pixels(0)) == pytest.approx((2, -0.5), abs=0.04)


def test_all_frames_of_training_have_the_colours_of_the_last_one():
    film, frames = training()
    axes, bar = film.figure.axes
    top = Relief.of(frames[-1].energy_grid, BOX).top
    assert bar.get_ylim() == pytest.approx((0, top))
    pictures = drawn(film)
    for picture, low in zip(pictures, ((-2.0, 1.5), (0.0, 0.5)), strict=False):
        lowest = colour_at(axes, picture, low[0] + 0.2, low[1] - 0.2)  # beside a sample
        assert abs(lowest.astype(int) - [68, 1, 84]).max() < 12
    # The same height, 4, is the same colour: 0.5 times 8, and 1 times 4.
    heights = [colour_at(axes, pictures[0], -2 + np.sqrt(8), 1.5), colour_at(axes, pictures[1], 2.0, 0.5)]
    assert (heights[0] == heights[1]).all()
    assert (heights[0] != pictures[0][0, 0]).any()
    assert abs(colour_at(axes, pictures[2], -2.5, 1.5).astype(int) - [253, 231, 37]).max() <= 1
    assert len({picture[int(0.2 * len(picture)) :, -80:].tobytes() for picture in pictures}) == 1  # the bar


def test_frames_of_training_show_their_samples_and_their_clock():
    film, frames = training(title="dsm")
    axes = film.figure.axes[0]
    samples, data = labelled(axes)["samples"], labelled(axes)["data"]
    titles = []
    for index, frame in enumerate(frames):
        film.show(index)
        titles.append(axes.get_title())
        assert samples.get_offsets().tolist() == (frame.samples or [])
        assert data.get_offsets().tolist() == [[2.0, -0.5], [1.0, 1.0]]
    assert titles == [
        "dsm · 0 samples seen · 0%",
        "dsm · 256 samples seen · 50%",
        "dsm · 512 samples seen · 1 of 2 outside",
    ]


def test_a_run_that_fails_is_shown_failing():
    frames = [TrainingFrame(0, bowl(0.0, 0.5)), TrainingFrame(1, np.full((61, 41), np.nan))]
    film = animate_training(frames, [[0.0, 0.0]], BOX)
    axes, bar = film.figure.axes
    good, bad = drawn(film)
    assert bar.get_ylim()[1] == pytest.approx(Relief.of(frames[0].energy_grid, BOX).top)
    assert (colour_at(axes, bad, 2.0, 1.0) == [0xBB] * 3).all()
    assert (colour_at(axes, good, 2.0, 1.0) != [0xBB] * 3).any()
    with pytest.raises(UserError, match="finite"):
        animate_training(frames[1:], [[0.0, 0.0]], BOX)


def test_a_mistake_is_an_error():
    with pytest.raises(UserError, match="3 positions and 2 steps"):
        animate_chains(PATH, bowl(0, 0), BOX, [0, 1])
    with pytest.raises(UserError, match="one frame"):
        animate_training([], [[0.0, 0.0]], BOX)
    with pytest.raises(UserError, match="one shape"):
        animate_training([TrainingFrame(0, bowl(0, 0)), TrainingFrame(1, bowl(0, 0, n=5))], [[0.0, 0.0]], BOX)


# What is written


def test_a_gif_has_every_frame_for_its_time(tmp_path):
    film, _ = training()
    save_animation(film, tmp_path / "deeper" / "film.GIF", fps=20, hold=0.5)
    frames, lasting = gif(tmp_path / "deeper" / "film.GIF")
    assert lasting == [50, 50, 50 + 500]
    for frame, picture in zip(frames, drawn(film), strict=True):
        # 256 colours: a bend of a letter may be off, a surface is not.
        assert (abs(frame.astype(int) - picture).max(2) > 24).mean() < 0.01
    assert (tmp_path / "deeper" / "film.GIF").stat().st_size < 3 * 100_000  # 4 MB are 40 frames


def test_wrong_settings_are_an_error(tmp_path):
    for settings in ({"fps": 0}, {"fps": 51}, {"hold": -1}, {"fps": np.nan}):
        with pytest.raises(UserError, match="fps"):
            save_animation(chains(), tmp_path / "film.gif", **settings)
    with pytest.raises(UserError, match=r"\.gif or \.mp4"):
        save_animation(chains(), tmp_path / "film.avi")
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "film.gif"
    path.write_bytes(b"before")
    film = chains()

    def halting(index):
        film.show(index)
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_animation(Animation(film.figure, 3, halting), path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_animation(film, path)
    assert os.listdir(tmp_path) == ["film.gif"]
    assert path.read_bytes() == b"before"


def test_without_ffmpeg_an_mp4_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)

    def undrawn(_):
        raise AssertionError("a frame was drawn")

    film = Animation(chains().figure, 3, undrawn)
    with pytest.raises(UserError, match=r"imageio-ffmpeg.*\.gif"):
        save_animation(film, tmp_path / "film.mp4")
    assert os.listdir(tmp_path) == []


FAKE = """#!{python}
import sys
if {failing}:
    sys.stderr.write("Unknown encoder\\n")
    sys.exit(1)
with open(sys.argv[-1], "wb") as file:
    file.write(repr(sys.argv[1:-1]).encode() + b"|" + sys.stdin.buffer.read())
"""


def fake_ffmpeg(folder, *, failing):
    program = folder / "ffmpeg"
    program.write_text(FAKE.format(python=sys.executable, failing=failing))
    program.chmod(0o755)
    return str(folder)


def test_ffmpeg_is_given_every_frame_and_its_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", fake_ffmpeg(tmp_path, failing=False))
    film = chains()
    save_animation(film, tmp_path / "film.mp4", fps=4, hold=0.5)
    command, given = (tmp_path / "film.mp4").read_bytes().split(b"|", 1)
    assert b"'-framerate', '4'" in command or b"'-r', '4'" in command
    high, wide, _ = film.pixels(0).shape
    frames = np.frombuffer(given, np.uint8).reshape(5, high + high % 2, wide + wide % 2, 4)[:, :high, :wide, :3]
    for frame, index in zip(frames, (0, 1, 2, 2, 2), strict=True):
        np.testing.assert_array_equal(frame, film.pixels(index)[:high, :wide])


def test_an_ffmpeg_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("PATH", fake_ffmpeg(tmp_path, failing=True))
    with pytest.raises(UserError, match=r"Unknown encoder.*\.gif"):
        save_animation(chains(), tmp_path / "out" / "film.mp4")
    assert os.listdir(tmp_path / "out") == []


def test_an_mp4_has_every_frame(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    film = chains()
    save_animation(film, tmp_path / "film.mp4", fps=5, hold=1)
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "film.mp4")) == (8, pytest.approx(1.6, abs=0.1))
    reader = ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    size, first = next(reader)["size"], next(reader)
    reader.close()
    truth = film.pixels(0)
    high, wide = truth.shape[:2]
    assert size == (wide + wide % 2, high + high % 2)
    # Colours have half the resolution in a film, so that edges differ and surfaces do not.
    assert abs(np.frombuffer(first, np.uint8).reshape(size[1], size[0], 3)[:high, :wide].astype(int) - truth).mean() < 4
