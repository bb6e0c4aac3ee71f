"""CIFAR-10: both layouts, their archives, damaged files, and pickles that would like to be run."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from energyscape.data import DATASETS, cifar, cifar10
from energyscape.data.download import Sum
from energyscape.data.pickles import unpickled
from energyscape.errors import UserError
from energyscape.registry import build

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10"
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def numbers(n=2):
    """Name of each batch to pixels (n, 3072) and labels."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (n + i, 3072), dtype=np.uint8), rng.integers(0, 10, n + i))
        for i, name in enumerate([*TRAIN, "test_batch"])
    }


def binary(pixels, labels):
    return b"".join(bytes([label, *row]) for row, label in zip(pixels.tolist(), labels.tolist(), strict=True))


def pickled(pixels, labels, protocol=4):
    return pickle.dumps({"data": pixels, "labels": labels.tolist(), "filenames": ["x.png"]}, protocol)


def old(pixels, labels):
    """A batch as Python 2 wrote the published ones: protocol 2, text that Python 3 reads as bytes."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def long(value):
        return b"T" + len(value).to_bytes(4, "little") + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01J"
        + len(pixels).to_bytes(4, "little")
        + b"M\x00\x0c\x86cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + long(pixels.tobytes())
        + b"tb"
    )
    listed = b"](" + b"".join(bytes([ord("K"), label]) for label in labels.tolist()) + b"e"
    pairs = text(b"batch_label") + text(b"one") + text(b"labels") + listed + text(b"data") + array
    return b"\x80\x02}(" + pairs + b"u."


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in content.items():
        (folder / name).write_bytes(each)
    return folder


def as_binary(folder, batches):
    return write(folder / "cifar-10-batches-bin", {f"{name}.bin": binary(*each) for name, each in batches.items()})


def as_pickles(folder, batches, make=pickled):
    return write(folder / "cifar-10-batches-py", {name: make(*each) for name, each in batches.items()})


def archived(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def test_a_record_is_a_label_and_three_planes(tmp_path):
    batches = numbers()
    as_binary(tmp_path, batches)
    images = cifar10(root=str(tmp_path), split="test")
    pixels, labels = batches["test_batch"]
    assert (len(images), images.shape, images.name) == (7, (3, 32, 32), "cifar10")
    assert (images.classes[0], images.classes[3], images.classes[9]) == ("airplane", "cat", "truck")
    assert images.labels.tolist() == labels.tolist()
    # Red, then green, then blue; each plane row by row.
    for channel, row, column in [(0, 0, 1), (1, 2, 3), (2, 31, 30)]:
        place = 1024 * channel + 32 * row + column
        assert images.pixels[:, channel, row, column].tolist() == pixels[:, place].tolist()


@pytest.mark.parametrize("make", [*(lambda x, y, k=k: pickled(x, y, k) for k in range(6)), old], ids=[*"012345", "2.7"])
def test_both_layouts_hold_the_same_images(tmp_path, make):
    batches = numbers()
    as_binary(tmp_path / "one", batches)
    as_pickles(tmp_path / "other", batches, make)
    for split, n in (("train", 2 + 3 + 4 + 5 + 6), ("test", 7), ("all", 27)):
        one, other = (cifar10(root=str(tmp_path / name), split=split) for name in ("one", "other"))
        assert len(one) == n
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


def test_the_order_is_that_of_the_batches_and_all_is_train_then_test(tmp_path):
    batches = numbers()
    folder = as_binary(tmp_path, batches)
    train, test, both = (cifar10(root=str(folder), split=split) for split in ("train", "test", "all"))
    expected = np.concatenate([batches[name][0] for name in TRAIN])
    np.testing.assert_array_equal(train.pixels.flatten(1).numpy(), expected)
    assert torch.equal(both.pixels, torch.cat([train.pixels, test.pixels]))
    assert torch.equal(both.labels, torch.cat([train.labels, test.labels]))


@pytest.mark.parametrize(
    ("make", "name"), [(as_binary, "cifar-10-binary.tar.gz"), (as_pickles, "cifar-10-python.tar.gz")]
)
def test_archives_are_read_where_they_lie(tmp_path, make, name):
    folder = make(tmp_path / "unpacked", numbers())
    (tmp_path / "packed").mkdir()
    archived(folder, tmp_path / "packed" / name)
    one, other = cifar10(root=str(folder)), cifar10(root=str(tmp_path / "packed"))
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.labels, other.labels)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [name]


def test_the_archive_is_fetched_once_into_the_cache(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    path = archived(as_binary(tmp_path, numbers()), mirror / "cifar-10-binary.tar.gz")
    layout = cifar.LAYOUTS[0]._replace(known=Sum(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(cifar, "LAYOUTS", (layout, cifar.LAYOUTS[1]))
    monkeypatch.setattr(cifar, "MIRRORS", (f"{mirror.as_uri()}/",))
    monkeypatch.setenv("ENERGYSCAPE_DATA", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"the cache \S+cifar10 lacks cifar-10-binary.tar.gz and download is off"):
        cifar10(download=False)
    images = build(DATASETS, "cifar10", {"split": "test"})
    assert torch.equal(images.pixels, cifar10(root=str(tmp_path), split="test").pixels)
    path.unlink()
    assert torch.equal(cifar10(split="test").pixels, images.pixels)


def test_an_archive_with_another_sum_is_refused(tmp_path, monkeypatch):
    archived(as_binary(tmp_path, numbers()), tmp_path / "cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar, "MIRRORS", (f"{tmp_path.as_uri()}/",))
    monkeypatch.setenv("ENERGYSCAPE_DATA", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"expected 170,052,171 bytes; it sends [\d,]+\): check the network"):
        cifar10()
    assert not list((tmp_path / "cache" / "cifar10").glob("*"))


# What goes wrong


def test_folders_that_lack_something(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(UserError, match=r"split is one of train, test, all; it was 'tests'; did you mean 'test'"):
        cifar10(root=str(tmp_path), split="tests")
    with pytest.raises(UserError, match=r"root \S+nowhere is not a folder: give the one that holds cifar-10-batches-b"):
        cifar10(root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"holds neither cifar-10-batches-bin or cifar-10-batches-py, nor cifar-10-bin"):
        cifar10(root=str(tmp_path))
    folder = as_binary(tmp_path, numbers())
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"cifar-10-batches-bin lacks data_batch_3.bin for split 'train': put them"):
        cifar10(root=str(tmp_path))
    assert len(cifar10(root=str(tmp_path), split="test")) == 7
    archived(folder, tmp_path / "cifar-10-binary.tar.gz")
    with pytest.raises(UserError, match=r"tar\.gz: expected an archive with the split 'train'; it lacks data_batch_3"):
        cifar10(root=str(tmp_path))


@pytest.mark.parametrize("keep", [0, 10, 1000, -9])
def test_damaged_archives(tmp_path, keep):
    path = archived(as_binary(tmp_path / "unpacked", numbers()), tmp_path / "cifar-10-binary.tar.gz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"expected an intact tar.gz archive, it cannot be read"):
        cifar10(root=str(tmp_path))


PIXELS, LABELS = numbers()["test_batch"]
WHOLE = binary(PIXELS, LABELS)
BINARY_FAULTS = {
    "empty": (b"", "it holds 0 bytes"),
    "cut": (WHOLE[:-1], r"expected records of 3,073 bytes, at least one; it holds 21,510 bytes, which is 7.00 of them"),
    "another set": (bytes(3074 * 5), "which is 5.00 of them"),
    "label": (bytes([10]) + WHOLE[1:], "expected labels from 0 to 9; they go from . to 10"),
}


@pytest.mark.parametrize("fault", BINARY_FAULTS)
def test_binary_batches_that_are_none(tmp_path, fault):
    content, message = BINARY_FAULTS[fault]
    write(tmp_path, {"test_batch.bin": content})
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / 'test_batch.bin'))}: .*{message}") as caught:
        cifar10(root=str(tmp_path), split="test")
    assert "\n" not in str(caught.value)


BATCH = {"data": PIXELS, "labels": LABELS.tolist()}
PICKLE_FAULTS = {
    "empty": (b"", "expected an intact pickled batch, it cannot be read"),
    "cut": (pickled(PIXELS, LABELS)[:-20], "it cannot be read"),
    "text": (b"<!DOCTYPE html>", "it cannot be read"),
    "list": (pickle.dumps([1]), "expected a dictionary .* it holds list"),
    "names": (pickle.dumps({"data": PIXELS, "fine_labels": [1]}), "expected labels, a list of whole numbers"),
    "shape": (pickle.dumps(BATCH | {"data": PIXELS[:, :-1]}), "it holds data, labels"),
    "floats": (pickle.dumps(BATCH | {"data": PIXELS.astype(float)}), "it cannot be read: 'f8'"),
    "objects": (pickle.dumps(BATCH | {"data": PIXELS.astype(object)}), "it cannot be read: 'O8'"),
    "not an array": (pickle.dumps(BATCH | {"data": [1, 2]}), "expected a dictionary with 'data', bytes"),
    "count": (pickle.dumps(BATCH | {"labels": [1, 2]}), "expected 7 labels.*; it holds 2"),
    "range": (pickle.dumps(BATCH | {"labels": [-1] * 7}), "they go from -1 to -1"),
    "kind": (pickle.dumps(BATCH | {"labels": [0.5] * 7}), "expected labels, a list of whole numbers"),
    "bytes of a shape": (pickled(PIXELS, LABELS).replace(b"M\x00\x0c", b"M\x00\x0d"), "cannot be read: cannot reshape"),
}


@pytest.mark.parametrize("fault", PICKLE_FAULTS)
def test_pickled_batches_that_are_none(tmp_path, fault):
    content, message = PICKLE_FAULTS[fault]
    write(tmp_path, {"test_batch": content})
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / 'test_batch'))}: .*{message}") as caught:
        cifar10(root=str(tmp_path), split="test")
    assert "\n" not in str(caught.value)


def test_labels_may_be_an_array(tmp_path):
    write(tmp_path, {"test_batch": pickle.dumps(BATCH | {"labels": LABELS})})
    assert cifar10(root=str(tmp_path), split="test").labels.tolist() == LABELS.tolist()


def test_arrays_in_columns_are_not_turned(tmp_path):
    write(tmp_path, {"test_batch": pickle.dumps(BATCH | {"data": np.asfortranarray(PIXELS)})})
    np.testing.assert_array_equal(cifar10(root=str(tmp_path), split="test").pixels.flatten(1).numpy(), PIXELS)


class Call:
    """An object that a pickle makes by a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def malicious(where):
    """Pickles that would make a file at ``where``, one way or another."""
    command = f"touch {where}"
    return {
        "os.system": pickle.dumps(Call(os.system, command)),
        "in a batch": pickle.dumps(BATCH | {"filenames": Call(os.system, command)}),
        "builtins.eval": pickle.dumps(Call(eval, f"open({str(where)!r}, 'w')")),
        "builtins.open": pickle.dumps(Call(open, str(where), "w")),
        "builtins.getattr": pickle.dumps(Call(getattr, "text", "format")),
        "protocol 0": f"cposix\nsystem\n(S'{command}'\ntR.".encode(),
        "an instance": f"(S'{command}'\niposix\nsystem\n.".encode(),
        "numpy's own": pickle.dumps(Call(np.save, str(where), 1)),
        "a name inside": b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.tofile.abc\x93.",
        "codecs": b"c_codecs\ndecode\n(S'x'\nS'bz2'\ntR.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pname\n.",
    }


