"""A run: a directory that people and every command can read.

runs/digits-pcd/
├── recipe.toml             every setting, resolved
├── run.json                version, shape of the data
├── metrics.jsonl           one line every few steps
├── interventions.jsonl     one line for each step that a guard did not let pass
├── reference.safetensors   some training images, so that samples need no data set
├── checkpoints/*.safetensors
├── frames/*.npz            for a film of the training, where the recipe asks for one
└── report.html             and whatever else commands write
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

import torch
from safetensors.torch import save
from torch import Tensor

from energyscape import __version__
from energyscape.errors import UserError, did_you_mean
from energyscape.files import (
    PART,
    as_json,
    clear_orphans,
    foreign,
    from_json,
    lock,
    read_bytes,
    read_json,
    read_tensors,
    reading,
    write_whole,
)
from energyscape.memory import require_memory
from energyscape.recipe import Experiment, Recipe
from energyscape.recipe.recipe import parsed
from energyscape.training import Report, Snapshot, Verdict
from energyscape.training.snapshot import RollbackPoints, note

KEPT: Final = 3
"""Checkpoints that are kept: the newest ones."""

EXPECTED: Final = 'JSON such as {"shape": [1, 28, 28]}'
"""What run.json should hold at the least."""

INTERRUPTED: Final = ".interrupted"
"""Marks a checkpoint that Ctrl-C made."""

MOST_LINES: Final = 1 << 30
"""Bytes of the longest file of JSON lines that is read."""

ROOM: Final = 20
"""Bytes of memory for each byte of JSON, at most."""

NUMBERS: Final = (int, float, type(None))
NOTES: Final = {"verdict": "", "guard": "", "reason": "", "action": "", "outcome": "", "remedy": {}}
"""What is no number in the record, all of it in interventions, with what stands for it in older ones."""


@final
@dataclass(frozen=True)
class Run:
    """A run's directory."""

    path: Path

    @staticmethod
    def create(path: Path, experiment: Experiment) -> "Run":
        """Return the directory of a run, made where it does not exist; refuse one that holds something else."""
        run, recipe = Run(path), experiment.recipe
        experiment.check()  # mistakes are reported before anything is written
        if run.recipe_path.exists():
            changes = run.recipe().resolved().differences(recipe)
            if changes and run.checkpoints():
                raise UserError(
                    f"{path} holds a run with other settings ({'; '.join(changes[:3])}"
                    f"{' …' if len(changes) > 3 else ''}): choose another folder with --out, or delete it"
                )
            if not changes:
                return run
            with run.locked():  # nothing was learned, and no other process is learning
                run._write(experiment)
            return run
        # A run that was killed during its creation is created again.
        if path.is_dir() and any(
            each.name not in ("run.json", "reference.safetensors", ".lock") and not PART.fullmatch(each.name)
            for each in path.iterdir()
        ):
            raise UserError(f"{path} is not empty and holds no run: choose another folder with --out")
        run._write(experiment)
        return run

    def _write(self, experiment: Experiment) -> None:
        """Write the facts of the run."""
        facts = {"energyscape": __version__, "shape": experiment.space.shape, **experiment.source.facts()}
        write_whole(self.path / "run.json", as_json(facts | conditions(experiment)).encode())
        if experiment.space.is_image:
            write_whole(self.reference_path, save({"x": experiment.reference}))
        write_whole(self.recipe_path, experiment.recipe.text().encode())

    @staticmethod
    def open(path: Path) -> "Run":
        """Return an existing run, or raise a UserError that names its neighbours."""
        run = Run(path)
        if not run.recipe_path.is_file():
            folder = path.parent if path.parent.is_dir() else Path()
            others = [each.name for each in folder.iterdir() if (each / "recipe.toml").is_file()]
            known = f" There: {', '.join(sorted(others))}." if others else ""
            raise UserError(f"{path} is no run (it has no recipe.toml){did_you_mean(path.name, others)}{known}")
        return run

    @property
    def recipe_path(self) -> Path:
        """Path of the resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def reference_path(self) -> Path:
        """Path of the training images that the run keeps."""
        return self.path / "reference.safetensors"

    @property
    def metrics_path(self) -> Path:
        """Path of the metrics."""
        return self.path / "metrics.jsonl"

    @property
    def interventions_path(self) -> Path:
        """Path of the guards' interventions."""
        return self.path / "interventions.jsonl"

    @property
    def frames_path(self) -> Path:
        """Folder of the frames of a film of the training."""
        return self.path / "frames"

    def recipe(self) -> Recipe:
        """Return the recipe that the run was made from."""
        with reading(self.recipe_path, "a recipe"):
            return Recipe(self.path.name, parsed(read_bytes(self.recipe_path).decode(), str(self.recipe_path)))

    def shape(self) -> tuple[int, ...]:
        """Return the shape of one data point."""
        shape = self._facts().get("shape")
        if not isinstance(shape, list) or not shape or not all(type(each) is int and each > 0 for each in shape):
            raise UserError(f"{self.path / 'run.json'}: expected {EXPECTED}; its shape is {str(shape)[:100]}")
        return tuple(shape)

    def extent(self) -> tuple[float, float] | None:
        """Return the extent of the training images, where the run has recorded it."""
        match self._facts().get("extent"):
            case [float(low), float(high)]:
                return low, high
        return None

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes of the data, if the run has recorded them."""
        names = self._facts().get("classes")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def label(self, name: str | None) -> tuple[int | None, str]:
        """Return the number of a class, given its name or else its number, and how a message says so."""
        names = self.classes()
        if name is None:
            return None, ""
        if name in names:
            return names.index(name), f" of class {name!r} (number {names.index(name)})"
        try:
            number = int(name)
        except ValueError:
            there = f"; its classes are {', '.join(map(repr, names[:20]))}" if names else ""
            raise UserError(f"--label is the name or the number of a class; it was {name[:40]!r}{there}") from None
        return number, f" of class {names[number]!r} (number {number})" if 0 <= number < len(names) else ""

    def changed_conditions(self, experiment: Experiment) -> list[str]:
        """Return what has changed since the run began, so that its bits will differ; refuse another kind of device."""
        now = conditions(experiment)
        facts = {key: each if each == now.get(key) else str(each)[:40] for key, each in self._facts().items()}
        if facts.get("device", now["device"]) != now["device"]:
            raise UserError(
                f"{self.path} was begun on {facts['device']} and cannot go on with {now['device']}: "
                f"give --train.device {facts['device']} on a machine that has it, or begin again with --out"
            )
        return [f"{key} {facts[key]} → {now[key]}" for key in now if facts.get(key, now[key]) != now[key]]

    def _facts(self) -> dict[str, Any]:
        return read_json(self.path / "run.json", EXPECTED)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints' files, the oldest first."""
        digits, folder = "[0-9]" * 12, self.path / "checkpoints"
        return sorted(each for mark in ("", INTERRUPTED) for each in folder.glob(f"{digits}{mark}.safetensors"))

    def latest(self) -> Snapshot | None:
        """Return the newest checkpoint that is whole, or None before the first; raise a UserError if none is whole."""
        faults: list[str] = []
        for path in reversed(self.checkpoints()):
            try:
                snapshot = Snapshot.load(path)
                with foreign(str(path)):
                    if bad := snapshot.broken():
                        raise ValueError(f"{bad} holds numbers that are not finite")
            except UserError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                note(f"{fault}. It is passed over: {path.name} is used")
            return snapshot
        if faults:
            raise UserError(
                f"{faults[0]}. No other checkpoint is whole: put a copy in its place, or delete "
                f"{self.path / 'checkpoints'} and train again from the beginning"
            )
        return None

    def refuge(self, snapshot: Snapshot, *, beginning: Snapshot) -> RollbackPoints:
        """Return where rollbacks go from a checkpoint; the run's beginning has no file."""

        def kept(samples: int | None) -> Snapshot | None:
            if not samples:
                return None if samples is None else beginning
            try:
                return Snapshot.load(self._checkpoint(samples))
            except UserError:
                return None

        good, earlier, doubtful = snapshot.tree.get("refuge", (None, None, False))
        return RollbackPoints(kept(good) or snapshot, kept(earlier), doubtful)

    def _checkpoint(self, samples: int, mark: str = "") -> Path:
        return self.path / "checkpoints" / f"{samples:012d}{mark}.safetensors"

    def keep(self, snapshot: Snapshot, *, refuge: RollbackPoints, interrupted: bool = False) -> Path:
        """Write a checkpoint, regular or of an interruption, and remove those that are not needed any more."""
        earlier = None if refuge.earlier is None else refuge.earlier.samples
        path = self._checkpoint(snapshot.samples, INTERRUPTED if interrupted else "")
        kept = Snapshot({**snapshot.tree, "refuge": [refuge.good.samples, earlier, refuge.doubtful]})
        kept.save(path)
        self.prune(kept)
        return path

    def prune(self, newest: Snapshot) -> None:
        """Remove the oldest checkpoints before the newest, and those that rollbacks have given up."""
        _, earlier, _ = newest.tree.get("refuge", (None, None, False))
        files = [each for each in self.checkpoints() if int(each.name[:12]) <= newest.samples]
        regular = [each for each in files if INTERRUPTED not in each.name]
        if files[-1] in regular and earlier is not None:  # those between were given up
            regular = [each for each in regular if int(each.stem) <= earlier or each == files[-1]]
        for old in files[:-1]:
            # The last regular ones stay beside an interruption's: they are where a rollback goes.
            if old not in regular[-KEPT:]:
                with suppress(OSError):
                    old.unlink()

    def experiment(self, changes: Mapping[str, str] | None = None) -> Experiment:
        """Return the run's objects with what they have learned, and with changes of ``[sampler]`` as TOML text."""
        snapshot = self.latest()
        if snapshot is None:
            raise UserError(f"{self.path} has no checkpoint yet: train it first, with `energyscape train`")
        for key in changes or {}:
            if not key.startswith("sampler."):
                raise UserError(f"--{key}: what a run has learned is settled; settings of [sampler] can be changed")
        experiment = Experiment(self.recipe().overridden(changes or {}), shape=self.shape())
        experiment.load(snapshot)
        if self.reference_path.exists():
            experiment.reference = self._reference()
        return experiment

    def _reference(self) -> Tensor:
        expected = f"training images {self.shape()} under the name x; delete it"
        tensors, _ = read_tensors(self.reference_path, expected)
        x = tensors.get("x")
        if x is None or x.shape[1:] != self.shape() or len(x) == 0 or not x.is_floating_point():
            raise UserError(f"{self.reference_path}: expected {expected}")
        return x

    def metrics(self) -> dict[str, list[float]]:
        """Return the metrics as columns."""
        columns: dict[str, list[float]] = {}
        for row in read_lines(self.metrics_path):
            for name, value in row.items():
                columns.setdefault(name, []).append(float("nan") if value is None else value)
        return columns

    def interventions(self) -> list[dict[str, Any]]:
        """Return the interventions of the guards."""
        return [{**NOTES, **row} for row in read_lines(self.interventions_path)]

    def stopped(self) -> str:
        """Return why a guard stopped the training and how to go on; nothing of a run that was not stopped."""
        last = (self.interventions() or [{"samples": 0, **NOTES}])[-1]
        gone_on = any(each.name[:12] > f"{last['samples']:012d}" for each in self.checkpoints())
        if last["verdict"] != Verdict.STOP.name or gone_on:
            return ""
        match last, self.recipe().tables:
            case {"remedy": {"rate": float(factor)}}, {"train": {"learning_rate": (int() | float()) as rate}}:
                change = f" --train.learning_rate {factor * rate:.1g}"
            case _:
                change = ""
        return (
            f"{self.path}: a guard stopped the training at sample {last['samples']:,}: {last['reason']}. "
            f"To go on: energyscape train {self.recipe_path}{change} --out {self.path}-again"
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the directory, inside the block."""
        with open_to_append(self.path / ".lock") as file:
            if not lock(file.fileno()):
                raise UserError(f"{self.path}: another process is training there: wait for it or choose --out")
            clear_orphans(self.path)
            yield


def conditions(experiment: Experiment) -> dict[str, Any]:
    """Return the facts that a run's bits depend on besides its recipe."""
    device = experiment.training.torch_device.type
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}


