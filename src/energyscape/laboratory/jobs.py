"""Cells of a comparison, run one after another or side by side in processes of their own."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final

from energyscape.errors import UserError
from energyscape.laboratory.cells import Cell, Score

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_jobs(
    cells: Sequence[Cell], *, jobs: int = 1, stopping: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Score]]:
    """Yield the index and the score of each cell, in the order in which they end.

    Stop early once `stopping()` is true and the running cells have kept their checkpoints.
    """
    if jobs < 1:
        raise UserError(f"jobs is at least 1; it was {jobs}")
    if jobs == 1 or len(cells) < 2:
        for index, cell in enumerate(cells):
            score = None if stopping() else cell.score(stopping)
            if score is None:
                return
            yield index, score
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    # The event is an argument of the initialiser because a task cannot carry it.
    with ProcessPoolExecutor(min(jobs, len(cells), 64), context, _begin, (stop,)) as pool:
        old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they would kill a process that starts
        try:
            open_ = {pool.submit(_score, cell): index for index, cell in enumerate(cells)}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        try:
            while open_:
                if stopping() and not stop.is_set():
                    stop.set()
                done, _ = wait(open_, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    index, score = open_.pop(future), future.result()
                    if score is not None:
                        yield index, score
        except BrokenProcessPool:
            raise UserError(
                "a process of the comparison was killed, perhaps for lack of memory; finished runs are kept: give the "
                "same command again, with fewer --jobs"
            ) from None
        finally:
            stop.set()


_stop: Any = None


def _begin(stop: Any) -> None:
    """Prepare a worker: it ignores signals, stops on the first process's event, and ends with that process."""
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


def _score(cell: Cell) -> Score | None:
    return None if _stop.is_set() else cell.score(_stop.is_set)
