"""Shared parts of all commands: the application, the terminal, Ctrl-C."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from energyscape import __version__

app = App(
    name="energyscape",
    version=__version__,
    help="Learn, sample and diagnose energy landscapes.",
    suppress_keyboard_interrupt=False,  # `main` says that it was one
)

Settings = Annotated[str, Parameter(name="--SECTION.SETTING", allow_leading_hyphen=True)]
RunFolder = Annotated[Path, Parameter(name="RUN")]


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C or SIGTERM came; a second signal prints ``kept()`` and exits.

    A thread reads the signals, because the main thread may spend a minute inside one operation of a large network.
    """
    asked, (reader, writer) = threading.Event(), socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while number := reader.recv(1)[0]:
            if number not in old:
                continue
            if asked.is_set():
                complain(f"ended at once; {kept()}")
                os.write(2, b"\x1b[?25h" if sys.stderr.isatty() else b"")  # the cursor, which a live display hides
                os._exit(130)
            asked.set()
            complain("stopping after this step; a second signal ends at once")

    old = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield asked.is_set
    finally:
        signal.set_wakeup_fd(before)
        writer.send(b"\0")
        watcher.join()
        reader.close()
        writer.close()
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that something is going on inside the block; yield a function that shows its progress."""
    from rich.console import Console

    with Console(stderr=True).status(f"{what} …") as status:
        yield lambda far: status.update(f"{what}, {far} …")


def open_run(path: Path) -> Any:
    """Open a run, and warn where a guard has stopped its training."""
    from energyscape.runs import Run

    run = Run.open(path)
    if why := run.stopped():
        complain(why)
    return run


def say(text: str) -> None:
    """Print text for people."""
    print(visible(text), flush=True)


def complain(text: str) -> None:
    """Print one line of what went wrong, on stderr, without the middle of a very long one."""
    line = visible(" ".join(text.split()))
    line = line if len(line) <= 1_500 else f"{line[:1_000]} … {line[-300:]}"
    print(f"energyscape: {line}", file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Return text whose control characters, which a file's name may hold, are escaped."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
