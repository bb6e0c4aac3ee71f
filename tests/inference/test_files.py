"""Files of points that are written batch by batch: the same as whole ones, or none at all."""

import io
import weakref
import zipfile

import numpy as np
import pytest
import torch

from energyscape.errors import UserError
from energyscape.inference.files import PICTURES, read_points, write_batches, write_points


def points(n: int = 1_100, *shape: int) -> torch.Tensor:
    return torch.randn(n, *shape or (2,), generator=torch.Generator().manual_seed(0))


KINDS = [
    *[((2,), suffix) for suffix in (".npy", ".npz", ".csv", ".png")],
    *[((1, 4, 4), suffix) for suffix in (".npy", ".npz", ".png", ".jpg")],
]


@pytest.mark.parametrize(("shape", "suffix"), KINDS)
@pytest.mark.parametrize("size", [1, 500, 2_000])
def test_batches_make_the_file_that_all_at_once_make(tmp_path, shape, suffix, size):
    x = points(1_100 if size > 1 else 20, *shape).clamp(-1, 1)
    write_points(tmp_path / f"whole{suffix}", x)
    write_batches(tmp_path / f"parts{suffix}", iter(x.split(size)), shape=tuple(x.shape))
    assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    if suffix not in PICTURES:
        assert torch.allclose(read_points(tmp_path / f"parts{suffix}", shape), x, rtol=1e-7)


def test_arrays_are_numpy_s_own_files(tmp_path):
    x, content = points(), io.BytesIO()
    np.save(content, x.numpy())
    write_batches(tmp_path / "x.npy", x.split(300), shape=(1_100, 2))
    assert (tmp_path / "x.npy").read_bytes() == content.getvalue()
    write_batches(tmp_path / "x.npz", x.split(300), shape=(1_100, 2))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert archive.namelist() == ["x.npy"]
        assert archive.read("x.npy") == content.getvalue()
    assert (tmp_path / "x.npz").stat().st_size < len(content.getvalue())


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, RuntimeError])
def test_whatever_comes_between_two_batches_leaves_the_old_file_and_no_other(tmp_path, suffix, error):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")

    def broken():
        yield points(300)
        assert len(list(tmp_path.iterdir())) == 2
        raise error("enough")

    with pytest.raises(error, match="enough"):
        write_batches(path, broken(), shape=(600, 2))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_a_mistake_in_the_first_batch_comes_before_any_folder(tmp_path):
    def broken():
        raise UserError("no such buffer")
        yield

    with pytest.raises(UserError, match="no such buffer"):
        write_batches(tmp_path / "new" / "x.npy", broken(), shape=(1, 2))
    with pytest.raises(UserError, match="expected a name ending in"):
        write_batches(tmp_path / "new" / "x.txt", [points(1)], shape=(1, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_batches_are_written_as_they_come_and_forgotten(tmp_path, suffix):
    kept, sizes = [], []

    def batches():
        for i in range(100):
            sizes.append(sum(each.stat().st_size for each in tmp_path.iterdir()))
            assert [number for number, each in enumerate(kept) if each() is not None] == ([i - 1] if i else [])
            x = points(1_000, 10)
            kept.append(weakref.ref(x))
            yield x
            del x

    write_batches(tmp_path / f"x{suffix}", batches(), shape=(100_000, 10))
    whole = (tmp_path / f"x{suffix}").stat().st_size
    assert 0.4 < sizes[50] / whole < 0.6
