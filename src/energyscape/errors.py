"""The one exception for a user's mistake or a fault in an outside file.

Numerical trouble is never an exception: kernels reject, guards answer with a verdict.
"""

import difflib
import importlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final


class UserError(ValueError):
    """A one-line message that says what was expected, what came and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


@contextmanager
def refused(title: str) -> Iterator[None]:
    """Turn errors of constructors about their arguments into a UserError with the component's name."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{title}: {error}") from error


def shortened(value: Any) -> str:
    """Return a value for a message, abbreviated if long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}…"


ALIASES: Final = {"gpu": "cuda", "epoch": "budget", "momentum": "beta1", "iterations": "steps", "batch": "batch_size"}
"""Other libraries' names of settings and values."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence, such as ``"; did you mean 'steps'?"``, or a full stop when no word is near.

    Other libraries' names, initials and parts of a word count too.

    Examples:
        >>> did_you_mean("stpes", ["steps", "size"])
        "; did you mean 'steps'?"
        >>> did_you_mean("lr", ["learning_rate", "seed"])
        "; did you mean 'learning_rate'?"
        >>> did_you_mean("qqq", ["steps"])
        '.'
    """
    known = sorted(words)
    meant = [each for each in known if word in ("".join(part[:1] for part in each.split("_")), each.replace("_", ""))]
    close = [ALIASES[word]] if ALIASES.get(word) in known else meant if len(word) > 1 else []
    close = close or difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    close = close or [each for each in known if each.startswith(word) or word in each][:3]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."


def check_positive(**settings: float) -> None:
    """Raise a ValueError unless every setting is a positive, finite number."""
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is positive and finite; it was {value}")


def check_count(*, least: int = 1, most: int = 10_000, **settings: int) -> None:
    """Raise a clear error unless every setting is a count from ``least`` to ``most``."""
    for name, value in settings.items():
        if not least <= value <= most:
            limit = f"most {most:,}" if value > most else f"least {least}"
            raise ValueError(f"{name} is at {limit}; it was {value:.6g}")


def require(module: str, extra: str) -> Any:
    """Return a module that is not installed with this package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"this needs {module.partition('.')[0]}, which is not installed: pip install 'energyscape[{extra}]'"
        ) from None
