"""Training in a run's directory: resumes, journals, keeps checkpoints."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self, final

from energyscape.files import foreign
from energyscape.recipe import Experiment
from energyscape.runs.frames import Frames
from energyscape.runs.run import Journal, Run
from energyscape.runs.tensorboard import Board
from energyscape.training import Fit, Report


@final
class Session(Iterator[Report], AbstractContextManager["Session"]):
    """A training run that goes on where its directory's newest checkpoint is.

    Use it in a ``with`` statement and iterate over it to train; stop iterating and call `keep` to stop early without
    losing a step. No other process can train in the directory meanwhile.
    """

    def __init__(self, run: Run, experiment: Experiment) -> None:
        self.run, self.experiment = run, experiment

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self.run.locked())
            self.fit = self._begun()
            self._kept = self.fit.good
            self.frames = Frames(self.run.frames_path, self.experiment, progress=self.fit.progress)
            every = self.experiment.training.log_every
            self.journal = opening.enter_context(Journal(self.run, every=every, samples=self.fit.samples))
            wanted = self.run.path / "tensorboard" if self.experiment.training.tensorboard else None
            self.board = opening.enter_context(Board(wanted, every=every, samples=self.fit.samples))
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _begun(self) -> Fit[Any]:
        fit = self.experiment.fit()
        snapshot = self.run.latest()
        self.resumed = snapshot is not None
        if snapshot is not None:
            self.run.changed_conditions(self.experiment)  # refuses a device whose random streams are others
            with foreign(f"{self.run.path}: its newest checkpoint does not fit its recipe"):
                snapshot.check(fit.good)
                self.experiment.load(snapshot)
                self.experiment.model.train()
                # Rollbacks go where they would have gone without the interruption.
                fit.restore(snapshot, refuge=self.run.refuge(snapshot, beginning=fit.good))
                for parameter, moments in fit.optimiser.state.items():
                    shapes = {name: each.shape for name, each in moments.items()}
                    if shapes != {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
                        raise ValueError(f"Adam has no moments of shapes {shapes}")
                self.run.prune(snapshot)
        return fit

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Report:
        report = next(self.fit)
        self.journal.write(report)
        self.board.write(report)
        self.frames.follow(self.fit)
        if self.fit.good.samples > self._kept.samples:
            self._kept = self.fit.good
            self.run.keep(self._kept, refuge=self.fit.refuge)
        return report

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.fit.progress >= 1

    def keep(self) -> bool:
        """Write a checkpoint of where the run is now."""
        snapshot = self.fit.snapshot()
        if snapshot.broken():
            return False
        self.run.keep(snapshot, refuge=self.fit.refuge, interrupted=True)
        return True
