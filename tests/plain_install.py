"""Run every command on a small run, with nothing installed but the wheel and its dependencies.

`make test-install` builds the wheel, installs it into an environment of its own and runs this script there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PROGRAM = str(Path(sys.executable).with_name("energyscape"))
COMMANDS = [
    ("list recipes", "digits-pcd"),
    ("train digits-pcd --train.budget 20k --objective.start.capacity 256 --out run", "finished"),
    ("train digits-pcd --train.budget 20k --objective.start.capacity 256 --out run", "is finished"),
    ("sample run --n 16 --steps 20 --out samples.png", "16 samples"),
    ("denoise run noisy.npy --sigma 0.4 --steps 20 --out restored.npy", "4 restored"),
    ("inpaint run image.npy --mask mask.npy --n 2 --out completed.npy", "missing"),
    ("score run clean.npy --out scores.csv", "scores.csv"),
    ("evaluate run --n 50 --steps 20 --json", "recognised"),
    ("evaluate run --n 50 --steps 20", "recognised"),
    ("report run", "report.html"),
    ("export run --to folder", "folder"),
    ("train digits-ncsn --train.budget 2k --out scores", "finished"),
    ("sample scores --n 4 --out scores.npy", "4 samples"),
    ("train 8gaussians-sm --train.budget 5k --train.frames 2 --out plane", "finished"),
    ("report plane", "report.html"),
    ("animate plane --out film.gif", "film.gif"),
    ("compare 8gaussians --objectives sm --seeds 1 --budget 1cpu-s --out table", ""),
]
"""What is typed, and a word of the answer."""

ANSWERS = {"doctor run": (0, 1, 2), "export run --to model.onnx": (2,)}
"""Commands that may find something wrong, or need an extra: their exit statuses."""


def run(line: str, statuses: tuple[int, ...] = (0,), word: str = "") -> None:
    """Run one command; complain about a wrong status, a traceback or a warning."""
    done = subprocess.run([PROGRAM, *line.split()], capture_output=True, text=True, timeout=600, check=False)
    bad = any(each in done.stderr for each in ("Traceback", "Warning", "Error:"))
    if done.returncode not in statuses or bad or word not in done.stdout:
        sys.exit(f"energyscape {line}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(f"ok: energyscape {line}", flush=True)


def main() -> None:
    """Run all of them in an empty folder."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rng = np.random.default_rng(0)
        np.save("image.npy", rng.uniform(-1, 1, (1, 8, 8)).astype(np.float32))
        np.save("clean.npy", rng.uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32))
        np.save("noisy.npy", rng.normal(0, 0.5, (4, 1, 8, 8)).clip(-1, 1).astype(np.float32))
        np.save("mask.npy", np.repeat([False, True], 32).reshape(8, 8))
        for line, word in COMMANDS:
            run(line, word=word)
        for line, statuses in ANSWERS.items():
            run(line, statuses)
    print(f"{len(COMMANDS) + len(ANSWERS)} passed, 0 failed")


if __name__ == "__main__":
    main()
