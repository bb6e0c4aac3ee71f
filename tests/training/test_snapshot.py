"""Snapshots: what goes in comes out, and a file is whole, or refused, or not there."""

import errno
import math
import os
import pickle

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.files import write_whole
from energyscape.training import Snapshot

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip

TREE = {
    "clock": {"step": 3, "rate": 0.1, "name": "a run", "on": True, "off": False, "none": None, "big": 2**60},
    "optimiser": {
        "state": {0: {"exp_avg": torch.arange(6.0).view(2, 3), "step": torch.tensor(3.0)}, 1: {}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}],
    },
    "tensors": {str(dtype): torch.tensor([[0, 1], [1, 2]]).to(dtype) for dtype in DTYPES},
    "shapes": [torch.empty(0), torch.empty(0, 3, 2), torch.tensor(7), torch.ones(1, 1, 2)],
    "strided": torch.arange(12.0).view(3, 4).t()[::2],
    "nested": ((1, [2, (3, None)]), [], (), {}),
    "floats": [math.inf, -math.inf, 1e-310, 0.1 + 0.2],
    "keys": {"a.b": torch.ones(1), "a": {"b": torch.zeros(2)}, 0: torch.ones(3), "0": torch.zeros(4)},
    "more": {"": torch.ones(5), ".": torch.ones(6), True: torch.ones(7), "True": torch.ones(8), "a": [torch.ones(9)],
             "a.0": torch.ones(10)},
}  # fmt: skip


def test_a_tree_comes_back_with_its_types_and_bits(tmp_path):
    path = tmp_path / "deep" / "er" / "run.safetensors"
    Snapshot.of(TREE).save(path)
    back = Snapshot.load(path)
    assert cases.same(back.tree, TREE)
    assert list(path.parent.iterdir()) == [path]
    Snapshot.of({"other": 1}).save(path)
    assert Snapshot.load(path).tree == {"other": 1}


def test_optimisers_take_back_what_was_saved(tmp_path):
    net = cases.neural(dtype=torch.float64)
    for make in (
        lambda: torch.optim.Adam(net.parameters(), lr=1e-3, amsgrad=True),
        lambda: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        lambda: torch.optim.RMSprop(net.parameters(), centered=True),
    ):
        one, two = make(), make()
        for i in range(3):
            net(cases.normal(4, 2, seed=i)).sum().backward()
            one.step()
        Snapshot.of({"optimiser": one.state_dict()}).save(tmp_path / "o.safetensors")
        two.load_state_dict(Snapshot.load(tmp_path / "o.safetensors").tree["optimiser"])
        assert cases.same(two.state_dict(), one.state_dict())


def test_a_snapshot_and_its_copies_share_no_memory():
    live = {"a": [torch.zeros(3)], "b": (torch.zeros(2),)}
    kept = Snapshot.of(live)
    copied = kept.copy()
    live["a"][0] += 1
    copied["b"][0].add_(1)
    assert cases.same(kept.tree, {"a": [torch.zeros(3)], "b": (torch.zeros(2),)})


def test_tied_weights_can_be_saved(tmp_path):
    shared = torch.ones(3, requires_grad=True)
    Snapshot.of({"a": shared, "b": shared, "view": shared[:2]}).save(tmp_path / "s")
    tree = Snapshot.load(tmp_path / "s").tree
    assert cases.same(tree, {"a": torch.ones(3), "b": torch.ones(3), "view": torch.ones(2)})


def test_equal_trees_are_equal_files(tmp_path):
    """The header's entries come out of a hash map with a new order at each call, unless there is only one."""
    path = tmp_path / "run.safetensors"
    tree = {"z": torch.ones(2), "a": {i: torch.full((3,), float(i)) for i in range(20)}, "n": 1}
    contents = set()
    for _ in range(10):
        Snapshot.of(tree).save(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_what_has_no_place_in_a_snapshot_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"at 'a\.b\.0' there is a set"):
        Snapshot.of({"a": {"b": [{1, 2}]}}).save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_broken_finds_a_number_that_is_not_finite(bad, dtype):
    tree = {"fine": torch.ones(3, dtype=torch.int64), "optimiser": {"state": {4: [torch.ones(5, 2, dtype=dtype)]}}}
    assert Snapshot.of(tree).broken() == ""
    tree["optimiser"]["state"][4][0][3, 1] = bad
    assert Snapshot.of(tree).broken() == "optimiser.state.4.0"


def test_broken_is_not_misled_by_equal_places():
    for first, second in [(math.nan, 0.0), (0.0, math.nan)]:
        tree = {"a.b": torch.tensor([first]), "a": {"b": torch.tensor([second])}}
        assert Snapshot.of(tree).broken() != ""


# --- files that are not snapshots -------------------------------------------------------------------------------------


def whole(tmp_path):
    path = tmp_path / "whole.safetensors"
    Snapshot.of(TREE).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    content = whole(tmp_path)
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(
        UserError, match=r"cut\.safetensors: expected a whole snapshot \(\.safetensors\), it cannot be read"
    ):
        Snapshot.load(path)


def test_garbage_is_refused(tmp_path):
    path = tmp_path / "garbage"
    path.write_bytes(bytes(range(3, 256)) * 20)
    with pytest.raises(UserError, match="cannot be read"):
        Snapshot.load(path)


class Bomb:
    """Unpickling it is noticed."""

    exploded = False

    def __reduce__(self):
        return explode, ()


def explode():
    Bomb.exploded = True


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "torch", "torch-old"])
def test_a_pickle_is_recognised_and_never_loaded(tmp_path, protocol):
    path = tmp_path / "model.pt"
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    else:
        torch.save({"a": torch.ones(2), "b": Bomb()}, path, _use_new_zipfile_serialization=protocol == "torch")
    with pytest.raises(UserError, match="it looks like a pickle, which is never loaded"):
        Snapshot.load(path)
    assert not Bomb.exploded


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    save_file({"a": torch.ones(2)}, tmp_path / "bare.safetensors")
    for name in ("other", "bare"):
        with pytest.raises(UserError, match="a safetensors file, but not a snapshot"):
            Snapshot.load(tmp_path / f"{name}.safetensors")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        Snapshot.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="it is a folder"):
        Snapshot.load(tmp_path)


# --- disks that fail --------------------------------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "builtins.open", "os.replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "run.safetensors"
    Snapshot.of({"old": torch.ones(3)}).save(path)
    content = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(UserError, match=r"cannot write .*run\.safetensors: No space left on device"):
            Snapshot.of(TREE).save(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    assert cases.same(Snapshot.load(path).tree, {"old": torch.ones(3)})
    Snapshot.of(TREE).save(path)
    assert cases.same(Snapshot.load(path).tree, TREE)


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    Snapshot.of({"old": 1}).save(path)

    class KillError(BaseException):
        pass

    def killed(*_):
        raise KillError

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", killed)
        with pytest.raises(KillError):
            Snapshot.of(TREE).save(path)
    assert Snapshot.load(path).tree == {"old": 1}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write"):
        Snapshot.of({"a": 1}).save(tmp_path / "file" / "run.safetensors")
    with pytest.raises(UserError, match="cannot write"):
        write_whole(tmp_path / "file" / "deep" / "run", b"content")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_whole(tmp_path / "taken", b"content")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "taken"]
