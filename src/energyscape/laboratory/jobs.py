"""Cells of a comparison, run side by side in processes of their own, each once.

A cell writes what it reached beside whatever else it leaves, so that the same command again runs and measures only what
is missing.
"""

import math
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from energyscape import __version__
from energyscape.errors import UserError
from energyscape.files import as_json, read_json, write_whole

Told = TypeVar("Told")
"""What a cell reaches: a named tuple of numbers and strings that can say itself, ``said()``."""

SCORE: Final = "score.json"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Cell(ABC, Generic[Told]):
    """One entry of a scoreboard: a method or a sampler with one seed."""

    folder: Path
    told: ClassVar[Any]
    """The class of what the cell reaches."""

    @abstractmethod
    def work(self, stopping: Callable[[], bool]) -> Told | None:
        """Do the work and measure it."""

    def score(self) -> Told | None:
        """Return what the cell reached before, or none."""
        try:
            kept = read_json(self.folder / SCORE, "a score")
            values = {name: math.nan if kept[name] is None else kept[name] for name in self.told._fields}
        except (ValueError, KeyError):
            return None
        reached: Told = self.told(**values)
        return reached if kept.get("energyscape") == __version__ else None

    def result(self, stopping: Callable[[], bool]) -> Told | None:
        """Return what the cell reaches, from its file or by work."""
        score = self.score()
        if score is None and (score := self.work(stopping)) is not None:
            told: Any = score
            text = as_json({"energyscape": __version__, **told._asdict()})
            write_whole(self.folder / SCORE, text.encode())
        return score


def contest(
    cells: Sequence[Cell[Told]], *, jobs: int = 1, stopping: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Told]]:
    """Yield the place of each cell and what it reached, in the order in which they end.

    It ends early, without a word, once somebody wants to stop and what was going on has been put aside.
    """
    if jobs < 1:
        raise UserError(f"jobs is at least 1; it was {jobs}")
    if jobs == 1 or len(cells) < 2:
        for place, cell in enumerate(cells):
            told = None if stopping() else cell.result(stopping)
            if told is None:
                return
            yield place, told
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    # A task would not take the event along: it reaches a process only when that begins.
    with ProcessPoolExecutor(min(jobs, len(cells), 64), context, _begin, (stop,)) as pool:
        old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a process that begins would die of them
        try:
            open_ = {pool.submit(_result, cell): place for place, cell in enumerate(cells)}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        try:
            while open_:
                if stopping() and not stop.is_set():
                    stop.set()
                done, _ = wait(open_, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    place, told = open_.pop(future), future.result()
                    if told is not None:
                        yield place, told
        except BrokenProcessPool:
            raise UserError(
                "a process of the comparison was killed, perhaps for lack of memory; finished runs are kept: give the "
                "same command again, with fewer --jobs"
            ) from None
        finally:
            stop.set()


_stop: Any = None


def _begin(stop: Any) -> None:
    """Prepare a worker: the first process says when to stop, not a signal, and the worker ends with it."""
    global _stop  # noqa: PLW0603 - a process's only memory between its initialiser and its tasks
    _stop = stop
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _result(cell: Cell[Told]) -> Told | None:
    return None if _stop.is_set() else cell.result(_stop.is_set)
