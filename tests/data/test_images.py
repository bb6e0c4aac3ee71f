"""Images: readers against files written here and against the real ones, downloads against a server on this machine."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_digits

from energyscape.data import (
    DATASETS,
    Distribution,
    EightGaussians,
    Images,
    digits,
    fashion_mnist,
    image_folder,
    kmnist,
    mnist,
)
from energyscape.data.download import Sum, cache_folder, download, learned_folder
from energyscape.data.idx import read_idx
from energyscape.data.published import PUBLISHED, Published
from energyscape.errors import UserError
from energyscape.registry import build, schema

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def real(name):
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return str(folder)


def idx(values):
    """The bytes of an idx file, written from the format's description."""
    values = np.asarray(values, dtype=np.uint8)
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def four_files(n=3):
    rng = np.random.default_rng(0)
    files = {}
    for half, count in (("train", n), ("t10k", n + 1)):
        files[f"{half}-images-idx3-ubyte.gz"] = gzip.compress(idx(rng.integers(0, 256, (count, 28, 28))))
        files[f"{half}-labels-idx1-ubyte.gz"] = gzip.compress(idx(rng.integers(0, 10, count)))
    return files


def sum_of(content):
    return Sum(len(content), hashlib.sha256(content).hexdigest())


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# Images


def test_floats_are_exact_at_black_grey_and_white():
    pixels = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(4, 1, 1, 1)
    x = Images(pixels).floats()
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.flatten(), torch.tensor([-1, -0.6, 1, -0.2]), atol=1e-7, rtol=0)
    assert (x[0], x[2]) == (-1, 1)
    assert torch.equal(Images(pixels).floats(torch.tensor([2, 0])), x[[2, 0]])
    assert torch.equal(Images(pixels).floats(slice(1, 3)), x[1:3])
    every = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    assert torch.equal(((Images(every).floats() + 1) * 127.5).round().to(torch.uint8), every)
    assert int(pixels[3]) == 102  # nothing was changed in place


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Images(torch.zeros(2, 1, 4, 4)), "pixels are uint8 .* torch.float32"),
        (lambda: Images(torch.zeros(2, 4, 4, dtype=torch.uint8)), r"of shape \(2, 4, 4\)"),
        (
            lambda: Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
            "each of 2 images",
        ),
        (lambda: Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), white=0), "white .* it was 0"),
    ],
)
def test_images_refuse_other_tensors(make, message):
    with pytest.raises(UserError, match=message):
        make()


# Digits


def test_digits_are_those_of_sklearn():
    loaded = load_digits()
    everything = digits(split="all")
    assert (len(everything), everything.shape) == (1797, (1, 8, 8))
    np.testing.assert_array_equal(everything.pixels[:, 0].numpy(), loaded.images)
    np.testing.assert_array_equal(everything.labels.numpy(), loaded.target)
    np.testing.assert_allclose(everything.floats()[:, 0].numpy(), loaded.images / 8 - 1)


def test_digits_splits_part_the_whole():
    everything, train, test = (digits(split=split) for split in ("all", "train", "test"))
    assert torch.equal(test.pixels, everything.pixels[5::6])
    assert torch.equal(test.labels, everything.labels[5::6])
    kept = [i for i in range(1797) if i % 6 != 5]
    assert torch.equal(train.pixels, everything.pixels[kept])
    assert torch.equal(train.labels, everything.labels[kept])


@pytest.mark.parametrize("load", [digits, mnist, functools.partial(image_folder, root=".", size=8)])
def test_unknown_split_names_the_valid_ones(load):
    with pytest.raises(UserError, match="split is one of train, test, all; it was 'tset'; did you mean 'test'"):
        load(split="tset")


# The idx format


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["raw", "gzip"])
def test_idx_reads_what_was_written(tmp_path, pack):
    values = np.random.default_rng(1).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    (tmp_path / "file").write_bytes(pack(idx(values)))
    np.testing.assert_array_equal(read_idx(tmp_path / "file", dimensions=3).numpy(), values)


