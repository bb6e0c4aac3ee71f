"""Files from elsewhere: whatever their bytes, one line and little memory."""

import gzip
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energyscape.data import cifar10, image_folder, mnist
from energyscape.data.arrays import read_array
from energyscape.data.idx import read_idx
from energyscape.data.images import open_picture
from energyscape.data.pickles import unpickled
from energyscape.errors import UserError

MEGABYTE = 1 << 20


def one_line(call, *messages):
    """Checks that a call fails with one line; returns the megabytes that Python and NumPy allocated at their peak."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            call()
        peak = tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    for each in messages:
        assert each in str(caught.value)
    return peak


def npy(header: bytes, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def png(width: int, height: int, *, bits: int = 8) -> bytes:
    """A PNG file of grey pixels, all black, whose content is as small as it can be."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + width * bits // 8)
    content = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


ARRAYS = {
    "a bracket lost": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), ".ljust(117) + b"\n", bytes(24)),
    "a quote lost": npy(b"{'descr: '<f4', 'fortran_order': False, 'shape': (3, 2), }".ljust(117) + b"\n", bytes(24)),
    "nested deep": npy(b"(" * 5000 + b"\n"),
    "a long number": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",), }\n"),
    "a petabyte": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000000,), }\n", bytes(24)),
    "no dtype": npy(b"{'descr': 'wrong', 'fortran_order': False, 'shape': (3, 2), }\n", bytes(24)),
    "a pickle": b"\x80\x04K\x01.",
    "nothing": b"",
}


@pytest.mark.parametrize("fault", ARRAYS)
def test_arrays_that_are_none(tmp_path, fault):
    (tmp_path / "x.npy").write_bytes(ARRAYS[fault])
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", ARRAYS[fault])
    for name in ("x.npy", "x.npz"):
        assert one_line(lambda name=name: read_array(tmp_path / name), f"{tmp_path / name}: ") < 50


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        entry.write(npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (300000000,), }\n"))
        for _ in range(300):
            entry.write(bytes(1_000_000))
    (tmp_path / "x.npz").write_bytes(content.getvalue())
    assert one_line(lambda: read_array(tmp_path / "x.npz"), "at most 268,435,456 bytes", "it claims 300,000,0") < 50


@pytest.mark.parametrize("text", [b"1,2\n" + b"3," * (1 << 23), b'1,"' + b"x" * 200_000, b"1\0,2\n", b"1,2\n3\n"])
def test_tables_that_are_none(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text)
    one_line(lambda: read_array(tmp_path / "x.csv"), "expected a table of numbers, it cannot be read: ")


