"""A run: a directory that people and every command can read.

runs/digits-pcd/
├── recipe.toml             every setting, resolved
├── run.json                version, shape of the data
├── metrics.jsonl           one line every few steps
├── interventions.jsonl     one line for each step that a guard did not let pass
├── checkpoints/*.safetensors
├── frames/*.npz            for a film of the training, where the recipe asks for one
└── report.html             and whatever else commands write
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

import torch

from energyscape import __version__
from energyscape.errors import UserError, nearest
from energyscape.experiment.assembly import Experiment
from energyscape.experiment.recipe import Recipe, parsed
from energyscape.files import write_whole
from energyscape.training import Report, Snapshot, Verdict
from energyscape.training.snapshot import Refuge

KEPT: Final = 3
"""Checkpoints that are kept: the newest ones."""

EXPECTED: Final = 'expected JSON such as {"shape": [1, 28, 28]}: mend it'
"""What run.json should hold at the least."""

INTERRUPTED: Final = ".interrupted"
"""Marks a checkpoint that Ctrl-C made."""


@final
@dataclass(frozen=True)
class Run:
    """A run's directory.

    Args:
        path: The directory.
    """

    path: Path

    @staticmethod
    def create(path: Path, experiment: Experiment) -> "Run":
        """Returns the directory of a run, made where it does not exist.

        Args:
            path: The directory.
            experiment: What is to be trained there.

        Raises:
            UserError: If settings do not go together, or the directory holds another run or cannot be written.
        """
        run, recipe, shape = Run(path), experiment.recipe, experiment.shape
        experiment.check()  # a mistake is told before anything is written
        if run.recipe_path.exists():
            if changes := run.recipe().resolved().differences(recipe):
                raise UserError(
                    f"{path} holds a run with other settings ({'; '.join(changes[:3])}"
                    f"{' …' if len(changes) > 3 else ''}): choose another folder with --out, or delete it"
                )
            return run
        # A run that was killed while it was being made is made anew.
        if path.is_dir() and any(each.name not in ("run.json", ".lock") and not part(each) for each in path.iterdir()):
            raise UserError(f"{path} is not empty and holds no run: choose another folder with --out")
        facts = {"energyscape": __version__, "shape": shape, **conditions(experiment)}
        write_whole(run.path / "run.json", json.dumps(facts).encode())
        write_whole(run.recipe_path, recipe.text().encode())
        return run

    @staticmethod
    def open(path: Path) -> "Run":
        """Returns an existing run.

        Args:
            path: Its directory.

        Raises:
            UserError: If there is no run.
        """
        run = Run(path)
        if not run.recipe_path.is_file():
            folder = path.parent if path.parent.is_dir() else Path()
            others = [each.name for each in folder.iterdir() if (each / "recipe.toml").is_file()]
            known = f" There: {', '.join(sorted(others))}." if others else ""
            raise UserError(f"{path} is no run (it has no recipe.toml){nearest(path.name, others)}{known}")
        return run

    @property
    def recipe_path(self) -> Path:
        """Where the resolved recipe is."""
        return self.path / "recipe.toml"

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are."""
        return self.path / "metrics.jsonl"

    @property
    def interventions_path(self) -> Path:
        """Where the guards' interventions are."""
        return self.path / "interventions.jsonl"

    @property
    def frames_path(self) -> Path:
        """Where the frames of a film of the training are."""
        return self.path / "frames"

    def recipe(self) -> Recipe:
        """Returns the recipe that the run was made from."""
        try:
            text = self.recipe_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.recipe_path}: {error}") from None
        return Recipe(self.path.name, parsed(text, str(self.recipe_path)))

    def shape(self) -> tuple[int, ...]:
        """Returns the shape of one data point."""
        try:
            shape = tuple(int(size) for size in self._facts()["shape"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            shape = ()
        if not shape or min(shape) < 1:
            raise UserError(f"{self.path / 'run.json'}: {EXPECTED}")
        return shape

    def changed_conditions(self, experiment: Experiment) -> list[str]:
        """Returns what is not as it was when the run began, so that the same bits cannot be promised.

        Args:
            experiment: That is to go on.

        Raises:
            UserError: If the run cannot go on at all, because its random streams are another kind of device's.
        """
        facts, now = self._facts(), conditions(experiment)
        if facts.get("device", now["device"]) != now["device"]:
            raise UserError(
                f"{self.path} was begun on {facts['device']} and cannot go on with {now['device']}: "
                f"give --train.device {facts['device']} on a machine that has it, or begin anew with --out"
            )
        return [f"{key} {facts[key]} → {now[key]}" for key in now if facts.get(key, now[key]) != now[key]]

    def _facts(self) -> dict[str, Any]:
        path = self.path / "run.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            facts = None
        if not isinstance(facts, dict):
            raise UserError(f"cannot read {path}: {EXPECTED}")
        return facts

    def checkpoints(self) -> list[Path]:
        """Returns the checkpoints' files, the oldest first."""
        return sorted((self.path / "checkpoints").glob("[0-9]*.safetensors"))

    def latest(self) -> Snapshot | None:
        """Returns the newest checkpoint, or none."""
        files = self.checkpoints()
        return Snapshot.load(files[-1]) if files else None

    def refuge(self, snapshot: Snapshot, *, beginning: Snapshot) -> Refuge:
        """Returns where rollbacks go from a checkpoint.

        Args:
            snapshot: The checkpoint.
            beginning: What the run began with, of which there is no file.
        """

        def kept(samples: int) -> Snapshot | None:
            path = self._checkpoint(samples)
            return beginning if samples == 0 else Snapshot.load(path) if path.is_file() else None

        good, earlier, doubtful = snapshot.tree.get("refuge", (None, None, False))
        return Refuge(
            (None if good is None else kept(good)) or snapshot, None if earlier is None else kept(earlier), doubtful
        )

    def _checkpoint(self, samples: int, mark: str = "") -> Path:
        return self.path / "checkpoints" / f"{samples:012d}{mark}.safetensors"

    def keep(self, snapshot: Snapshot, *, refuge: Refuge, interrupted: bool = False) -> Path:
        """Writes a checkpoint, and removes the oldest ones and those that rollbacks have given up.

        Args:
            snapshot: Of the run; every number in it is finite.
            refuge: Where rollbacks go from there.
            interrupted: Whether somebody stopped the run here, between two regular checkpoints.
        """
        earlier = None if refuge.earlier is None else refuge.earlier.samples
        path = self._checkpoint(snapshot.samples, INTERRUPTED if interrupted else "")
        Snapshot({**snapshot.tree, "refuge": [refuge.good.samples, earlier, refuge.doubtful]}).save(path)
        regular = [each for each in self.checkpoints() if INTERRUPTED not in each.name]
        if not interrupted and earlier is not None:  # those between were given up
            regular = [each for each in regular if int(each.stem) <= earlier or each == path]
        for old in self.checkpoints():
            # The last regular ones stay beside an interruption's: they are where a rollback goes.
            if old not in regular[-KEPT:] and old != path:
                old.unlink(missing_ok=True)
        return path

    def experiment(self, changes: Mapping[str, str] | None = None) -> Experiment:
        """Returns the run's objects with what was learned so far, to use them.

        Args:
            changes: Settings of ``[sampler]`` that replace the recipe's, ``sampler.setting`` to TOML text.

        Raises:
            UserError: If nothing has been learned yet, or a change is of what was learned.
        """
        snapshot = self.latest()
        if snapshot is None:
            raise UserError(f"{self.path} has no checkpoint yet: train it first, with `energyscape train`")
        for key in changes or {}:
            if not key.startswith("sampler."):
                raise UserError(f"--{key}: what a run has learned is settled; settings of [sampler] can be changed")
        experiment = Experiment(self.recipe().overridden(changes or {}), shape=self.shape())
        experiment.load(snapshot)
        return experiment

    def metrics(self) -> dict[str, list[float]]:
        """Returns the metrics as columns."""
        columns: dict[str, list[float]] = {}
        for row in read_lines(self.metrics_path):
            for name, value in row.items():
                columns.setdefault(name, []).append(float("nan") if value is None else value)
        return columns

    def interventions(self) -> list[dict[str, Any]]:
        """Returns what the guards did."""
        return read_lines(self.interventions_path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the directory, inside the block.

        Raises:
            UserError: If another process does.
        """
        with open_to_append(self.path / ".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"{self.path}: another process is training there: wait for it or choose --out"
                ) from None
            for each in self.path.rglob(".*.part"):  # what a killed process was writing
                each.unlink(missing_ok=True)
            yield


def conditions(experiment: Experiment) -> dict[str, Any]:
    """Returns what a run's bits depend on besides its recipe.

    Args:
        experiment: Of the run.
    """
    device = experiment.training.torch_device.type
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}


@final
class Journal(AbstractContextManager["Journal"]):
    """Appends reports to a run's metrics and interventions.

    Nothing in a line depends on the time of day or the machine's speed, so that a run that was killed and resumed has
    the same files as one that was not.

    Args:
        run: Whose.
        every: Steps between two lines of the metrics.
        samples: Where the run stands; lines of later steps are cut off, because those steps will be taken again.
    """

    def __init__(self, run: Run, *, every: int, samples: int) -> None:
        self.every = every
        for path in (run.metrics_path, run.interventions_path):
            if path.exists():
                kept = [row for row in read_lines(path) if row["samples"] <= samples]
                write_whole(path, b"".join(_line(row) for row in kept))
        self._metrics = open_to_append(run.metrics_path)
        self._interventions = open_to_append(run.interventions_path)

    def write(self, report: Report) -> None:
        """Appends a report where it is due.

        Args:
            report: Of one step.
        """
        if report.step % self.every == 0:
            numbers = {
                "step": report.step,
                "samples": report.samples,
                "loss": report.loss,
                "grad_norm": report.grad_norm,
            }
            _append(self._metrics, {**numbers, **report.facts})
        if report.verdict != Verdict.GO:
            what = {"step": report.step, "samples": report.samples, "verdict": report.verdict.name}
            why = {"guard": report.guard, "reason": report.reason, "action": report.action, "outcome": report.outcome}
            _append(self._interventions, {**what, **why, "remedy": report.after.since(report.treatment)})

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        self._interventions.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines, without a last line that was cut off.

    Args:
        path: The file; none is an empty one.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["samples"], int):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: expected a JSON object with the samples seen: mend it") from None
        rows.append(row)
    return rows


def part(path: Path) -> bool:
    """Whether a file is one that a killed process was writing.

    Args:
        path: The file.
    """
    return path.name.startswith(".") and path.name.endswith(".part")


def open_to_append(path: Path) -> IO[bytes]:
    """Opens a file to append to, unbuffered.

    Args:
        path: The file.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        return open(path, "ab", buffering=0)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}: choose a folder that can be written, with --out"
        ) from None


def _append(file: IO[bytes], row: dict[str, Any]) -> None:
    try:
        line = _line(row)
        while line:
            line = line[os.write(file.fileno(), line) :]
    except OSError as error:
        raise UserError(
            f"cannot write {file.name}: {error.strerror}. What was written before is intact; make room, "
            "then run the same command again"
        ) from None


def _line(row: dict[str, Any]) -> bytes:
    """JSON has no NaN: what is not finite is null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return (json.dumps(clean) + "\n").encode()
