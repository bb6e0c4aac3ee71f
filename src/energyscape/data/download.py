"""One file from the first mirror that serves it intact.

A file is believed only if its MD5 sum is the published one, and appears under its name only when it is complete: it is
written beside, synced and renamed, so that a kill at any moment leaves either the whole file or none.
"""

import hashlib
import http.client
import os
import threading
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from energyscape.errors import UserError

TIMEOUT = 10.0
"""Seconds after which a mirror that sends nothing is given up."""


class DownloadError(UserError):
    """No mirror gave the file; the message holds the reason for each."""


def cache_folder(name: str) -> Path:
    """Returns where a data set is kept: ``$ENERGYSCAPE_DATA/name``, else ``~/.cache/energyscape/name``.

    Args:
        name: The data set.
    """
    return Path(os.path.expanduser(os.environ.get("ENERGYSCAPE_DATA") or "~/.cache/energyscape"), name)


def learned_folder(name: str) -> Path:
    """Returns where something trained is kept: ``energyscape/name`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``.

    Data may lie in a folder that is shared and not to be written to; this one is the user's own.

    Args:
        name: What is kept.
    """
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "energyscape", name)


def download(name: str, folder: str | Path, *, mirrors: Sequence[str], md5: str, timeout: float = TIMEOUT) -> Path:
    """Fetches a file into a folder.

    Args:
        name: The file's name, on the mirrors and in the folder.
        folder: Where to put it; made if it does not exist.
        mirrors: Addresses that the name is appended to, tried in turn.
        md5: The file's published MD5 sum, in hexadecimal.
        timeout: Seconds without an answer after which the next mirror is tried.

    Returns:
        The file's path.

    Raises:
        DownloadError: If no mirror serves the file with that sum.
        UserError: If the folder cannot be written.
    """
    faults = []
    for mirror in mirrors:
        try:
            with urllib.request.urlopen(mirror + name, timeout=timeout) as response:
                content: bytes = response.read()
        except (OSError, http.client.HTTPException) as error:
            faults.append(f"{mirror}: {error or type(error).__name__}")
            continue
        came = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if came == md5:
            return _write(Path(folder) / name, content)
        faults.append(f"{mirror}: MD5 is {came}, not {md5}")
    raise DownloadError("; ".join(faults))


def _write(path: Path, content: bytes) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path.parent}: expected a folder to write to; {error.strerror or error}: "
            "set ENERGYSCAPE_DATA to another one"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path
