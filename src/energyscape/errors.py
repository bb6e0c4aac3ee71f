"""The one exception for a user's mistake or a fault in an outside file.

Numerical trouble is never an exception: kernels reject, guards answer with a verdict.
"""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """What was expected, what came, and what to do about it, in one line.

    The command line prints the message without a traceback and exits with status 2.
    """


def nearest(word: str, words: Iterable[str]) -> str:
    """Returns the end of a sentence, such as ``"; did you mean 'steps'?"``, or a full stop when no word is near.

    Args:
        word: What the user typed.
        words: The names that exist.

    Examples:
        >>> nearest("stpes", ["steps", "size"])
        "; did you mean 'steps'?"
        >>> nearest("qqq", ["steps"])
        '.'
    """
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    close = close or [each for each in known if each.startswith(word) or word in each][:3]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."


def check_positive(**settings: float) -> None:
    """Raises a clear error unless every setting is a positive number.

    Args:
        settings: Values by name.

    Raises:
        ValueError: If one is not positive or not a number.
    """
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} is positive; it was {value}")


def needed(module: str, extra: str) -> Any:
    """Returns a module that is not installed with this package.

    Args:
        module: Its name.
        extra: The extra that brings it.

    Raises:
        UserError: If it is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"this needs {module.partition('.')[0]}, which is not installed: pip install 'energyscape[{extra}]'"
        ) from None
