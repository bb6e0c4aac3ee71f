"""Images on another scale than the model's, masks in all the forms that there are, classes by name and number."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from energyscape.data import Images, digits
from energyscape.errors import UserError
from energyscape.inference.files import read_mask, read_points
from energyscape.models.conditioning import Conditioning, check_labels

SHAPE = (1, 8, 8)
TEST = digits(split="test")
X = TEST.floats()[:40].numpy()
EXTENT = digits().extent


def saved(path, x):
    np.save(path, x)
    return path


def test_the_extent_of_digits_reaches_from_black_to_white():
    x = digits().floats().flatten(1)
    low, high = EXTENT
    assert (low, high) == (-1, 0.875)  # every digit has a black pixel; 99 % of them one of at least 15 of 16
    assert (x.amin(1) <= low).double().mean() >= 0.99
    assert (x.amax(1) >= high).double().mean() >= 0.99
    half = Images(torch.tensor([[4, 200], [0, 100]], dtype=torch.uint8).reshape(2, 1, 1, 2))
    # Of two numbers the quantile 0.99 lies 0.99 of the way from one to the other.
    assert half.extent == pytest.approx((2 * 3.96 / 255 - 1, 2 * 101 / 255 - 1))


@pytest.mark.parametrize("x", [X, X[0], X[0, 0], ((X + 1) * 127.5).round().astype(np.uint8)])
def test_images_on_the_scale_of_the_model_are_read_without_a_word(tmp_path, x):
    y = read_points(saved(tmp_path / "x.npy", x), SHAPE, extent=EXTENT)
    assert np.abs(y.numpy() - X[: len(y)]).max() < 1 / 127


@pytest.mark.parametrize("white", [16, 255, 65535])
def test_floats_from_0_to_white_are_refused_with_the_conversion(tmp_path, white):
    x = (X + 1) / 2 * white
    with pytest.raises(UserError, match=rf"range from 0 to {white}: where white is {white}, .* 2 \* x / {white} - 1"):
        read_points(saved(tmp_path / "x.npy", x), SHAPE)
    assert np.allclose(2 * x / white - 1, X)


OTHER = {
    "floats from 0 to 1": (
        (X + 1) / 2,
        "range from 0 to 1, and 99 % of the training images reach",
    ),
    "bytes from 0 to 16": (TEST.pixels[:40].numpy(), "range from -1 to -0.87451, and 99 % of the"),
    "floats from -0.5 to 0.5": (X / 2, "range from -0.5 to 0.5, and 99 %"),
    "standardised": (3 * X, r"range from -3 to 3, beyond that"),
}


@pytest.mark.parametrize("other", OTHER)
def test_images_that_may_be_on_another_scale_cause_a_warning(tmp_path, other):
    x, text = OTHER[other]
    with pytest.warns(UserWarning, match=rf"expected images on \[-1, 1\]; its values {text}"):
        read_points(saved(tmp_path / "x.npy", x), SHAPE, extent=EXTENT)


def test_noise_is_no_other_scale(tmp_path):
    y = X + np.random.default_rng(0).normal(0, 1, X.shape)
    read_points(saved(tmp_path / "y.npy", y), SHAPE, extent=EXTENT, sigma=1.0)
    with pytest.warns(UserWarning, match="beyond that"):
        read_points(tmp_path / "y.npy", SHAPE, extent=EXTENT, sigma=0.1)


MASK = np.zeros((8, 8), bool)
MASK[:3, 4:] = True
MASKS = {
    **{kind: MASK.astype(kind) for kind in ("bool", "uint8", "int64", "float32", "float64")},
    "bytes": MASK * np.uint8(255),
    "floats of bytes": MASK * 255.0,
    "16 bits": MASK * np.uint16(65535),
    "the model's": MASK * 2.0 - 1,
    "signed bytes": (MASK * 2 - 1).astype(np.int8),
    "one channel": MASK[None],
    "one of many": MASK[None, None] * 1,
    "soft": np.where(MASK, 0.9, 0.1),
    "soft bytes": np.where(MASK, 200, 60).astype(np.uint8),
}


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_masks(tmp_path, form, shape):
    mask = read_mask(saved(tmp_path / "m.npy", MASKS[form]), shape)
    assert (mask.shape, mask.dtype) == ((1, 1, 8, 8), torch.bool)
    assert np.array_equal(mask[0, 0], MASK)


def test_a_mask_of_channels_is_missing_where_any_is(tmp_path):
    mask = np.stack([MASK, MASK.T, np.zeros_like(MASK)])
    assert np.array_equal(read_mask(saved(tmp_path / "m.npy", mask), (3, 8, 8))[0, 0], MASK | MASK.T)


@pytest.mark.parametrize(("mode", "white"), [("L", 255), ("1", 1), ("L", 1), ("RGB", (255, 255, 255))])
def test_pictures_of_masks(tmp_path, mode, white):
    image = Image.new(mode, (8, 8), 0)
    image.paste(white, (4, 0, 8, 3))
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", SHAPE)[0, 0], MASK)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK * -5.0, r"-1 and 1, or 0 and 255; its values range from -5 to -?0"),
        (MASK * 1e9, "its values range from 0 to 1e\\+09"),
        (np.full((8, 8), np.nan), "expected finite numbers"),
        (np.zeros((8, 7)), r"expected one mask of 8×8 pixels; it has shape \(8, 7\)"),
        (np.zeros((2, 8, 8)), r"one mask of 8×8 pixels; it has shape \(2, 8, 8\)"),
        (np.full((8, 8), "x"), "expected numbers; it holds <U1"),
    ],
)
def test_masks_that_are_none(tmp_path, mask, message):
    with pytest.raises(UserError, match=message):
        read_mask(saved(tmp_path / "m.npy", mask), SHAPE)


# Classes


def test_labels_are_classes_or_none():
    for good in ([0, 9], [-1], []):
        check_labels(torch.tensor(good, dtype=torch.int64), 10)
    for bad in ([1, 10], [-2, 3]):
        with pytest.raises(UserError, match=rf"labels are 0 to 9 for 10 classes.* from {bad[0]} to {bad[1]}"):
            check_labels(torch.tensor(bad), 10)


def test_no_class_is_minus_one_or_no_label_and_nothing_else():
    layer = Conditioning(8, 3)
    noise = torch.zeros(1)
    torch.testing.assert_close(layer(noise, torch.tensor([-1])), layer(noise, None))
    each = [layer(noise, torch.tensor([k])) for k in (-1, 0, 1, 2)]
    assert all((one - other).abs().max() > 1e-4 for i, one in enumerate(each) for other in each[:i])
    for wrong in (3, 4, -2):
        with pytest.raises(UserError, match="labels are 0 to 2"):
            layer(noise, torch.tensor([wrong]))


RECIPE = """
[data]
name = "folder"
root = "images"
size = 8
channels = 1
[model]
name = "denoiser"
network = { name = "unet", width = 8, multipliers = [1, 2], classes = 3 }
preconditioning = { name = "edm", data_std = 0.7 }
[objective]
name = "denoising"
levels = { name = "log-normal", mean = -0.6, std = 1.3 }
weight = { name = "edm", data_std = 0.7 }
label_dropout = 0.1
[sampler]
solver = { name = "heun" }
grid = { name = "karras", sigma_min = 0.01, sigma_max = 20.0 }
steps = 2
[train]
budget = 64
batch_size = 32
"""


def test_classes_have_names_and_numbers(cli):
    for name in ("2", "10", "9"):
        (Path("images") / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), 200 + i).save(f"images/{name}/{i:02}.png")
    Path("classes.toml").write_text(RECIPE, encoding="utf-8")
    status, out, _ = cli("train", "classes.toml", "--out", "run")
    assert status == 0
    assert "run: classes 0 '2', 1 '9', 2 '10'" in out
    shutil.rmtree("images")  # the names are in the run
    for label, text in (("10", "class '10' (number 2)"), ("2", "class '2' (number 0)"), ("1", "class '9' (number 1)")):
        status, out, err = cli("sample", "run", "--n", "2", "--label", label, "--out", "x.npy")
        assert status == 0
        assert (f"--label {label} is the name of a class here, not its number" in err) == (label != "1")
        assert f"2 samples of {text} from noise" in out
    for label in ("3", "-1", "-2", "cat"):
        status, _, err = cli("sample", "run", "--n", "2", "--label", label, "--out", "x.npy")
        assert status == 2
        assert len(err.splitlines()) == 1
        assert "classes are" in err


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_a_network_has_as_many_classes_as_the_data(cli, classes):
    for name in "abc":
        (Path("images") / name).mkdir(parents=True)
        Image.new("L", (8, 8), 200).save(f"images/{name}/x.png")
    Path("classes.toml").write_text(RECIPE.replace("classes = 3", f"classes = {classes}"), encoding="utf-8")
    status, _, err = cli("train", "classes.toml", "--out", "run")
    assert status == 2
    assert f"the data have 3, the network was made for {classes}" in err
    assert not Path("run").exists()
