"""The training loop, an iterator of reports.

Progress bars, logging, pictures and early stopping are its consumers; there are no callbacks. Its clock counts samples,
so a change of batch size does not change the recipe.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Self, cast, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from energyscape.data.batches import Batches
from energyscape.errors import UserError
from energyscape.objectives.base import Adjustment, Loss, Model, Objective
from energyscape.rng import Streams, global_seed, seed_for
from energyscape.samplers.compiled import Compile
from energyscape.training.guards import GO, NOTHING, SLOWER, Guard, Judgement, Remedies, Report, Verdict, usual
from energyscape.training.snapshot import RollbackPoints, Snapshot

Schedule = Callable[[float, int], float]
"""Maps progress in [0, 1] and samples learned from to a factor on the learning rate; a rollback takes samples back."""


@final
class Fit(Iterator[Report], Generic[Model]):
    """Trains a model; each step is one item of the iterator, and without a budget it never ends.

    `snapshot` and `restore` save and resume a run; `progress` is the used share of the budget.

    Args:
        model: The model, trained in place.
        objective: The loss to minimise.
        data: Yields tensors ``(B, *)`` or pairs with labels. Only `Batches` resume exactly.
        optimiser: Over the parameters of the model, and of the objective where it has any.
        samples: Number of data points to train on.
        seconds: Seconds to train for.
        clock: Returns the time in seconds; ``time.process_time`` counts processor time instead of wall time.
        schedule: Factor on the optimiser's learning rates, of progress and samples seen.
        clip: Largest norm of the parameters' gradient.
        average: Moving average of the weights; see `averaged`.
        guards: Check every step; `guards.usual` by default, none if empty.
        snapshot_every: Samples between snapshots to roll back to.
        rollbacks: Rollbacks without a new snapshot between them after which the run stops.
        seed: Seed of the objective's random streams.
        autocast: The dtype of products and convolutions; that of the weights by default.
        compile: Whether to compile the model, which the objective may then differentiate once only. ``"auto"``
            compiles if two minutes of steps are left at the machine's speed.

    Examples:
        >>> from energyscape import MLP, DenoisingScoreMatching, EightGaussians, NeuralEnergy, batches
        >>> energy = NeuralEnergy(MLP(2, width=8))
        >>> adam = torch.optim.Adam(energy.parameters())
        >>> objective, data = DenoisingScoreMatching(sigma=0.3), batches(EightGaussians(), 64)
        >>> reports = list(fit(energy, objective, data, adam, samples=640))
        >>> reports[-1].step, reports[-1].samples
        (10, 640)
    """

    def __init__(
        self,
        model: Model,
        objective: Objective[Model],
        data: Iterable[Any],
        optimiser: Optimizer,
        *,
        samples: int | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        schedule: Schedule | None = None,
        clip: float | None = None,
        average: AveragedModel | None = None,
        guards: Sequence[Guard] | None = None,
        snapshot_every: int = 50_000,
        rollbacks: int = 5,
        seed: int = 0,
        autocast: torch.dtype | None = None,
        compile: Compile = False,
    ) -> None:
        objective.check(model)
        self.model, self.objective, self.data, self.optimiser = model, objective, data, optimiser
        self.budget_samples, self.budget_seconds, self.clock = samples, seconds, clock
        self.schedule, self.clip, self.average = schedule, clip, average
        self.guards: Sequence[Guard] = usual() if guards is None else guards
        self.snapshot_every, self.rollbacks, self.autocast = snapshot_every, rollbacks, autocast
        self.compile, self._called, self._pace = compile, model, list[tuple[float, float]]()
        device = next((each.device for each in model.parameters()), torch.device("cpu"))
        self.streams = Streams(seed, device=device)
        self.step = self.samples = self.age = self.rolled_back = self.spoiled = 0
        self.seconds, self.stopped, self._due = 0.0, False, False
        self._latest: tuple[Report, Tensor] | None = None
        self.adjustment = NOTHING
        """Changes by guards so far, on top of the settings."""
        self.remedies = Remedies()
        """Remedies that rollbacks to the good snapshot have tried."""
        # A reused optimiser keeps its initial rates, as with torch's own schedulers.
        self._rates = [group.setdefault("initial_lr", group["lr"]) for group in optimiser.param_groups]
        self._batches = iter(data)
        learned = {*model.parameters(), *objective.parameters()}
        if not any(
            each.requires_grad and each in learned for group in optimiser.param_groups for each in group["params"]
        ):
            raise UserError(
                "the optimiser holds no parameter of this model that has a gradient: make it from model.parameters(), "
                "and let some of them require gradients"
            )
        model.train()
        self.refuge = RollbackPoints(self.snapshot())
        """Snapshots to roll back to."""
        if broken := self.good.broken():
            raise UserError(
                f"training begins with numbers that are not finite, in {broken}: initialise the weights again"
            )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Report:
        if self.stopped or self.progress >= 1:
            raise StopIteration
        begun = self.clock()
        try:
            x, label = _unpacked(self._drawn())
        except StopIteration:
            if self._latest is not None:
                self._keep(*self._latest)
            if self.budget_samples is None and self.budget_seconds is None and self._latest is not None:
                raise
            raise UserError(
                f"the data ended after {self.samples:,} samples, too early: give a budget that they fill, or data "
                "that iter() begins again, such as a list, a DataLoader or es.batches"
            ) from None
        self._set_rate()
        self.objective.progress = self.progress
        loss, grad_norm = self._fast_gradient(x, label) if self._latest else self._first_gradient(x, label)
        self.step += 1
        self.samples += len(x)
        before = self.age
        report = self._acted(self._report(loss, grad_norm), x)
        self.seconds += self.clock() - begun
        self._due |= self.age // self.snapshot_every > before // self.snapshot_every
        if report.verdict != Verdict.STOP and (self.progress >= 1 or (self._due and self.calm)):
            kept = self._keep(report, x)
            report = kept if kept.verdict > report.verdict else report
        if report.verdict == Verdict.STOP:
            self.stopped, end = True, self.snapshot()
            self.refuge = self.refuge if end.broken() else self.refuge.kept(end)
        self._latest = report, x
        return report

    def _drawn(self) -> Any:
        """Return the next batch; restart data that can begin again if the budget is not used up."""
        batch = next(self._batches, None)
        if batch is None and (self.budget_samples is not None or self.budget_seconds is not None):
            batch = next(iterator := iter(self.data), None)
            self._batches = iterator
        if batch is None:
            raise StopIteration
        return batch

    def _first_gradient(self, x: Tensor, label: Tensor | None) -> tuple[Loss, Tensor]:
        """Return the result of `_fast_gradient`; raise a clear error if the batch does not suit the model."""
        if not torch.is_grad_enabled():
            raise UserError("training needs gradients: call it outside torch.no_grad() and torch.inference_mode()")
        weights = next((each.dtype for each in self.model.parameters() if each.ndim), torch.get_default_dtype())
        came = f"it was {tuple(x.shape)} of {x.dtype}"
        if not x.is_floating_point():
            raise UserError(f"data are floating point, as the weights, {weights}; {came}: convert the batches")
        if not x.isfinite().any():
            raise UserError(f"data are finite numbers; the first batch, {tuple(x.shape)}, holds none: clean the data")
        try:
            return self._fast_gradient(x, label)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error):
                raise
            wanted = f"a batch is (B, *), points of the model's shape, in the dtype of its weights, {weights}; {came}"
            first = str(error).splitlines()[0]
            raise UserError(f"{wanted}: reshape or convert it. The model raised: {first}") from error

    def _acted(self, report: Report, x: Tensor) -> Report:
        """Show a step to the guards, act on their verdict, and return the report."""
        if spoiled := self._spoiled(report, x):
            name, judgement = "SpoiledData", spoiled
        else:
            looked = ((type(guard).__name__, guard.look(report)) for guard in self.guards)
            name, judgement = max(looked, key=lambda each: each[1].verdict, default=("", GO))
        report = report._replace(guard=name if judgement.verdict else "")
        if judgement.verdict == Verdict.ROLLBACK:
            return self._rolled_back(report, judgement, x)
        if judgement.verdict <= Verdict.REMEDY:
            self.optimiser.step()
            self.age += len(x)
            if self.average is not None:
                self.average.update_parameters(self.model)
        if judgement.verdict == Verdict.REMEDY:
            report = self._adjusted(report, self.adjustment.then(judgement.adjustment), judgement, x)
        return report._replace(verdict=judgement.verdict, reason=judgement.reason)

    def _spoiled(self, report: Report, x: Tensor) -> Judgement | None:
        """Return the action for a batch with non-finite data: skip it, the model is not to blame."""
        if not self.guards or math.isfinite(report.loss):
            return None
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        if not bad:
            return None
        self.spoiled += 1
        reason = f"{bad} of the batch's {len(x)} data points are not finite: clean the data"
        if self.spoiled <= MOST_SPOILED or self.spoiled < report.step / 2:
            return Judgement(Verdict.SKIP, reason)
        return Judgement(Verdict.STOP, f"{reason}; {self.spoiled} of {report.step} steps had such points")

    @property
    def good(self) -> Snapshot:
        """The last snapshot to roll back to: every number is finite, and all guards were calm."""
        return self.refuge.good

    @property
    def calm(self) -> bool:
        """Whether every guard accepts the present state as a rollback point."""
        return all(guard.calm for guard in self.guards)

    @property
    def progress(self) -> float:
        """The used share of the budget, in [0, 1]; always 0 without a budget."""
        used = [0.0]
        if self.budget_samples is not None:
            used.append(self.samples / self.budget_samples if self.budget_samples else 1.0)
        if self.budget_seconds is not None:
            used.append(self.seconds / self.budget_seconds if self.budget_seconds else 1.0)
        return min(1.0, max(used))

    def snapshot(self) -> Snapshot:
        """Return the complete state of the run."""
        return Snapshot.of(
            {
                "clock": {
                    "step": self.step,
                    "samples": self.samples,
                    "age": self.age,
                    "position": self.data.position if isinstance(self.data, Batches) else None,
                    "treatment": self.adjustment._asdict(),
                    "tried": [each._asdict() for each in self.remedies.tried],
                    "rolled_back": self.rolled_back,
                    "spoiled": self.spoiled,
                    "due": self._due,
                    # Wall-clock time is stored only for a budget of time, so that equal runs have equal files.
                    "seconds": self.seconds if self.budget_seconds is not None else 0.0,
                },
                "model": dict(self.model.state_dict()),
                "average": None if self.average is None else dict(self.average.state_dict()),
                "objective": dict(self.objective.state_dict()),
                "optimiser": self.optimiser.state_dict(),
                "guards": [guard.state() for guard in self.guards],
                "streams": self.streams.state(),
            }
        )

    def restore(self, snapshot: Snapshot, *, refuge: RollbackPoints | None = None) -> None:
        """Go back to a snapshot; the run continues with the same bits as if it had never stopped.

        Args:
            snapshot: The result of `snapshot`, or one read from a file.
            refuge: Rollback points, if not the snapshot itself.
        """
        tree = snapshot.copy()
        clock = tree["clock"]
        self.step, self.samples = clock["step"], clock["samples"]
        self.rolled_back, self.spoiled, self.seconds = clock["rolled_back"], clock.get("spoiled", 0), clock["seconds"]
        self._due, self.stopped = clock["due"], False
        self.adjustment = Adjustment.of(clock.get("treatment", {}))
        self.objective.adjust(self.adjustment)
        self.remedies = Remedies(tuple(map(Adjustment.of, clock.get("tried", ()))))
        self.streams.restore(tree["streams"])
        self._restore_learned(tree)
        self.refuge = refuge or RollbackPoints(snapshot)
        if isinstance(self.data, Batches):
            self.data.seek(clock["position"])

    def _restore_learned(self, tree: dict[str, Any]) -> None:
        self.age = tree["clock"].get("age", tree["clock"]["samples"])
        self.model.load_state_dict(tree["model"])
        if self.average is not None:
            self.average.load_state_dict(tree["average"])
        self.objective.load_state_dict(tree["objective"])
        self.optimiser.load_state_dict(tree["optimiser"])
        _lay_out(self.optimiser)
        try:
            for guard, state in zip(self.guards, tree["guards"], strict=True):
                guard.restore(state)
        except (KeyError, ValueError, TypeError):
            raise UserError(
                "the checkpoint's guards are not those of this version: begin again, in another folder"
            ) from None

    def _set_rate(self) -> None:
        factor = self.adjustment.rate * (1.0 if self.schedule is None else self.schedule(self.progress, self.age))
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _fast_gradient(self, x: Tensor, label: Tensor | None) -> tuple[Loss, Tensor]:
        """Return the result of `_gradient`; compile the model first if that pays."""
        if not (self.compile is True or (self.compile == "auto" and self._worth_compiling())):
            return self._gradient(x, label)
        self.compile = False
        if x.is_cuda and x.ndim == 4:  # compiled norms keep the layout of GPU convolutions
            for each in (self.model, *(() if self.average is None else (self.average,))):
                each.to(memory_format=torch.channels_last)
            _lay_out(self.optimiser)
        streams = self.streams.state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a user cannot act on the compiler's own
                from energyscape.samplers.compiled.passes import (
                    INDUCTOR_OPTIONS,  # importing the compiler takes seconds
                )

                self._called = cast("Model", torch.compile(self.model, dynamic=False, options=INDUCTOR_OPTIONS))
                return self._gradient(x, label)
        except Exception as error:  # a compiler may raise anything
            self._called = self.model
            self.streams.restore(streams)
            plain = self._gradient(x, label)  # an error that is not the compiler's is raised again here
            first = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(f"the model could not be compiled and is trained uncompiled: {first}", stacklevel=3)
            return plain

    def _worth_compiling(self) -> bool:
        """Whether enough of the run is left to repay compilation, at the pace of the first steps."""
        self._pace.append((self.progress, self.seconds))
        if len(self._pace) < 2 * PACED:
            return False
        self.compile = False
        (before, begun), (now, seconds) = self._pace[PACED - 1], self._pace[-1]
        return (1 - now) * (seconds - begun) > MIN_COMPILE_SECONDS * (now - before)

    def _gradient(self, x: Tensor, label: Tensor | None) -> tuple[Loss, Tensor]:
        # Layers such as dropout draw from torch's global generators, so these are seeded at every step.
        seed = seed_for(self.streams.seed, "layers", self.samples)
        autocast = torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None)
        with global_seed(seed, device=x.device), autocast:
            loss = self.objective(self._called, x, label, generator=self.streams["objective"])
        self.optimiser.zero_grad()
        loss.value.backward()
        parameters = [each for group in self.optimiser.param_groups for each in group["params"]]
        return loss, nn.utils.clip_grad_norm_(parameters, math.inf if self.clip is None else self.clip)

    def _report(self, loss: Loss, grad_norm: Tensor) -> Report:
        # One transfer for all numbers: the host waits for the device once a step.
        names = list(loss.facts)
        numbers = torch.stack(
            [each.detach().double() for each in (loss.value, grad_norm, *loss.facts.values())]
        ).tolist()
        facts = dict(zip(names, numbers[2:], strict=True))
        return Report(self.step, self.samples, numbers[0], numbers[1], facts, self.adjustment, after=self.adjustment)

    def _keep(self, report: Report, x: Tensor) -> Report:
        """Take a snapshot; roll back first if a number is not finite or the run ends while a guard is not calm."""
        self._due, remedies, self.remedies = False, self.remedies, Remedies()
        snapshot = self.snapshot()
        broken = snapshot.broken()
        if not broken and self.calm:
            self.refuge = self.refuge.kept(snapshot)
            return report
        self.remedies = remedies
        reason = f"not finite: {broken}" if broken else "training ended while a guard was not calm"
        name = next((type(each).__name__ for each in self.guards if not each.calm), "Finite")
        report = self._rolled_back(report._replace(guard=name), Judgement(Verdict.ROLLBACK, reason, SLOWER), x)
        if self.progress >= 1 and report.verdict != Verdict.STOP:
            self.refuge = self.refuge.kept(self.snapshot())
        return report

    def _rolled_back(self, report: Report, judgement: Judgement, x: Tensor) -> Report:
        """Restore the last good weights; clocks and random streams move on, so that the failure does not repeat."""
        self.rolled_back += 1
        self.refuge, self._due = self.refuge.returned(), False
        tree = self.good.copy()
        self._restore_learned(tree)
        base, vain = Adjustment.of(tree["clock"].get("treatment", {})), len(self.remedies.tried)
        self.remedies = self.remedies.more(judgement.adjustment)
        report = report._replace(reason=judgement.reason, outcome=f"back to sample {self.good.samples:,}")
        if vain < self.rollbacks and not (self.progress >= 1 and self.age == 0):
            return self._adjusted(report, self.remedies.on(base), judgement, x)._replace(verdict=Verdict.ROLLBACK)
        after, self.remedies, self.adjustment = self.remedies.on(base), Remedies(), base
        self.objective.adjust(base)
        where = "the last good snapshot" if self.age else "the beginning, as no good snapshot followed"
        rate, slower = max(self._rates), f"{max(self._rates) * after.rate:.1g}"
        cause = (
            f"the learning rate {rate:g} is too high, try {slower}"
            if after.rate < base.rate
            else "try " + ", ".join(after.words(base))
        )
        reason = f"{report.reason}; {vain} rollbacks did not help; stopped at {where}: {cause}"
        return report._replace(verdict=Verdict.STOP, reason=reason, after=after)

    def _adjusted(self, report: Report, adjustment: Adjustment, judgement: Judgement, x: Tensor) -> Report:
        """Change the adjustment and return the report of it."""
        before, self.adjustment = self.adjustment, adjustment
        self.objective.adjust(adjustment)
        action = adjustment.words(before)
        if judgement.purge and (
            purged := self.objective.restart_diverged(self.model, x, generator=self.streams["objective"])
        ):
            action.append(f"restarted {purged:,} diverged chains")
        return report._replace(action=", ".join(action), after=adjustment)


MOST_SPOILED: Final = 20
"""Steps with data that are not finite that every run may have."""

MIN_COMPILE_SECONDS: Final = 120.0
"""Remaining seconds of training that repay compilation: a large network takes a minute to compile on a GPU."""

PACED: Final = 10
"""Steps over which the pace is measured, after as many warm-up steps."""

fit = Fit


def _lay_out(optimiser: Optimizer) -> None:
    """Give an optimiser's moments the memory layout of their parameters, which no file stores.

    A fused optimiser walks both in memory order. With moments of another layout, such as channels last, it would update
    each weight by the moments of another one.
    """
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _unpacked(batch: Any) -> tuple[Tensor, Tensor | None]:
    parts = [batch] if isinstance(batch, Tensor) else [*batch] if isinstance(batch, tuple | list) else []
    x, label, *_ = *parts, None, None
    if len(parts) > 2 or not isinstance(x, Tensor) or not isinstance(label, Tensor | None):
        kinds = ", ".join(type(each).__name__ for each in parts or [batch])
        raise UserError(f"a batch is a tensor (B, *), or a pair with its labels; it was {kinds}: see torch.from_numpy")
    return x, label
