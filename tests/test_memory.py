"""Freed memory is kept: loops over large tensors take no new pages."""

import os
import platform
import subprocess
import sys

import pytest
import torch

import cases
from energyscape import memory
from energyscape.errors import UserError
from energyscape.memory import keep_freed
from energyscape.objectives import ScoreMatching
from energyscape.samplers import Langevin, Steps
from energyscape.samplers.diffusion import Euler, solve
from energyscape.training import fit

# The C library's own functions, because what else is in the memory of a tensor's neighbours is a matter of luck.
LOOP = """
import ctypes, resource
from energyscape.memory import keep_freed
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


def train():
    model = cases.Quadratic(1.0)
    fit(model, ScoreMatching(), [torch.zeros(4, 2)], torch.optim.SGD(model.parameters(), lr=0.1), samples=4)


def descend():
    next(solve(Euler(lambda y, sigma: y, [1.0, 0.0]), torch.zeros(4, 2)))


def sample():
    Steps(Langevin(cases.Quadratic(1.0), step_size=0.1), steps=1)


@pytest.mark.parametrize("begin", [train, descend, sample])
def test_loops_ask_for_it_when_they_begin(begin):
    keep_freed.cache_clear()
    begin()
    assert keep_freed.cache_info().misses == 1


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
