"""What every command shares: the application itself, the terminal, Ctrl-C."""

import signal
import sys
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
def interruptible() -> Iterator[Any]:
    """Makes Ctrl-C and SIGTERM a question that the block asks between two steps; a second Ctrl-C ends at once."""
    asked = False

    def note(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal that something is going on inside the block; yields what tells how far it has come.

    Args:
        what: What is.
    """
    from rich.console import Console

    with Console(stderr=True).status(f"{what} …") as status:
        yield lambda far: status.update(f"{what}, {far} …")


def say(text: str) -> None:
    """Prints one line for people.

    Args:
        text: The line.
    """
    print(text, flush=True)


def complain(text: str) -> None:
    """Prints one line of what went wrong, on stderr.

    Args:
        text: The line.
    """
    print(f"energyscape: {' '.join(text.split())}", file=sys.stderr, flush=True)