GOOD = idx(np.arange(24).reshape(2, 3, 4))
FAULTS = {
    "empty": (b"", "magic number 00000803 .* it begins with nothing"),
    "labels for images": (idx([1, 2]), "magic number 00000803 .* it begins with 00000801"),
    "another type": (b"\0\0\x0d\3" + GOOD[4:], "it begins with 00000d03"),
    "web page": (b"<!DOCTYPE html>", "it begins with 3c21444f"),
    "short header": (GOOD[:9], "expected 12 bytes of sizes; it ends after 5"),
    "truncated": (GOOD[:-1], r"expected 24 bytes of values \(2×3×4\); it holds only 23"),
    "too long": (GOOD + b"\0", "expected 24 bytes of values .* it holds more"),
    "no values": (idx(np.zeros((0, 3, 4))), "at least one value; its sizes are 0×3×4"),
    "absurd sizes": (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "at most 268,435,456 bytes in a file of 40; it claims 79,"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "expected an intact idx file, it cannot be read"),
    "damaged gzip": (
        gzip.compress(GOOD)[:20] + b"\xff\xff\xff" + gzip.compress(GOOD)[23:],
        "expected content of at most",
    ),
    "gzip header only": (b"\x1f\x8b", "expected an intact idx file, it cannot"),
    "truncated inside gzip": (gzip.compress(GOOD[:-1]), "it holds only 23"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_idx_says_what_was_expected_and_what_came(tmp_path, fault):
    content, message = FAULTS[fault]
    path = tmp_path / "images-file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path, dimensions=3)
    assert str(caught.value).startswith(f"{path}: expected")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 8, 23, 24])
