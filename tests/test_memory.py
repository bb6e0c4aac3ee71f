"""Requests beyond the memory are refused; the command line keeps freed memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from energyscape import memory
from energyscape.cli import main
from energyscape.errors import UserError

# The C library's own functions, because what else is in the memory of a tensor's neighbours is a matter of luck.
LOOP = """
import ctypes, resource
from energyscape.cli.allocator import keep_freed
libc, size = ctypes.CDLL(None), 8 << 20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
asked = keep_freed()
def loop():
    for _ in range(5):
        held = [libc.malloc(size) for _ in range(16)]
        for each in held:
            libc.memset(each, 1, size)
        for each in held:
            libc.free(each)
loop()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
loop()
print(asked, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(**environment):
    """Return whether memory is kept, and the number of pages that a loop takes again."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    process = subprocess.run(
        [sys.executable, "-c", LOOP], env={**ours, **environment}, check=True, capture_output=True, text=True
    ).stdout.split()
    return process[0] == "True", int(process[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for GNU's C library")
@pytest.mark.parametrize("environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_loops_take_no_new_pages(environment):
    kept, taken = pages()
    assert kept
    assert taken < 1_000
    kept, taken = pages(**environment)
    assert not kept  # the environment sets how memory is kept
    assert taken > 100_000  # 5 times 16 times 2,048 pages


def test_only_the_command_line_changes_its_process(monkeypatch):
    asked = []
    monkeypatch.setattr("energyscape.cli.keep_freed", lambda: asked.append(1))
    with pytest.raises(SystemExit):
        main(["--version"])
    assert asked == [1]
    sources = Path(memory.__file__).parent
    callers = [path.parent.name for path in sources.rglob("*.py") if "keep_freed(" in path.read_text(encoding="utf-8")]
    assert set(callers) == {"cli"}


def test_a_request_beyond_the_memory_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000_000_000)
    memory.require_memory(7.9e9, "--n 5")
    with pytest.raises(UserError, match=r"--n 5 needs about 8\.1 GB; 10\.0 GB of memory are available"):
        memory.require_memory(8.1e9, "--n 5")


def test_without_a_number_from_the_system_every_request_passes(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require_memory(1e30, "--n 5")


@pytest.mark.skipif(platform.system() != "Linux", reason="read from /proc")
def test_the_available_memory_is_no_more_than_the_machine_has():
    assert 0 < memory.available() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
