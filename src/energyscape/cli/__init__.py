"""The command line. Heavy imports are inside the commands, so that ``--help`` answers at once."""

import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper

from cyclopts import CycloptsError

from energyscape.cli import (  # noqa: F401 (each adds its command)
    animate,
    catalogue,
    compare,
    denoise,
    doctor,
    evaluate,
    export,
    inpaint,
    report,
    sample,
    score,
    show,
    train,
)
from energyscape.cli.allocator import keep_freed
from energyscape.cli.terminal import app, complain
from energyscape.errors import UserError


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 stopped by a guard, 2 a mistake, 130 interrupted."""
    # Threads that wait for work sleep: spinning ones starve whatever else runs, and each other when cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed()
    warnings.showwarning = lambda message, *_: complain(str(message))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = app(words, print_error=False, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(f"{error} See energyscape --help.")
        status = 2
    except UserError as error:
        complain(str(error))
        status = 2
    except KeyboardInterrupt:
        complain("interrupted")
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        complain(f"{error.filename or 'output'}: {error.strerror or error}")
        status = 2
    except (MemoryError, RuntimeError) as error:
        # Report out-of-memory errors; re-raise everything else.
        if not isinstance(error, MemoryError) and "memory" not in str(error) and "allocate" not in str(error):
            raise
        complain("not enough memory for that: ask for fewer samples, smaller batches or a smaller buffer")
        status = 2
    sys.exit(status if isinstance(status, int) else 0)