@pytest.mark.parametrize("how", malicious(""))
def test_nothing_of_a_pickle_is_run(tmp_path, how):
    where = tmp_path / "made"
    write(tmp_path, {"test_batch": malicious(where)[how]})
    with pytest.raises(UserError) as caught:
        cifar10(root=str(tmp_path), split="test")
    assert not where.exists()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'test_batch'}: ")
    assert "\n" not in message
    if how not in ("extension", "persistent"):
        assert re.search(r"has no use for \S+, and it was not run: do not trust this file", message)


def test_what_would_have_been_run_is_run_by_pickle_itself(tmp_path):
    """The test above is worth something: the same bytes do what they want where they are trusted."""
    pickle.loads(malicious(tmp_path / "made")["os.system"])
    assert (tmp_path / "made").exists()


def test_a_pickle_cannot_change_the_stand_ins():
    for name in ("numpy\ndtype", "numpy\nndarray", "_codecs\nencode", "numpy.core.multiarray\n_reconstruct"):
        # Global, then BUILD with a state for its attributes.
        for state in (b"}S'array'\nI1\ns", b"(N}S'__init__'\nI1\nst"):
            with pytest.raises(UserError, match="it cannot be read"):
                unpickled(f"c{name}\n".encode() + state + b"b.", "file")
    assert unpickled(pickle.dumps({"a": PIXELS}), "file")["a"].array.shape == PIXELS.shape


# The real files


@pytest.mark.slow
def test_real_images(tmp_path):
    unpack = REAL.parent / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"no real data at {REAL}")
    subprocess.run([sys.executable, str(unpack), "lossless", str(tmp_path)], check=True, capture_output=True)
    train, test = cifar10(root=str(tmp_path)), cifar10(root=str(tmp_path), split="test")
    assert (len(train), len(test)) == (8152, 1017)
    assert [test.classes[label] for label in test.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    # The channel means of the whole training set, as every tutorial normalises by. An image's mean has a standard
    # deviation below 0.17, and its standard error over 8,152 of them is below 0.002.
    means = train.pixels.double().mean((0, 2, 3)) / 255
    assert (means - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 5 * 0.002
