"""Pictures of the plane: what is drawn is where it belongs, and panels that are compared have one scale."""

import itertools
import math

import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver, QuiverKey
from mpl_toolkits.mplot3d import proj3d

from energyscape import plotting
from energyscape.errors import UserError
from energyscape.plotting import Multiple
from energyscape.plotting.relief import DEEP, Relief
from pictures import BOX, bowl, colour_at, darkest, drawn

SLIVER = ((-1.0, 1.0), (-40.0, 40.0))


def artists(figure, kind):
    return [each for axes in figure.axes for each in axes.get_children() if isinstance(each, kind)]


def texts(axes):
    return [each.get_text() for each in axes.texts]


def offsets(axes, index=-1):
    return np.asarray(axes.collections[index].get_offsets())


# Points


def test_data_and_samples_lie_where_they_are_in_equal_panels():
    real, generated = [[-2.0, 1.5], [9.0, 0.0]], [[2.0, -0.5], [1.0, 1.0], [np.nan, 0.0]]
    left, right = plotting.real_and_generated(real, generated, BOX).axes
    np.testing.assert_array_equal(offsets(left), real)
    np.testing.assert_array_equal(offsets(right), generated)
    assert left.get_xlim() == right.get_xlim() == BOX[0]
    assert left.get_ylim() == right.get_ylim() == BOX[1]
    assert [left.get_title(), right.get_title()] == ["data (2)", "samples (3)"]
    assert [texts(left), texts(right)] == [["1 of 2 outside"], ["1 of 3 outside"]]


def test_shades_are_densities_on_one_scale():
    # Squares of 2 by 2. Two of four points are in the square that has its centre at (2, 0); one is outside.
    real = [[2.4, -0.6], [2.6, -0.4], [-2.5, 1.5], [0.0, 9.0]]
    generated = [[0.5, 0.5]] * 5
    figure = plotting.real_and_generated(real, generated, ((-3.0, 3.0), (-1.0, 5.0)), bins=3)
    left, right = (axes.collections[-1] for axes in figure.axes[:2])
    shades = np.zeros((3, 3))
    shades[0, 2], shades[1, 0] = 2 / 4 / 4, 1 / 4 / 4  # rows are x2, columns x1
    np.testing.assert_allclose(left.get_array(), shades)
    assert right.get_array()[0, 1] == 1 / 4
    assert left.norm.vmax == right.norm.vmax == 1 / 4
    assert left.norm.vmin == right.norm.vmin == 0
    pixels = drawn(figure)
    assert (colour_at(figure.axes[0], pixels, -2.5, 4.5) == [68, 1, 84]).all()
    assert (colour_at(figure.axes[1], pixels, 0.5, 0.5) == [253, 231, 37]).all()
    with pytest.raises(UserError, match="bins"):
        plotting.real_and_generated(real, generated, BOX, bins=0)


# Landscapes


def test_the_bar_ends_at_the_top_and_no_tick_lies_beyond():
    figure = plotting.landscape(bowl(2.0, -0.5), BOX, top=6.5)
    _, bar = figure.axes
    assert bar.get_ylim() == (0, 6.5)
    assert max(bar.get_yticks()) <= 6.5
    assert "nats" in bar.get_ylabel()


def test_the_top_is_where_the_plateau_begins_and_never_in_the_clouds():
    grid = np.arange(100.0).reshape(10, 10) / 10 + 5
    assert Relief.of(grid, BOX).top == pytest.approx(0.6 * 9.9)
    assert Relief.of(100 * grid, BOX).top == DEEP
    grid[grid > 7] = np.inf
    assert Relief.of(grid, BOX).height.max() == np.inf
    assert Relief.of(grid, BOX).top == pytest.approx(0.6 * 2)
    with pytest.raises(UserError, match="top"):
        plotting.landscape(grid, BOX, top=0)


def test_thinning_keeps_the_edges_and_what_lies_where():
    relief = Relief.of(bowl(2.0, -0.55), BOX)  # a point of the grid
    thin = relief.thinned(20)
    assert thin.height.shape == (20, 20)
    assert (thin.x1[0], thin.x1[-1], thin.x2[0], thin.x2[-1]) == (*BOX[0], *BOX[1])
    truth = (thin.x1[:, None] - 2) ** 2 + (thin.x2 + 0.55) ** 2
    np.testing.assert_allclose(thin.height, truth, atol=1e-5)  # float32 of 7 + ...
    assert relief.thinned(500).height.shape == relief.height.shape


def test_the_lowest_part_of_a_surface_is_where_the_energy_is_lowest():
    figure = plotting.surface(bowl(2.0, -0.5, n=41), BOX)
    (axes,) = figure.axes
    drawn(figure)
    mesh = axes.collections[0]
    nearest = np.abs(mesh.get_facecolors()[:, :3] - np.array([68, 1, 84]) / 255).sum(1).argmin()
    centre = mesh.get_paths()[nearest].vertices[:4].mean(0)
    low, *others = (
        np.array(proj3d.proj_transform(x1, x2, 0, axes.get_proj())[:2])
        for x1, x2 in ((2, -0.5), (-2, -0.5), (2, 0.5), (-0.5, 2))
    )
    # A patch is a fortieth of the box wide, and so about as much of the picture, whose coordinates span 0.2.
    assert np.linalg.norm(centre - low) < 0.2 / 40
    assert min(np.linalg.norm(centre - other) for other in others) > 0.02
    assert "nats" in axes.get_zlabel()