@final
class Journal(AbstractContextManager["Journal"]):
    """Append reports to a run's metrics and interventions.

    Nothing in a line depends on the time of day or the machine's speed, so a killed and resumed run has the same files
    as an uninterrupted one. Lines of steps that will be taken again are cut off.
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
        """Append a report where it is due."""
        if report.step % self.every == 0:
            clock: dict[Any, Any] = {"step": report.step, "samples": report.samples}
            _append(self._metrics, clock | report.columns())
        if report.verdict != Verdict.GO:
            what = {"step": report.step, "samples": report.samples, "verdict": report.verdict.name}
            why = {"guard": report.guard, "reason": report.reason, "action": report.action, "outcome": report.outcome}
            _append(self._interventions, {**what, **why, "remedy": report.after.since(report.adjustment)})

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        self._interventions.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, without a last line that was cut off; no file is an empty one."""
    if not path.exists():
        return []
    with reading(path, "lines of JSON"):
        require_memory(ROOM * path.stat().st_size, f"reading {path}")
        lines = read_bytes(path, limit=MOST_LINES).splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            with foreign(f"{path}, line {number}: expected a JSON object with the samples seen, mend it"):
                row = from_json(line)
                remedies = row.get("remedy", {}).values()
                kinds = [(each, type(NOTES[name]) if name in NOTES else NUMBERS) for name, each in row.items()]
                if type(row["samples"]) is not int or not all(
                    isinstance(*each) for each in [*kinds, *((each, NUMBERS) for each in remedies)]
                ):
                    raise TypeError("a value is of another kind")
        except UserError:
            if number == len(lines):
                break
            raise
        rows.append(row)
    return rows


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file to append to, unbuffered, or raise a UserError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for its reader
            raise OSError(errno.EINVAL, "it is no regular file")
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
    return (as_json(row) + "\n").encode()
