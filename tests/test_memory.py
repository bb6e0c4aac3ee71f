"""Freed memory is kept: loops over large tensors take no new pages."""

import os
import platform
import subprocess
import sys

import pytest

LOOP = """
import resource, torch
from energyscape.memory import keep_freed
asked = keep_freed()
def loop():
    for _ in range(50):
        held = [torch.empty(4 << 20).fill_(1) for _ in range(3)]  # 16 MiB each
        del held
loop()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
loop()
print(asked, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(**environment):
    """Returns whether memory is kept, and how many pages a loop takes anew."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    told = subprocess.run(
        [sys.executable, "-c", LOOP], env={**ours, **environment}, check=True, capture_output=True, text=True
    ).stdout.split()
    return told[0] == "True", int(told[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for GNU's C library")
def test_loops_take_no_new_pages():
    kept, taken = pages()
    assert kept
    assert taken < 1_000
    kept, taken = pages(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept  # somebody has set it
    assert taken > 100_000  # 50 times three tensors of 4,096 pages