def test_a_surface_says_where_it_is_cut_off_and_draws_nothing_above():
    grid = bowl(0.0, 0.5)
    figure = plotting.surface(grid, BOX, top=2.0)
    (axes,) = figure.axes
    drawn(figure)
    assert "cut off at 2" in axes.get_zlabel()
    assert axes.get_zlim()[1] == 2
    assert max(axes.get_zticks()) <= 2
    whole = plotting.surface(grid, BOX, top=50.0)
    drawn(whole)
    assert "cut off" not in whole.axes[0].get_zlabel()
    patches = [len(each.axes[0].collections[0].get_paths()) for each in (figure, whole)]
    # An ellipse of that height covers this share of the box; a rim of one patch belongs to it.
    share, rim = math.pi * 2 / 18, 2 * math.pi * math.sqrt(2) * 2 / (6 / 60)
    assert patches[1] == 60 * 40
    assert 0 <= patches[0] - share * 2400 < 2 * rim


def test_a_plain_has_no_contours_and_a_cliff_no_patches():
    drawn(plotting.surface(np.zeros((9, 9)), BOX, np.zeros((3, 2))))
    cliff = np.full((9, 9), np.inf)
    cliff[:4] = 0
    drawn(plotting.surface(cliff, BOX))


# Scores and chains


def test_an_arrow_has_the_direction_of_the_score_and_the_length_of_the_key():
    # Half of the median length is 10; 5, 20 and 80 are in the key.
    x = np.array([[-2.0, 0.0], [-1.0, 1.0], [0.0, 0.5], [1.0, -0.5], [2.0, 1.5], [0.5, 0.5], [99.0, 0.0]])
    s = np.array([[3.0, 4.0], [-12.0, 16.0], [20.0, 0.0], [0.0, -80.0], [200.0, 1.0], [np.nan, 1.0], [1.0, 1.0]])
    figure = plotting.score_field(x, s, BOX)
    (arrows,) = artists(figure, Quiver)
    np.testing.assert_array_equal(np.column_stack([arrows.X, arrows.Y]), x[:5])
    assert (arrows.angles, arrows.pivot) == ("xy", "tail")
    size, length = np.linalg.norm(s[:5], axis=1), np.hypot(arrows.U, arrows.V)
    np.testing.assert_allclose(np.column_stack([arrows.U, arrows.V]) / length[:, None], s[:5] / size[:, None])
    np.testing.assert_allclose(length / length[1], (size / (size + 10)) / (20 / 30))
    keys = artists(figure, QuiverKey)
    assert [key.label for key in keys] == ["|s| = 5", "|s| = 20", "|s| = 80"]
    np.testing.assert_allclose([key.U for key in keys], length[[0, 1, 3]])
    assert "|s| + 10" in figure.texts[0].get_text()
    assert texts(figure.axes[0]) == ["2 of 7 outside"]
    drawn(figure)


def test_no_arrow_is_longer_than_the_grid_is_wide_by_much():
    grid = torch.cartesian_prod(torch.linspace(-3, 3, 20), torch.linspace(-1, 2, 10)).numpy()
    (arrows,) = artists(plotting.score_field(grid, 1e6 * (1 + grid**2), BOX, bowl(0, 0)), Quiver)
    assert np.hypot(arrows.U, arrows.V).max() < 1.2 * 6 / 19


def test_where_the_axes_have_two_scales_an_arrow_still_points_along_the_score():
    s = np.array([[1.0, 0.0], [1.0, 40.0], [0.0, 40.0]])
    figure = plotting.score_field(np.zeros((3, 2)), s, SLIVER)
    (arrows,) = artists(figure, Quiver)
    assert figure.axes[0].get_aspect() == "auto"
    np.testing.assert_allclose(arrows.V * s[:, 0], arrows.U * s[:, 1], atol=1e-9)
    drawn(figure)
    # Arrows as long as each other in the score are as long as each other in the picture's inches.
    same = artists(plotting.score_field(np.zeros((2, 2)), np.array([[7.0, 0], [0, 7.0]]), SLIVER), Quiver)[0]
    assert same.V[1] / same.U[0] == pytest.approx(40)


def test_scores_are_as_many_as_points():
    with pytest.raises(UserError, match="one score"):
        plotting.score_field(np.zeros((3, 2)), np.zeros((2, 2)), BOX)
    drawn(plotting.score_field(np.zeros((1, 2)), np.full((1, 2), np.nan), BOX))  # all astray: a picture that says so
    drawn(plotting.score_field(np.zeros((1, 2)), np.zeros((1, 2)), BOX))