def test_a_table_takes_eight_bytes_a_number(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"1\n" * 30_000)
    tracemalloc.start()
    assert read_array(tmp_path / "x.csv").shape == (30_000, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 8 * 30_000 + 200_000  # as they come, as an array, and the buffers


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\x0f", b"p268435455\n", b"r\x09\0\0\0"])
def test_a_pickle_of_eleven_bytes_takes_none_of_the_memory_that_it_asks_for(opcode):
    assert one_line(lambda: unpickled(b"\x80\x04K\x01" + opcode + b".", "batch"), "puts its value number 2 aside") < 1


def test_pickles_out_of_proportion():
    assert one_line(lambda: unpickled(b"]" * 1_000_001, "batch"), "it has more than 1,000,000 instructions") < 200
    # One text of a megabyte, made into bytes ten thousand times: as bytes it is there once.
    text = b"X" + struct.pack("<I", MEGABYTE) + b"a" * MEGABYTE
    call = b"c_codecs\nencode\nq\x00" + text + b"X\x06\x00\x00\x00latin1\x86q\x01R"
    tracemalloc.start()
    made = unpickled(b"(" + call + b"h\x00h\x01R" * 10_000 + b"l.", "batch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == 10_001
    assert peak < 10 * MEGABYTE


def test_idx_files_that_claim_millions_of_images(tmp_path):
    claimed = b"\0\0\x08\x03" + struct.pack(">III", 6_000_000, 28, 28)
    (tmp_path / "x").write_bytes(gzip.compress(claimed + bytes(MEGABYTE)))
    assert one_line(lambda: read_idx(tmp_path / "x", dimensions=3), "it claims 4,704,000,000") < 20
    (tmp_path / "x").write_bytes(claimed + bytes(MEGABYTE))
    assert one_line(lambda: read_idx(tmp_path / "x", dimensions=3), "it claims 4,704,000,000") < 20


def test_archives_that_unpack_to_more_than_the_published_ones(tmp_path):
    with gzip.open(tmp_path / "cifar-10-binary.tar.gz", "wb", compresslevel=1) as file:
        for _ in range(257):
            file.write(b"\0" * 512 + b"a" * (MEGABYTE - 512))
    one_line(lambda: cifar10(root=str(tmp_path), split="test"), "expected an intact tar.gz archive, it cannot be read")


def test_a_batch_is_not_larger_than_twice_a_published_one(tmp_path):
    with (tmp_path / "test_batch.bin").open("wb") as file:
        file.truncate(1 << 36)
    peak = one_line(lambda: cifar10(root=str(tmp_path), split="test"))
    assert peak < 20


def test_a_picture_is_measured_before_it_is_decoded(tmp_path):
    (tmp_path / "x.png").write_bytes(png(8200, 8200))
    message = "expected at most 67,108,864 pixels; it claims 8,200×8,200"
    assert one_line(lambda: image_folder(root=str(tmp_path), size=8), message) < 20


def test_sixteen_bits_that_hold_twelve_are_refused_and_not_nearly_black(tmp_path):
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 65
    PIL.Image.fromarray(deep).save(tmp_path / "x.png")
    one_line(lambda: open_picture(tmp_path / "x.png", 1), "reach 4,095 of 65,535", "multiply data of 12 bits by 16")
    PIL.Image.fromarray(deep * 16).save(tmp_path / "x.png")
    assert np.array_equal(open_picture(tmp_path / "x.png", 1), deep // 16)
    PIL.Image.fromarray(deep.astype(np.float32) / 4095).save(tmp_path / "x.tif")
    one_line(lambda: open_picture(tmp_path / "x.tif", 1), "go from 0 to 1, which is no image of 8 or 16 bits")
    PIL.Image.fromarray(deep.astype(np.int32) * 1000).save(tmp_path / "x.tif")
    one_line(lambda: open_picture(tmp_path / "x.tif", 1), "go from 0 to 4.095e+06")


def test_a_folder_that_is_nearly_black_is_refused(tmp_path):
    PIL.Image.fromarray(np.full((4, 4), 16, np.uint8)).save(tmp_path / "x.png")
    with pytest.warns(UserWarning, match="no pixel of 1 images is brighter than 16, and white is 255"):
        image_folder(root=str(tmp_path), size=4)


@pytest.mark.parametrize("suffix", [".PNG", ".JPG", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".pgm"])
def test_formats_of_pictures(tmp_path, suffix):
    PIL.Image.new("L", (8, 8), 200).save(tmp_path / f"x{suffix}")
    images = image_folder(root=str(tmp_path), size=8, channels=1)
    assert ((images.pixels.int() - 200).abs() <= 2).all()  # JPEG and WebP lose some


def test_files_that_are_left_out_are_counted(tmp_path):
    PIL.Image.new("L", (8, 8), 200).save(tmp_path / "x.png")
    for name in ("a.heic", "b.heic", "c", "\x1b[31m.avif"):
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out '.heic' \(2\), '.avif' \(1\), 'no suffix' \(1\); images are .png"):
        image_folder(root=str(tmp_path), size=8)


def test_links_are_followed_and_circles_end(tmp_path):
    for name, level in (("a/one", 100), ("real/two", 200)):
        (tmp_path / name).mkdir(parents=True)
        PIL.Image.new("L", (4, 4), level).save(tmp_path / name / "x.png")
    root = tmp_path / "a"
    (root / "two").symlink_to(tmp_path / "real" / "two")
    assert image_folder(root=str(root), size=4, channels=1).pixels[:, 0, 0, 0].tolist() == [100, 200]
    (root / "one" / "back").symlink_to(root)
    (tmp_path / "real" / "two" / "round").symlink_to(tmp_path / "real" / "two" / "round")
    with pytest.warns(UserWarning, match=r"'no suffix' \(1\), 'link to a folder that is read already' \(1\)"):
        images = image_folder(root=str(root), size=4, channels=1)
    assert (images.classes, len(images)) == (("one", "two"), 2)


def test_classes_are_in_natural_order(tmp_path):
    for k in range(1, 12):
        (tmp_path / str(k)).mkdir()
        PIL.Image.new("L", (4, 4), 20 * k).save(tmp_path / str(k) / "x.png")
    images = image_folder(root=str(tmp_path), size=4, channels=1)
    assert images.classes == tuple(str(k) for k in range(1, 12))
    assert [(int(label) + 1) * 20 for label in images.labels] == images.pixels[:, 0, 0, 0].tolist()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "y.csv").symlink_to("/dev/zero")
    (tmp_path / "z.csv").symlink_to("z.csv")
    for name in ("x.npy", "x.csv", "y.csv", "z.csv"):
        one_line(lambda name=name: read_array(tmp_path / name), f"{tmp_path / name}: expected a")
    one_line(lambda: open_picture(tmp_path / "x.png", 1), "a pipe")


@pytest.mark.parametrize("root", ["~nosuchuser/x", "a\0b"])
def test_roots_that_are_none(root):
    for load in (mnist, cifar10, lambda root: image_folder(root=root, size=8)):
        one_line(lambda load=load: load(root=root))


# Any bytes at all


def packed(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, x=array)
    return content.getvalue()


def picture(kind: str, **options) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(np.arange(64, 256, dtype=np.uint8).reshape(8, 8, 3)).save(content, kind, **options)
    return content.getvalue()


IDX = b"\0\0\x08\x03" + struct.pack(">III", 2, 3, 4) + bytes(24)
BATCH = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]})
WHOLE = {
    ".npy": (
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }".ljust(117) + b"\n", bytes(24)),
        read_array,
    ),
    ".npz": (packed(np.zeros((3, 2))), read_array),
    ".csv": (b"a,b\n1,2\n3,4e5\n", read_array),
    ".idx": (IDX, lambda path: read_idx(path, dimensions=3)),
    ".gz": (gzip.compress(IDX), lambda path: read_idx(path, dimensions=3)),
    ".pickle": (BATCH, lambda path: unpickled(path.read_bytes(), str(path))),
    **{
        f".{kind}": (picture(kind.upper()), lambda path: open_picture(path, 3))
        for kind in ("png", "jpeg", "webp", "bmp", "tiff", "gif", "ppm")
    },
}
EDIT = st.tuples(
    st.integers(0, 4000), st.integers(0, 8), st.binary(max_size=8) | st.sampled_from([b"\xff" * 4, b"9" * 20])
)


@pytest.mark.parametrize("kind", WHOLE)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, kind):
    content, read = WHOLE[kind]
    path = tmp_path / f"x{kind}"
    path.write_bytes(content)
    read(path)

    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(EDIT, min_size=1, max_size=3), st.integers(0, 4000))
    def check(edits, end):
        changed = bytearray(content)
        for place, length, new in edits:
            start = place % len(content)
            changed[start : start + length] = new
        path.write_bytes(changed if end % 3 else changed[: end % len(content)])
        try:
            read(path)
        except UserError as error:
            messages.append(str(error))

    messages: list[str] = []
    check()
    assert not any("\n" in each for each in messages)
