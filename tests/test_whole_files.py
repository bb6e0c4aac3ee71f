"""Files appear whole or not at all, with the usual mode, and foreign ones are read within limits."""

import errno
import json
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from energyscape import files
from energyscape.errors import UserError
from energyscape.files import as_json, atomic_write, clear_orphans, read_json, read_tensors, whole_folder, write_whole

GONE = 99_999_999  # beyond the largest process number that Linux gives


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_part_files_of_living_writers_stay_and_orphans_go(tmp_path, sleeper):
    deep = tmp_path / "checkpoints"
    deep.mkdir()
    living = [tmp_path / f".samples.npy.{sleeper}.part", deep / f".model.{sleeper}.part"]
    orphans = [tmp_path / f".samples.npy.{GONE}.part", tmp_path / f".link.{GONE}.part", deep / f".model.{GONE}.part"]
    living[0].write_bytes(b"half")
    living[1].mkdir()
    (tmp_path / "precious").write_text("x")
    orphans[0].write_bytes(b"half")
    orphans[1].symlink_to(tmp_path / "precious")
    orphans[2].mkdir()
    (orphans[2] / "weights").write_bytes(b"half")
    other = tmp_path / ".diary.part"  # no process number: it is not ours
    other.write_text("dear")
    clear_orphans(tmp_path)
    assert all(each.exists() for each in [*living, other])
    assert not any(each.exists() or each.is_symlink() for each in orphans)
    assert (tmp_path / "precious").read_text() == "x"


def test_a_locked_part_stays_whatever_its_process_number(tmp_path, monkeypatch):
    """A writer in another container is not seen by its number."""
    monkeypatch.setattr(os, "getpid", lambda: GONE)
    with atomic_write(tmp_path / "a.npy") as file:
        with whole_folder(tmp_path / "model") as folder:
            clear_orphans(tmp_path)
            assert folder.is_dir()
            (folder / "weights").write_bytes(b"all")
        file.write(b"all")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "model" / "weights").read_bytes() == b"all"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("x")
    for name in ("a", "m"):
        (tmp_path / f".{name}.{os.getpid()}.part").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "a", b"new")
    with whole_folder(tmp_path / "m") as folder:
        (folder / "w").write_bytes(b"new")
    assert (tmp_path / "precious").read_text() == "x"
    assert (tmp_path / "a").read_bytes() == (tmp_path / "m" / "w").read_bytes() == b"new"


def test_files_get_the_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_synced_after_the_rename_is_no_failure(tmp_path, monkeypatch):
    def only_files(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", only_files)
    write_whole(tmp_path / "a", b"all")
    assert (tmp_path / "a").read_bytes() == b"all"


def test_a_lock_is_held_until_the_file_is_closed(tmp_path):
    with open(tmp_path / "l", "wb") as one, open(tmp_path / "l", "wb") as two:
        assert files.lock(one.fileno())
        assert not files.lock(two.fileno())
        one.close()
        assert files.lock(two.fileno())


def test_json_has_no_nan():
    row = {"a": [math.nan, {"b": -math.inf}], "c": (1, 2.5, "NaN", None, True)}
    assert json.loads(as_json(row), parse_constant=pytest.fail) == {
        "a": [None, {"b": None}],
        "c": [1, 2.5, "NaN", None, True],
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"nonsense",
        b"\xff\xfe\x00",
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": 99999999999999999999999}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": "\\ud800',
        pickle.dumps({"a": 1}),
    ],
    ids=range(10),
)
def test_what_is_no_json_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json: expected a table, it cannot be read") as raised:
        read_json(path, "a table")
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(10**12)
    for name in ("pipe", "zero", "loop", "folder", "huge"):
        for read in (read_json, read_tensors):
            with pytest.raises(UserError, match=name):
                read(tmp_path / name, "a table")


def header(**entries):
    content = json.dumps(entries).encode()
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        header(a={"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}),
        header(a={"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}),
        header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}),
        header(a={"dtype": "X9", "shape": [0], "data_offsets": [0, 0]}),
        header(a={"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}),
        header(__metadata__=3),
        pickle.dumps({"a": 1}),
    ],
    ids=range(10),
)
def test_what_are_no_tensors_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected weights, it cannot be read") as raised:
        read_tensors(path, "weights")
    assert "\n" not in str(raised.value)


def test_tensors_and_metadata_are_read(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "m", metadata={"by": "hand"})
    tensors, metadata = read_tensors(tmp_path / "m", "weights")
    assert torch.equal(tensors["a"], load_file(tmp_path / "m")["a"])
    assert metadata == {"by": "hand"}