def test_chains_go_from_their_circle_to_their_square():
    path = np.array(
        [[[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]], [[1.0, 1.5], [9.0, 0.5], [0, 0]], [[-1.0, 0.5], [np.nan, 0.0], [0, 0]]]
    )
    figure = plotting.trajectories(path, bowl(2.0, -0.5), BOX, chains=2)
    axes = figure.axes[0]
    lines = [(line.get_marker(), line.get_xydata().tolist()) for line in axes.lines]
    first, start, end = lines[:3]
    assert first == ("None", path[:, 0].tolist())
    assert (start, end) == (("o", [[0.0, 1.0]]), ("s", [[-1.0, 0.5]]))
    # The second one is drawn as far as it is finite, which was outside.
    assert lines[4:] == [("o", [[2.0, 0.0]]), ("s", [[9.0, 0.5]])]
    assert texts(axes) == ["2 of 6 outside"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["start", "end"]
    figure = plotting.trajectories(path[:1, :1], bowl(2.0, -0.5), BOX)
    pixels = drawn(figure)
    assert darkest(figure.axes[0], pixels) == pytest.approx((2, -0.5), abs=0.1)
    for wrong in (path[0], path[:, :0]):
        with pytest.raises(UserError, match="path"):
            plotting.trajectories(wrong, bowl(0, 0), BOX)


# Many methods


INSIDE = ("no energy", "1 of 2 outside")
"""What is written into a panel, not around it."""


def method(index, grid):
    return Multiple(
        f"method-{index}", f"KL 0.{index:03d} ± 0.001", np.full((4, 2), 0.1 * index), grid, [[index, 9.0], [0.0, 0.0]]
    )


def panels(figure, name):
    return [axes for axes in figure.axes if axes.get_label() == name]


def test_rows_have_their_own_numbers_and_one_scale():
    rows = [method(1, bowl(2.0, -0.5)), method(2, bowl(-2.0, 0.5, depth=3.0)), method(3, bowl(0, 0, depth=2.0) + 1e3)]
    figure = plotting.small_multiples(rows, BOX)
    for index, axes in enumerate(panels(figure, "data"), 1):
        np.testing.assert_allclose(offsets(axes), np.full((4, 2), 0.1 * index))
        assert texts(axes)[0] == f"method-{index}"
    for index, axes in enumerate(panels(figure, "samples"), 1):
        assert offsets(axes).tolist() == [[index, 9.0], [0.0, 0.0]]
        assert texts(axes)[:2] == ["1 of 2 outside", f"KL 0.{index:03d} ± 0.001"]
    pixels, lands = drawn(figure), panels(figure, "landscape")
    for axes, low in zip(lands, ((2.0, -0.5), (-2.0, 0.5), (0, 0)), strict=True):
        inside = pixels.copy()
        window = axes.get_window_extent()
        inside[: int(len(pixels) - window.y1)] = inside[int(len(pixels) - window.y0) :] = 0
        assert darkest(axes, inside) == pytest.approx(low, abs=0.15)  # a band's corners, at 150 points and 170 pixels
    levels = {tuple(axes.collections[0].levels) for axes in lands}
    norms = {(axes.collections[0].norm.vmin, axes.collections[0].norm.vmax) for axes in lands}
    assert len(levels) == len(norms) == 1
    # Heights over the median of their tops have the plateau's colour in every row.
    assert levels.pop()[-1] == pytest.approx(Relief.of(rows[2].energy_grid, BOX).top)
    for name in ("data", "landscape", "samples"):
        assert {(axes.get_xlim(), axes.get_ylim()) for axes in panels(figure, name)} == {BOX}


@pytest.mark.parametrize("count", [1, 6, 7, 12])
def test_nothing_overlaps_or_is_cut_off(count):
    rows = [method(index, bowl(0, 0) if index % 5 else None) for index in range(1, count + 1)]
    figure = plotting.small_multiples(rows, BOX, title="Twelve methods, one budget")
    drawn(figure)
    assert len(panels(figure, "data")) == count
    boxes = [axes.get_window_extent() for axes in figure.axes]
    words = [text for axes in figure.axes for text in axes.texts if text.get_text() not in INSIDE]
    boxes += [text.get_window_extent() for text in [*words, *figure.texts]]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    for each in [axes.get_tightbbox() for axes in figure.axes]:
        assert figure.bbox.x0 <= each.x0
        assert each.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= each.y0
        assert each.y1 <= figure.bbox.y1
    width, height = figure.get_size_inches() * figure.dpi
    assert width < 1300
    assert height < 1500


def test_methods_without_an_energy_or_with_a_ruined_one_are_rows_too():
    rows = [method(1, None), method(2, np.full((4, 4), np.nan)), method(3, bowl(0, 0))]
    figure = plotting.small_multiples(rows, BOX)
    assert [texts(axes) for axes in panels(figure, "landscape")] == [["no energy", "landscape"], ["not finite"], []]
    assert panels(figure, "energy")
    assert not panels(plotting.small_multiples(rows[:2], BOX), "energy")
    with pytest.raises(UserError, match="at least one row"):
        plotting.small_multiples([], BOX)
