"""CIFAR-10 in the Hugging Face Hub's layout: the same images as the official one, and files that are something else."""

import io
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from test_cifar import as_binary, numbers

from energyscape.data import cifar10
from energyscape.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PIXELS, LABELS = numbers()["test_batch"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEST = "test-00000-of-00001.parquet"


def encoded(planes, kind="PNG", mode="RGB"):
    """One image file out of pixels in the binary layout's order."""
    file = io.BytesIO()
    PIL.Image.fromarray(planes.reshape(3, 32, 32).transpose(1, 2, 0)).convert(mode).save(file, kind)
    return file.getvalue()


def blank(width, height):
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


FILES = [encoded(row) for row in PIXELS]


def table(files, labels, *, image="img", label="label", kind=None):
    rows = pa.array([each and {"bytes": each, "path": None} for each in files], STRUCT)
    return pa.table({image: rows, label: pa.array(list(labels), kind or pa.int64())})


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)
    return path


def published(folder, *, cuts=1, end="", **columns):
    """Writes the images of `numbers` as the Hub would: train in several files, test in one."""
    batches = numbers()
    pixels = np.concatenate([batches[name][0] for name in batches if name != "test_batch"])
    labels = np.concatenate([batches[name][1] for name in batches if name != "test_batch"])
    for i, part in enumerate(np.array_split(np.arange(len(pixels)), cuts)):
        rows = table([encoded(pixels[j]) for j in part], labels[part], **columns)
        write(folder / f"train-{i:05d}-of-{cuts:05d}{end}.parquet", rows)
    write(folder / f"test-00000-of-00001{end}.parquet", table(FILES, LABELS, **columns))


LAYOUTS = {
    "the Hub's": {"place": "plain_text"},
    "in the folder itself": {"place": ""},
    "several files": {"place": "plain_text", "cuts": 3},
    "more than ten files": {"place": "data", "cuts": 12},
    "older": {"place": "data", "cuts": 2, "end": "-20d3af4aff013952", "image": "image", "kind": pa.uint8()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_the_images_of_the_binary_layout_in_the_same_order(tmp_path, layout):
    columns = dict(LAYOUTS[layout])
    published(tmp_path / "hub" / columns.pop("place"), **columns)
    as_binary(tmp_path / "official", numbers())
    for split, n in (("train", 20), ("test", 7), ("all", 27)):
        one, other = (cifar10(root=str(tmp_path / name), split=split) for name in ("hub", "official"))
        assert len(one) == n
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)
        assert (one.name, one.classes) == (other.name, other.classes)


def test_more_rows_than_are_decoded_at_once_in_several_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("energyscape.data.parquet.ROWS", 2)
    pq.write_table(table(FILES, LABELS), tmp_path / TEST, row_group_size=3)
    images = cifar10(root=str(tmp_path), split="test")
    np.testing.assert_array_equal(images.pixels.flatten(1).numpy(), PIXELS)
    assert images.labels.tolist() == LABELS.tolist()


def test_the_cache_is_looked_at_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("went to the network"))
    monkeypatch.setenv("ENERGYSCAPE_DATA", str(tmp_path))
    published(tmp_path / "cifar10" / "plain_text")
    assert len(cifar10(split="all")) == 27


def test_official_batches_go_first(tmp_path):
    as_binary(tmp_path, numbers())
    write(tmp_path / TEST, table(FILES[:1], [0]))
    assert len(cifar10(root=str(tmp_path), split="test")) == 7


# What goes wrong


def test_files_that_are_missing(tmp_path):
    published(tmp_path / "plain_text", cuts=3)
    (tmp_path / "plain_text" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"plain_text lacks train-00001-of-00003.parquet for split 'train': put them"):
        cifar10(root=str(tmp_path))
    assert len(cifar10(root=str(tmp_path), split="test")) == 7
    (tmp_path / "plain_text" / TEST).unlink()
    with pytest.raises(UserError, match=r"lacks train-00001-of-00003.parquet and test-00000-of-00001.parquet for"):
        cifar10(root=str(tmp_path), split="all")
    with pytest.raises(UserError, match=r"plain_text lacks test-00000-of-00001.parquet for split 'test'"):
        cifar10(root=str(tmp_path), split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"nor plain_text/train-00000-of-00001.parquet and the like: put one of them"):
        cifar10(root=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    "other",
    ["test-00001-of-00002.parquet", "test-00000-of-00001-0123456789abcdef.parquet", "test-00001-of-00001.parquet"],
    ids=["another count", "one number twice", "a number too high"],
)
def test_files_that_do_not_belong_together(tmp_path, other):
    for name in (TEST, other):
        write(tmp_path / name, table(FILES, LABELS))
    with pytest.raises(UserError, match=rf"expected the test files of one data set, .*{other}.*: remove those of ano"):
        cifar10(root=str(tmp_path), split="test")


