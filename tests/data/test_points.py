"""Points given by the user: files, the blur, and the sum over all of them against brute force."""

import math
import zipfile

import numpy as np
import pytest
import torch
from scipy import optimize

from energyscape.calculus import gauss_legendre
from energyscape.data import DATASETS, DISTRIBUTIONS, EightGaussians, Points, points_file
from energyscape.data.arrays import read_array
from energyscape.errors import UserError
from energyscape.registry import build


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def eight(n, seed=0):
    return EightGaussians().sample(n, generator=generator(seed))


def brute_force(x, points, blur):
    squared = (x.double().unsqueeze(1) - points.double()).square().sum(2)
    return (-squared / (2 * blur**2)).logsumexp(1) - math.log(2 * math.pi * blur**2 * len(points))


# Files


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRUTH = np.array([[1.0, -2.5], [0.125, 3e2], [-7.0, 0.0]])


def test_every_kind_of_file_is_the_same_law(here):
    lines = "1,-2.5\n0.125,3e2\n-7,0\n"
    (here / "plain.csv").write_text(lines)
    (here / "named.csv").write_text("x, y\n" + lines)
    (here / "excel.csv").write_bytes(
        b"\xef\xbb\xbfLength,Width\r\n" + lines.replace("\n", "\r\n").encode() + b"\r\n,\r\n"
    )
    np.save(here / "points.npy", TRUTH)
    np.savez(here / "one.npz", points=TRUTH)
    np.savez(here / "two.npz", label=np.arange(3), x=TRUTH)
    for name in ("plain.csv", "named.csv", "excel.csv", "points.npy", "one.npz", "two.npz"):
        law = build(DATASETS, "points", {"path": name, "blur": 0.5})
        assert isinstance(law, Points)
        assert law.x.tolist() == TRUTH.tolist(), name
        assert law.std == 0.5
    np.save(here / "whole.npy", TRUTH.astype(np.int16))
    assert points_file(path="whole.npy").x.tolist() == TRUTH.astype(int).tolist()