def test_idx_is_read_in_chunks_of_any_size(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("energyscape.data.idx.CHUNK", chunk)
    path = tmp_path / "file"
    path.write_bytes(GOOD)
    assert torch.equal(read_idx(path, dimensions=3).flatten(), torch.arange(24, dtype=torch.uint8))
    path.write_bytes(GOOD + b"\0")
    with pytest.raises(UserError, match="it holds more"):
        read_idx(path, dimensions=3)


def test_idx_missing_file(tmp_path):
    with pytest.raises(UserError, match="nothing-here: there is no such file; expected an intact idx file"):
        read_idx(tmp_path / "nothing-here", dimensions=1)


# MNIST and its relatives


def test_mnist_is_mnist():
    train, test = mnist(root=real("mnist")), mnist(root=real("mnist"), split="test")
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (1, 28, 28))
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert torch.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # The mean and deviation of the training pixels that every tutorial normalises by.
    assert float(train.pixels.float().mean()) / 255 == pytest.approx(0.1307, abs=5e-5)
    assert float(train.pixels.double().std()) / 255 == pytest.approx(0.3081, abs=5e-5)
    with gzip.open(REAL / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    np.testing.assert_array_equal(test.pixels.numpy(), raw)


@pytest.mark.parametrize("load", [fashion_mnist, kmnist])
def test_relatives_of_mnist(load):
    name = load.__name__.replace("_", "-")
    images = load(root=real(name), split="test")
    assert (len(images), images.shape, images.name) == (10_000, (1, 28, 28), name)
    assert torch.bincount(images.labels).tolist() == [1000] * 10


@pytest.mark.parametrize("name", PUBLISHED)
def test_checksums_are_those_of_the_real_files(name):
    present = [
        path for path in Path(real(name)).iterdir() if path.name.removesuffix("-ubyte.gz") in PUBLISHED[name].files
    ]
    assert len(present) >= 2
    for path in present:
        assert sum_of(path.read_bytes()) == PUBLISHED[name].files[path.name.removesuffix("-ubyte.gz")]


@pytest.mark.parametrize("form", ["{}-idx{}-ubyte.gz", "{}-idx{}-ubyte", "{}.idx{}-ubyte", "{}.idx{}-ubyte.gz"])
def test_all_the_names_that_the_files_go_by(tmp_path, form):
    pixels, labels = np.arange(2 * 784).reshape(2, 28, 28) % 256, [3, 9]
    pack = gzip.compress if form.endswith(".gz") else bytes
    write(
        tmp_path, {form.format("t10k-images", 3): pack(idx(pixels)), form.format("t10k-labels", 1): pack(idx(labels))}
    )
    images = mnist(root=str(tmp_path), split="test")
    np.testing.assert_array_equal(images.pixels[:, 0].numpy(), pixels)
    assert images.labels.tolist() == labels


@pytest.mark.parametrize("root", ["", "MNIST", "MNIST/raw"])
def test_the_folders_of_torchvision(tmp_path, root):
    write(tmp_path / "MNIST" / "raw", {name: gzip.decompress(each) for name, each in four_files().items()})
    for name in [*(tmp_path / "MNIST" / "raw").iterdir()]:
        name.rename(name.with_suffix(""))
    assert len(mnist(root=str(tmp_path / root), split="all")) == 7


def test_all_is_train_then_test(tmp_path):
    write(tmp_path, four_files())
    train, test, both = (mnist(root=str(tmp_path), split=split) for split in ("train", "test", "all"))
    assert (len(train), len(test)) == (3, 4)
    assert torch.equal(both.pixels, torch.cat([train.pixels, test.pixels]))
    assert torch.equal(both.labels, torch.cat([train.labels, test.labels]))


PAIR_FAULTS = {
    "sizes": (idx(np.zeros((2, 8, 8))), idx([0, 1]), "images-idx3.* expected images of 28×28 pixels; they are 8×8"),
    "counts": (idx(np.zeros((2, 28, 28))), idx([0, 1, 2]), "labels-idx1.* expected 2 labels.* it holds 3"),
    "range": (idx(np.zeros((2, 28, 28))), idx([0, 10]), "labels-idx1.* expected labels from 0 to 9; it holds 10"),
    "exchanged": (idx([0, 1]), idx(np.zeros((2, 28, 28))), "images-idx3.* magic number 00000803 "),
}


@pytest.mark.parametrize("fault", PAIR_FAULTS)
def test_files_that_do_not_fit_together(tmp_path, fault):
    images, labels, message = PAIR_FAULTS[fault]
    write(tmp_path, {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels})
    with pytest.raises(UserError, match=message):
        mnist(root=str(tmp_path))


def test_a_root_that_lacks_files_is_never_downloaded_into(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("went to the network"))
    with pytest.raises(
        UserError, match=r"mnist: root \S+nowhere is not a folder: give the one that holds train-images"
    ):
        mnist(root=str(tmp_path / "nowhere"))
    files = four_files()
    del files["train-labels-idx1-ubyte.gz"]
    write(tmp_path, files)
    with pytest.raises(UserError, match=r"lacks train-labels-idx1-ubyte.gz \(plain.*does hold split 'test'"):
        mnist(root=str(tmp_path))


# Downloads


@pytest.fixture
def serve(monkeypatch):
    """Starts servers on this machine: name → content in, the address and the paths it was asked for out."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(files, status=200, cut=0):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                content = files.get(self.path.removeprefix("/"))
                self.send_response(404 if content is None else status)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write((content or b"")[: len(content or b"") - cut])

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/", asked

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


DEAD = "http://127.0.0.1:9/"  # the discard port: no server listens
CONTENT = b"some bytes " * 1000
SUM = sum_of(CONTENT)


def test_dead_mirror_then_good_mirror(serve, tmp_path):
    missing, _ = serve({})
    failing, _ = serve({"file": CONTENT}, status=503)
    short, _ = serve({"file": CONTENT}, cut=10)
    wrong, _ = serve({"file": CONTENT + b"!"})
    good, asked = serve({"file": CONTENT})
    unused, unasked = serve({"file": CONTENT})
    mirrors = [DEAD, missing, failing, short, wrong, good, unused]
    path = download("file", tmp_path / "new" / "folder", mirrors=mirrors, known=SUM)
    assert path == tmp_path / "new" / "folder" / "file"
    assert path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    assert (asked, unasked) == (["/file"], [])


def test_another_file_than_the_published_one_leaves_nothing(serve, tmp_path):
    other = CONTENT[:-1] + b"!"
    for content, fault in (
        (other, f"SHA-256 is {sum_of(other).sha256}, not {SUM.sha256}"),
        (CONTENT[:-1], "expected 11,000 bytes; it sends 10,999"),
        (CONTENT * 1000, "expected 11,000 bytes; it sends more"),
    ):
        wrong, _ = serve({"file": content})
        with pytest.raises(UserError, match=f"{wrong}: {fault}"):
            download("file", tmp_path, mirrors=[wrong], known=SUM)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_drips_is_given_up(tmp_path, monkeypatch):
    class Dripping:
        def read1(self, _):
            time.sleep(0.01)
            return b"."

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Dripping())
    with pytest.raises(UserError, match=r"timed out after \d+ of 2,000 bytes"):
        download("file", tmp_path, mirrors=["https://slow/"], known=Sum(2_000, ""), timeout=0.1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_come_over_https(name):
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in PUBLISHED[name].mirrors)


def test_a_silent_mirror_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        began = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            download("file", tmp_path, mirrors=[mirror], known=SUM, timeout=0.2)
        assert 0.2 <= time.monotonic() - began < 5


def test_a_reader_of_the_old_file_is_not_disturbed(serve, tmp_path):
    good, _ = serve({"file": CONTENT})
    (tmp_path / "file").write_bytes(b"old content")
    with (tmp_path / "file").open("rb") as old:
        download("file", tmp_path, mirrors=[good], known=SUM)
        assert old.read() == b"old content"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(serve, tmp_path):
    good, _ = serve({"file": CONTENT})
    (tmp_path / "taken").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write \S+taken/file: .*ENERGYSCAPE_DATA"):
        download("file", tmp_path / "taken", mirrors=[good], known=SUM)


def test_a_write_that_fails_leaves_nothing(serve, tmp_path, monkeypatch):
    good, _ = serve({"file": CONTENT})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        download("file", tmp_path, mirrors=[good], known=SUM)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def published(serve, tmp_path, monkeypatch):
    """MNIST as published by a server on this machine, and an empty cache."""
    files = four_files()
    address, asked = serve(files)
    sums = {name.removesuffix("-ubyte.gz"): sum_of(content) for name, content in files.items()}
    monkeypatch.setenv("ENERGYSCAPE_DATA", str(tmp_path / "cache"))
    entry = Published(name="mnist", folder="MNIST", mirrors=(DEAD, address), files=sums, classes=tuple("0123456789"))
    monkeypatch.setitem(PUBLISHED, "mnist", entry)
    return files, asked


def test_mnist_is_fetched_once_into_the_cache(published, tmp_path):
    files, asked = published
    train = mnist()
    np.testing.assert_array_equal(
        train.pixels.numpy().ravel(), np.frombuffer(gzip.decompress(files[asked[0][1:]]), np.uint8)[16:]
    )
    assert asked == ["/train-images-idx3-ubyte.gz", "/train-labels-idx1-ubyte.gz"]
    assert torch.equal(mnist(download=False).pixels, train.pixels)
    assert len(asked) == 2
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == [name[1:] for name in asked]


def test_neither_cache_nor_network(monkeypatch, tmp_path):
    monkeypatch.setenv("ENERGYSCAPE_DATA", str(tmp_path))
    monkeypatch.setitem(PUBLISHED, "kmnist", dataclasses.replace(PUBLISHED["kmnist"], mirrors=(DEAD,)))
    with pytest.raises(UserError) as caught:
        kmnist(split="test")
    message = str(caught.value)
    assert message.startswith(
        f"kmnist: the cache {tmp_path / 'kmnist'} lacks t10k-images-idx3-ubyte.gz and downloading"
    )
    assert f"{DEAD}: <urlopen error [Errno 111] Connection refused>" in message
    assert message.endswith("or give root=FOLDER that holds t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz")
    assert "\n" not in message
    with pytest.raises(
        UserError, match=r"lacks t10k-images-idx3-ubyte\.gz and download is off: turn it on, or give root="
    ):
        kmnist(split="test", download=False)


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("ENERGYSCAPE_DATA", "/somewhere")
    assert cache_folder("mnist") == Path("/somewhere/mnist")
    monkeypatch.delenv("ENERGYSCAPE_DATA")
    assert cache_folder("mnist") == Path.home() / ".cache" / "energyscape" / "mnist"


def test_what_is_learned_is_kept_apart_from_the_data(monkeypatch):
    monkeypatch.setenv("ENERGYSCAPE_DATA", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert learned_folder("classifiers") == Path("/elsewhere/energyscape/classifiers")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert learned_folder("classifiers") == Path.home() / ".cache" / "energyscape" / "classifiers"


# Folders


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)


def test_folder_with_classes(tmp_path):
    rng = np.random.default_rng(2)
    truth = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(3)]
    save(tmp_path / "dog" / "a.png", truth[2])
    save(tmp_path / "cat" / "b.PNG", truth[1])
    save(tmp_path / "cat" / "a" / "z.png", truth[0])
    save(tmp_path / ".hidden" / "x.png", truth[0])
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    with pytest.warns(UserWarning, match=r"left out '.txt' \(1\); images are .png, .jpg"):
        images = image_folder(root=str(tmp_path), size=4)
    np.testing.assert_array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), truth)
    assert images.labels.tolist() == [0, 0, 1]
    assert (images.classes, images.name, images.white) == (("cat", "dog"), tmp_path.name, 255)


def test_folder_without_classes_and_its_split(tmp_path):
    for i in range(21):
        save(tmp_path / f"{i:02}.png", np.full((2, 2), 10 * i))
    everything, train, test = (
        image_folder(root=str(tmp_path), size=2, channels=1, split=s) for s in ("all", "train", "test")
    )
    assert everything.labels is None
    assert everything.pixels[:, 0, 0, 0].tolist() == [10 * i for i in range(21)]
    assert test.pixels[:, 0, 0, 0].tolist() == [90, 190]
    assert train.pixels[:, 0, 0, 0].tolist() == [10 * i for i in range(21) if i not in (9, 19)]


def test_split_of_a_folder_keeps_the_labels(tmp_path):
    for i in range(20):
        save(tmp_path / ("cat" if i < 12 else "dog") / f"{i:02}.png", np.full((2, 2), 10 * i))
    train, test = (image_folder(root=str(tmp_path), size=2, split=split) for split in ("train", "test"))
    assert (test.pixels[:, 0, 0, 0].tolist(), test.labels.tolist()) == ([90, 190], [0, 1])
    assert torch.equal(train.labels, (train.pixels[:, 0, 0, 0] >= 120).long())


def test_images_are_cropped_in_the_middle_and_averaged(tmp_path):
    wide = np.zeros((4, 8), dtype=np.uint8)
    wide[:, 2:6] = 200
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", wide.T)
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    save(tmp_path / "c.png", stripes)
    images = image_folder(root=str(tmp_path), size=4, channels=1)
    assert (images.pixels[:2] == 200).all()
    # Without antialiasing one pixel in 16 would be picked: 0 or 255. Rounding and the window leave a few levels.
    assert (images.pixels[2].int() - 127).abs().max() <= 3


def test_grey_colour_transparency_and_sixteen_bits(tmp_path):
    save(tmp_path / "a.png", np.full((2, 2, 3), (255, 0, 0)))
    transparent = np.zeros((2, 2, 4), dtype=np.uint8)
    transparent[0] = (0, 0, 255, 255)
    save(tmp_path / "b.png", transparent)
    PIL.Image.fromarray(np.full((2, 2), 128 * 256, dtype=np.uint16)).save(tmp_path / "c.png")
    colour, grey = (image_folder(root=str(tmp_path), size=2, channels=channels) for channels in (3, 1))
    assert colour.pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    assert grey.pixels[0, 0, 0, 0] == 76  # 0.299 · 255: ITU-R 601 luma
    assert colour.pixels[1, :, 0, 0].tolist() == [0, 0, 255]
    assert colour.pixels[1, :, 1, 0].tolist() == [255, 255, 255]
    assert (colour.pixels[2] == 128).all()
    assert (grey.pixels[2] == 128).all()


def test_jpeg_and_its_orientation(tmp_path):
    half = np.zeros((16, 16), dtype=np.uint8)
    half[:8] = 255  # the upper half is white
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    save(tmp_path / "a.jpeg", half)
    save(tmp_path / "b.jpg", half, exif=exif)
    x = image_folder(root=str(tmp_path), size=16, channels=1).floats()
    assert x[0, 0, :8].min() > 0.95 > -0.95 > x[0, 0, 8:].max()
    assert x[1, 0, 8:].min() > 0.95 > -0.95 > x[1, 0, :8].max()


def test_folder_faults(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        image_folder(root=str(tmp_path / "nowhere"), size=4)
    with pytest.raises(UserError, match="it holds none, nor do its sub-folders"):
        image_folder(root=str(tmp_path), size=4)
    save(tmp_path / "a.png", np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"split 'test' needs at least 10 images; the folder holds 1: use 'all'"):
        image_folder(root=str(tmp_path), size=4, split="test")
    with pytest.raises(UserError, match="channels is 1 or 3; they were 4 and 2"):
        image_folder(root=str(tmp_path), size=4, channels=2)
    with pytest.raises(UserError, match=r"size is positive .* they were 0 and 3"):
        image_folder(root=str(tmp_path), size=0)
    save(tmp_path / "cat" / "a.png", np.zeros((4, 4)))
    with pytest.raises(UserError, match="one sub-folder a class; it holds both"):
        image_folder(root=str(tmp_path), size=4)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated png", "truncated jpeg", "jpeg 2000"])
def test_unreadable_image_is_named(tmp_path, damage):
    save(tmp_path / "a.png", np.zeros((4, 4)))
    noise = np.random.default_rng(3).integers(0, 256, (64, 64))
    name = "bad.jpg" if damage == "truncated jpeg" else "bad.png"
    save(tmp_path / name, noise)
    whole = (tmp_path / name).read_bytes()
    if damage == "jpeg 2000":  # its decoder is not asked
        save(tmp_path / "other.jp2", noise)
        whole = (tmp_path / "other.jp2").read_bytes()
        (tmp_path / "other.jp2").unlink()
    content = {"text": b"hello", "empty": b"", "jpeg 2000": whole}.get(damage, whole[: len(whole) // 2])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: expected a readable PNG, JPEG or other image, it cannot be read: "):
        image_folder(root=str(tmp_path), size=4)


# The registry


def test_recipes_build_data_by_name(tmp_path):
    assert build(DATASETS, "8gaussians", {"radius": 3}) == EightGaussians(radius=3.0)
    assert len(build(DATASETS, "digits", {"split": "test"})) == 299
    save(tmp_path / "a.png", np.full((4, 4), 70))
    assert (build(DATASETS, "folder", {"root": str(tmp_path), "size": 2}).pixels == 70).all()
    with pytest.raises(UserError, match="did you mean 'moons'"):
        build(DATASETS, "moon")
    with pytest.raises(UserError, match="has no setting 'nois'; did you mean 'noise'"):
        build(DATASETS, "moons", {"nois": 1.0})


@pytest.mark.parametrize("name", DATASETS)
def test_every_setting_is_described(name):
    fields = schema(DATASETS[name])
    assert all(field.doc for field in fields.values())
    known = (str, int, float, bool, str | None, float | None, Distribution, tuple[float, float, float, float])
    assert all(field.annotation in known for field in fields.values())