def without(column):
    return table(FILES, LABELS).drop_columns([column])


COLUMNS = r"expected columns img or image, a struct with bytes, and label, whole numbers; it holds "
TABLES = {
    "no images": (without("img"), COLUMNS + r"label \(int64\): is it another data set"),
    "no labels": (without("label"), COLUMNS + r"img \(struct<bytes: binary, path: string>\): is it"),
    "another data set": (table(FILES, LABELS, label="fine_label"), COLUMNS + r".*fine_label \(int64\)"),
    "files and no struct": (pa.table({"img": FILES, "label": LABELS}), COLUMNS + r"img \(binary\)"),
    "paths alone": (pa.table({"img": [{"path": "x.png"}], "label": [1]}), COLUMNS + r"img \(struct<path: string>\)"),
    "text": (pa.table({"img": [{"bytes": "x"}], "label": [1]}), COLUMNS + r"img \(struct<bytes: string>\)"),
    "labels are words": (pa.table({"img": [{"bytes": b"x"}], "label": ["cat"]}), COLUMNS + r".*label \(string\)"),
    "labels are floats": (table(FILES, LABELS, kind=pa.float32()), COLUMNS + r".*label \(float\)"),
    "none": (table([], []), "expected at least one image; it holds none"),
    "no image": (table([*FILES[:-1], None], LABELS), "expected an image and a label in every row"),
    "no bytes": (pa.table({"img": pa.array([{"path": "x.png"}], STRUCT), "label": [1]}), "an image and a label in ev"),
    "no label": (table(FILES, [*LABELS[:-1], None]), "expected an image and a label in every row"),
    "label 10": (table(FILES, [*LABELS[:-1], 10]), "expected labels from 0 to 9; they go from . to 10"),
    "label -1": (table(FILES, [*LABELS[:-1], -1]), "expected labels from 0 to 9; they go from -1 to"),
    "JPEG": (
        table([*FILES[:2], encoded(PIXELS[2], "JPEG")], [0] * 3),
        "row 2: expected a PNG image, it cannot be read",
    ),
    "an image cut short": (table([FILES[0], FILES[1][:-900]], [0] * 2), "row 1: expected a PNG image, it cannot"),
    "an image changed": (table([FILES[0][:999] + b"?" + FILES[0][1000:]], [0]), "row 0: expected a PNG image"),
    "wide": (table([blank(64, 32)], [0]), "row 0: expected an image of 32×32 pixels, RGB; it is 32×64, RGB: is it"),
    "huge": (table([blank(9000, 9000)], [0]), "row 0: expected an image of 32×32 pixels, RGB; it is 9000×9000"),
    "grey": (table([encoded(PIXELS[0], mode="L")], [0]), "row 0: expected an image .*; it is 32×32, L: is it"),
    "transparent": (table([encoded(PIXELS[0], mode="RGBA")], [0]), "row 0: .*; it is 32×32, RGBA"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_tables_of_something_else(tmp_path, fault):
    content, message = TABLES[fault]
    path = write(tmp_path / TEST, content)
    with pytest.raises(UserError, match=message) as caught:
        cifar10(root=str(tmp_path), split="test")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    whole = write(tmp_path / TEST, table(FILES, LABELS)).read_bytes()
    faults = {
        "empty": b"",
        "cut": whole[:-1],
        "its end alone": whole[-1000:],
        "text": b"<!DOCTYPE html>" * 100,
        "a page lost": whole[:4] + bytes(8000) + whole[8004:],
    }
    for content in faults.values():
        (tmp_path / TEST).write_bytes(content)
        with pytest.raises(UserError, match=r"expected an intact Parquet file, it cannot be read: ") as caught:
            cifar10(root=str(tmp_path), split="test")
        assert "\n" not in str(caught.value)
    (tmp_path / TEST).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1e06\nsize 22790053\n")
    with pytest.raises(UserError, match="it is a pointer to one: fetch it with 'git lfs pull'"):
        cifar10(root=str(tmp_path), split="test")


def test_a_label_changed_on_the_way_is_noticed_where_the_writer_left_checksums(tmp_path):
    path, labels = tmp_path / TEST, np.array(LABELS, np.int64).tobytes()
    pq.write_table(table(FILES, LABELS), path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    assert content.count(labels) == 1
    path.write_bytes(content.replace(labels, bytes([(LABELS[0] + 1) % 10]) + labels[1:]))
    with pytest.raises(UserError, match=r"expected an intact Parquet file, it cannot be read: .*CRC"):
        cifar10(root=str(tmp_path), split="test")


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / TEST, table(FILES, LABELS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"needs pyarrow, which is not installed: pip install 'energyscape\[parquet\]'"):
        cifar10(root=str(tmp_path), split="test")