def test_a_name_of_the_home_folder_is_found(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    np.save(here / "points.npy", TRUTH)
    assert len(points_file(path="~/points.npy").x) == 3


BAD = {
    "text.csv": ("x,y\n1,2\n3,four\n", "line 3 holds 'four'"),
    "gap.csv": ("1,2\n3,\n", "line 2 holds ''"),
    "semicolons.csv": ("x;y\n1;2\n3;4\n", "line 2 holds '1;2'.*commas"),
    "ragged.csv": ("1,2\n3,4,5\n", "rows differ in length: 3 in line 2, 2 before"),
    "three.csv": ("1,2,3\n4,5,6\n", "two columns of numbers; it holds 2 of 3 coordinates"),
    "nan.csv": ("1,2\nnan,4\ninf,3\n", "finite numbers; 2 of 6 are not"),
    "huge.csv": ("1,2\n1e39,4\n", "finite numbers; 1 of 4 are not"),
    "empty.csv": ("", "two columns"),
    "names.csv": ("x,y\n", "two columns"),
    "one.csv": ("1,2\n", "at least two points"),
    "same.csv": ("1,2\n1,2\n", "all 2 points are the same"),
    "points.txt": ("1,2\n", "expected one of .npy, .npz, .csv; it is .txt"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_one_clear_error(here, name):
    text, message = BAD[name]
    (here / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: .*{message}") as caught:
        points_file(path=name)
    assert "\n" not in str(caught.value)


def test_bad_arrays_are_one_clear_error(here):
    np.save(here / "images.npy", np.zeros((4, 1, 8, 8)))
    np.save(here / "words.npy", np.array([["a", "b"]]))
    np.save(here / "objects.npy", np.array([[1, None]]), allow_pickle=True)
    np.savez(here / "many.npz", a=TRUTH, b=TRUTH)
    (here / "cut.npy").write_bytes((here / "images.npy").read_bytes()[:-8])
    (here / "latin.csv").write_bytes(b"l\xe4nge,1\n")
    with zipfile.ZipFile(here / "other.npz", "w") as archive:
        archive.writestr("x", "text")
    cases = {
        "nothing.csv": "there is no such file",
        "images.npy": r"it holds an array of shape \(4, 1, 8, 8\)",
        "words.npy": "expected numbers; it holds <U1",
        "objects.npy": "expected an array of numbers, it cannot be read: Object arrays",
        "many.npz": "expected one array, or one named x; it holds 'a', 'b'",
        "cut.npy": "expected an array of numbers, it cannot be read",
        "latin.csv": "expected a table of numbers, it cannot be read",
        "other.npz": "reading magic string",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            points_file(path=name)
    (here / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"folder\.csv: .* cannot be read"):
        read_array(here / "folder.csv")


@pytest.mark.parametrize(
    ("x", "blur", "message"),
    [
        (torch.zeros(3), 0.1, "at least two points"),
        (torch.zeros(3, 3), 0.1, "3 of 3 coordinates"),
        (torch.zeros(1, 2), 0.1, "at least two points"),
        (torch.tensor([[0.0, math.nan], [1.0, 1.0]]), 0.1, "1 of 4 are not"),
        (torch.ones(5, 2), None, "all 5 points are the same"),
        (torch.eye(2), 0.0, "blur is a positive number"),
        (torch.eye(2), math.nan, "blur is a positive number"),
    ],
)
def test_bad_tensors_are_refused(x, blur, message):
    with pytest.raises(UserError, match=message):
        Points(x, blur=blur)


def test_a_recipe_may_leave_the_blur_out(here):
    np.save(here / "points.npy", eight(100).numpy())
    given = build(DISTRIBUTIONS, "points", {"path": "points.npy", "blur": "none"})
    assert given.std == build(DISTRIBUTIONS, "points", {"path": "points.npy"}).std == Points(eight(100)).std


# The sum over all points


@pytest.mark.parametrize("blur", [1e-3, 0.05, 0.5, 30.0])
def test_log_prob_is_the_sum_over_all_points(blur):
    points = eight(500)
    # Points near, a cluster in one place, and points far: each meets all 500, and several rectangles are visited.
    z = torch.randn(2000, 2, dtype=torch.float64, generator=generator(1))
    near = torch.cat([3 * z, points.double()[:200], torch.ones(200, 2, dtype=torch.float64)])
    law, truth = Points(points, blur=blur), brute_force(near, points, blur)
    # Squares of lengths up to 20 are rounded to 16 digits before they cancel.
    rounded = 2.3e-16 * (20 / blur) ** 2 + 1e-13
    torch.testing.assert_close(law.log_prob(near), truth, rtol=0, atol=rounded)
    shuffled = torch.randperm(len(near), generator=generator(2))
    torch.testing.assert_close(law.log_prob(near[shuffled]), truth[shuffled], rtol=0, atol=rounded)
    far = 1e4 * z[:300]
    torch.testing.assert_close(law.log_prob(far), brute_force(far, points, blur), rtol=1e-12, atol=1e-12)


def test_gradients_pass_through_every_rectangle():
    points, x = eight(3000), 2 * torch.randn(300, 2, dtype=torch.float64, generator=generator(3))
    gradients = []
    for function in (Points(points, blur=0.3).log_prob, lambda y: brute_force(y, points, 0.3)):
        y = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(y).sum(), y)[0])
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_far_from_the_origin_nothing_cancels():
    points, shift = eight(200).double(), torch.tensor([1e6, -3e6], dtype=torch.float64)
    x = eight(50, seed=1).double()
    moved = Points(points + shift, blur=0.1).log_prob(x + shift)
    # Coordinates are rounded to 5e-10, which the score, up to 30 here, magnifies.
    torch.testing.assert_close(moved, Points(points, blur=0.1).log_prob(x), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_ten_thousand_points_on_a_fine_grid():
    law = Points(eight(10_000))
    points, weights = gauss_legendre(law.box, 1000)
    mass = sum(
        float((w * law.log_prob(part).exp()).sum())
        for part, w in zip(points.split(1 << 18), weights.split(1 << 18), strict=True)
    )
    assert mass == pytest.approx(1, abs=1e-9)


# The blur


def left_out(x, h):
    """The likelihood of each point by the others, its copies left out with it."""
    squared = (x.unsqueeze(1) - x).square().sum(2)
    squared[squared == 0] = math.inf
    return float(((-squared / (2 * h**2)).logsumexp(1) - 2 * math.log(h)).mean())


@pytest.mark.parametrize("n", [2, 3, 40, 400])
def test_the_blur_makes_points_left_out_likeliest(n):
    x = eight(n).double()
    best = optimize.minimize_scalar(lambda s: -left_out(x, math.exp(s)), bounds=(-4, 3), method="bounded")
    # Bisected to a part in a thousand.
    assert Points(x).std == pytest.approx(math.exp(best.x), rel=1.1e-3)


def test_two_points_lie_one_blur_times_the_root_of_two_apart():
    assert Points(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).std == pytest.approx(5 / math.sqrt(2), rel=1.1e-3)


def test_copies_do_not_narrow_the_blur():
    x = eight(100).double()
    doubled = Points(x.repeat(2, 1))
    assert doubled.std == pytest.approx(Points(x).std, rel=1.1e-3)
    torch.testing.assert_close(doubled.log_prob(x), brute_force(x, x.repeat(2, 1), doubled.std))
    # A point of many copies counts as many as the neighbour of another, and once as a point left out.
    uneven = torch.tensor([[0.0, 0.0]] * 3 + [[1.0, 0.0], [4.0, 0.0]], dtype=torch.float64)

    def likelihood(s):
        h, places, copies = math.exp(s), uneven[2:], [3, 1, 1]
        return sum(
            math.log(
                sum(
                    copies[j] * math.exp(-float((places[i] - places[j]).square().sum()) / (2 * h**2))
                    for j in range(3)
                    if j != i
                )
            )
            - 2 * s
            for i in range(3)
        )

    best = optimize.minimize_scalar(lambda s: -likelihood(s), bounds=(-2, 3), method="bounded")
    assert Points(uneven).std == pytest.approx(math.exp(best.x), rel=1.1e-3)


def test_the_blur_scales_with_the_points():
    x = eight(2000)
    law = Points(x)
    # Points left out are 512 of 2,000; the same ones whatever the scale and the order.
    assert Points(100 * x.double()).std == pytest.approx(100 * law.std, rel=2e-3)
    assert Points(x.flip(0)).std == law.std
    # It neither fuses the modes, as Scott's rule with its 0.57 would, nor vanishes.
    assert 0.1 < law.std < 0.25


# Entropy


@pytest.mark.parametrize("n", [10, 300])
@pytest.mark.parametrize("blur", [0.08, 0.3, 1.0, None])
def test_entropy_by_another_quadrature(n, blur):
    law = Points(eight(n), blur=blur)
    points, weights = gauss_legendre(law.box, 500)
    log_prob = law.log_prob(points)
    # Stated to be within 3e-6; this rule resolves 0.08 to 1e-8.
    assert law.entropy == pytest.approx(-float((weights * log_prob.exp() * log_prob).sum()), abs=3e-6)


def test_entropy_of_points_far_apart():
    one = 1 + math.log(2 * math.pi * 1e-6)
    assert Points(eight(300), blur=1e-3).entropy < math.log(300) + one
    axis = torch.arange(20.0)
    assert Points(torch.cartesian_prod(axis, axis), blur=1e-3).entropy == pytest.approx(math.log(400) + one, abs=3e-6)
    assert Points(torch.ones(5, 2), blur=1e-3).entropy == pytest.approx(one, abs=3e-6)


def test_entropy_does_not_depend_on_where_the_points_lie():
    # Forty points in one place are integrated over a grid, whose squares are nine blurs wide: none may be cut.
    for shift in torch.linspace(-4.5, 4.5, 7):
        law = Points(torch.zeros(40, 2) + torch.stack([shift, 1 - shift]), blur=1.0)
        assert law.entropy == pytest.approx(1 + math.log(2 * math.pi), abs=1e-8)
