"""Pixels of grids exactly; of figures, what they say and where."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from energyscape import plotting
from energyscape.errors import UserError
from pictures import BOX, bowl, drawn

LINE = plotting.SEPARATOR


def test_grid_of_two_grey_images():
    x = torch.tensor([[-1.0, 0.0], [1.0, 3.0]]).view(2, 1, 1, 2)
    # 0 becomes 127.5, which rounds to the even 128; 3 is clamped.
    assert plotting.grid_array(x, columns=1, scale=1).tolist() == [
        [LINE, LINE, LINE, LINE],
        [LINE, 0, 128, LINE],
        [LINE, LINE, LINE, LINE],
        [LINE, 255, 255, LINE],
        [LINE, LINE, LINE, LINE],
    ]


def test_grid_of_colours_scaled():
    x = np.zeros((3, 3, 1, 1))
    x[0, 0], x[1, 1], x[2, 2] = 1, 1, 0.2
    grid = plotting.grid_array(x, columns=2, low=0, high=1, scale=8)
    line = 1  # an eighth of 8
    assert grid.shape == (2 * 8 + 3 * line, 2 * 8 + 3 * line, 3)
    assert (grid[1:9, 1:9] == [255, 0, 0]).all()
    assert (grid[1:9, 10:18] == [0, 255, 0]).all()
    assert (grid[10:18, 1:9] == [0, 0, 51]).all()
    assert (grid[10:18, 10:18] == LINE).all()
    assert (grid[9:10] == LINE).all()


def test_numbers_that_are_not_finite_are_black():
    x = np.array([np.nan, np.inf, -np.inf, 1.0]).reshape(4, 1, 1, 1)
    assert plotting.grid_array(x, columns=4, scale=1)[1, 1::2].tolist() == [0, 0, 0, 255]


def test_a_small_digit_is_written_large(tmp_path):
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True) * 2 - 1
    plotting.save_grid(tmp_path / "grid.png", x)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.mode == "L"
        pixels = np.asarray(picture)
    assert np.array_equal(pixels, plotting.grid_array(x, columns=3, scale=4))
    assert pixels.shape == (2 * 36 + 4, 3 * 36 + 4)


def test_an_image_grid_is_its_pixels():
    x = torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figure = plotting.image_grid(x, columns=3, scale=2)
    assert np.array_equal(drawn(figure), plotting.grid_array(x, columns=3, scale=2))


def test_rows_and_their_names():
    rows = {"original": np.full((4, 1, 2, 2), -1.0), "restored": np.full((4, 1, 2, 2), 1.0)}
    (axes,) = plotting.side_by_side(rows).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["original", "restored"]
    shown = axes.images[0].get_array()
    top, bottom = (shown[round(at)] for at in axes.get_yticks())
    assert set(np.unique(top)) == {0, LINE}
    assert set(np.unique(bottom)) == {LINE, 255}


def test_chains_run_from_left_to_right():
    # Brightness encodes the step, and the second chain is all white.
    chain = np.stack([np.full((2, 1, 2, 2), level) for level in (-1.0, 0.0, 1.0)])
    chain[:, 1] = 1
    (axes,) = plotting.evolution(chain, [0, 10, 1000]).axes
    shown = axes.images[0].get_array()
    columns, rows = axes.get_xticks(), axes.get_yticks()
    assert [[shown[round(row), round(column)] for column in columns] for row in rows] == [[0, 128, 255], [255] * 3]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "1,000"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["chain 1", "chain 2"]
    with pytest.raises(UserError, match="step numbers"):
        plotting.evolution(chain, [0, 10])


def test_curves_have_a_running_median_and_marks():
    y = [0.0, 0.0, 100.0, np.nan, 2.0, 4.0]
    figure = plotting.curves(
        range(6), {"loss": y, "gap": y}, title="A run", ylabel="nats", marks=[(3, "rollback")], smooth=3
    )
    (axes,) = figure.axes
    faint, bold = axes.lines[:2]
    np.testing.assert_array_equal(faint.get_ydata(), y)
    # Windows of three, cut off at the ends, the missing number left out.
    np.testing.assert_array_equal(bold.get_ydata(), [0, 0, 50, 51, 3, 3])
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("A run", "samples seen", "nats")
    assert [text.get_text() for text in axes.texts] == ["rollback"]
    assert list(axes.lines[-1].get_xdata()) == [3, 3]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "gap"]
    drawn(figure)


def test_a_logarithm_leaves_gaps():
    figure = plotting.curves([0, 1, 2], {"loss": [1.0, -1.0, 0.1]}, title="", ylabel="", log=True, smooth=1)
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[1])
    drawn(figure)
    with pytest.raises(UserError, match="loss"):
        plotting.curves([0, 1], {"loss": [1.0]}, title="", ylabel="")


def test_the_first_index_of_a_landscape_is_horizontal():
    x1, x2 = torch.linspace(-3, 3, 61), torch.linspace(-1, 1, 41)
    points = torch.cartesian_prod(x1, x2)
    energy = 7 + ((points - torch.tensor([2.0, -0.5])) ** 2).sum(1)
    figure = plotting.landscape(energy.view(61, 41), ((-3, 3), (-1, 1)), torch.tensor([[2.0, -0.5]]))
    axes, bar = figure.axes
    pixels = drawn(figure).astype(int)
    dark = np.argwhere((abs(pixels - np.array(mpl.colormaps["viridis"](0, bytes=True)[:3])) < 12).all(2))
    # The darkest pixels of the axes, without the colour bar, lie around the minimum.
    box = axes.get_window_extent()
    dark = dark[(dark[:, 1] < box.x1) & (dark[:, 1] > box.x0)]
    row, column = dark.mean(0)
    x, y = axes.transData.inverted().transform((column, len(pixels) - row))
    assert (x, y) == (pytest.approx(2, abs=0.1), pytest.approx(-0.5, abs=0.1))
    assert "energy" in bar.get_ylabel()
    assert axes.collections[-1].get_offsets().tolist() == [[2.0, -0.5]]


def test_a_cliff_and_a_plain_are_drawn():
    cliff = torch.full((8, 8), torch.inf)
    cliff[:4] = 0
    drawn(plotting.landscape(cliff, ((0, 1), (0, 1))))
    drawn(plotting.landscape(torch.zeros(8, 8), ((0, 1), (0, 1))))
    with pytest.raises(UserError, match="finite"):
        plotting.landscape(torch.full((8, 8), torch.nan), ((0, 1), (0, 1)))


def test_points_outside_are_counted():
    figure = plotting.scatter([[0.0, 0.0], [3.0, 0.0], [0.0, -3.0]], box=((-1, 1), (-1, 1)))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["2 of 3 outside"]
    assert axes.get_xlim() == (-1, 1)
    assert axes.collections[0].get_offsets().tolist() == [[0, 0], [3, 0], [0, -3]]


def test_histograms_share_bins_and_have_unit_mass():
    figure = plotting.histogram({"train": [0.0, 1.0, 1.0, 4.0], "noise": [np.nan, 2.0]}, "energy", bins=4)
    (axes,) = figure.axes
    train, noise = (axes.patches[index].get_data() for index in (0, 2))
    assert train.edges.tolist() == noise.edges.tolist() == [0, 1, 2, 3, 4]
    assert train.values.tolist() == [0.25, 0.5, 0, 0.25]
    assert noise.values.tolist() == [0, 0, 1, 0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "noise (1 not finite)"]
    with pytest.raises(UserError, match="finite"):
        plotting.histogram({"a": []}, "energy")


def test_nothing_global_is_touched(tmp_path):
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    grid, x, path = bowl(2, -0.5, n=9, m=9), np.zeros((1, 2)), np.zeros((2, 1, 2))
    plotting.scatter(x, box=BOX)
    plotting.curves([0], {"a": [1.0]}, title="", ylabel="")
    drawn(plotting.real_and_generated(x, x, BOX, bins=3))
    drawn(plotting.surface(grid, BOX))
    drawn(plotting.score_field(x, x + 1, BOX, grid))
    drawn(plotting.trajectories(path, grid, BOX))
    drawn(plotting.small_multiples([plotting.Multiple("a", "b", x, grid, x)], BOX))
    plotting.save_animation(plotting.animate_chains(path, grid, BOX, [0, 1]), tmp_path / "a.gif")
    plotting.save_animation(plotting.animate_training([plotting.TrainingFrame(0, grid)], x, BOX), tmp_path / "b.gif")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_a_mistake_is_an_error():
    with pytest.raises(UserError, match="channels"):
        plotting.grid_array(np.zeros((2, 2, 4, 4)))
    with pytest.raises(UserError, match="columns"):
        plotting.grid_array(np.zeros((2, 1, 4, 4)), columns=0)
    with pytest.raises(UserError, match="one shape"):
        plotting.side_by_side({"a": np.zeros((2, 1, 4, 4)), "b": np.zeros((3, 1, 4, 4))})


def test_a_few_spikes_do_not_flatten_a_curve():
    y = np.sin(np.arange(1_000))
    y[500] = 1e6
    (axes,) = plotting.curves(np.arange(1_000), {"loss": y}, title="", ylabel="").axes
    assert axes.get_ylim()[1] < 3
    assert "1 of 1,000 values outside" in [text.get_text() for text in axes.texts]
    (axes,) = plotting.curves(np.arange(1_000), {"loss": y.clip(-1, 1)}, title="", ylabel="").axes
    assert not axes.texts


def test_marks_that_crowd_share_a_label():
    (axes,) = plotting.curves(
        np.arange(100), {"loss": np.arange(100)}, title="", ylabel="", marks=[(50, "SKIP"), (51, "SKIP"), (80, "STOP")]
    ).axes
    assert [text.get_text() for text in axes.texts] == ["SKIP", "STOP"]
