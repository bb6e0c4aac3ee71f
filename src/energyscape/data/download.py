"""Downloads of one file from the first mirror that serves it intact.

A file is accepted only if its size and its SHA-256 sum are the published ones, whatever the mirror. It appears under
its name only when it is complete.
"""

import hashlib
import http.client
import os
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from energyscape.errors import UserError
from energyscape.files import write_whole

TIMEOUT: Final = 10.0
"""Seconds after which a mirror that sends nothing is given up."""

SLOWEST: Final = 20_000
"""Bytes a second below which a mirror is given up, once it had `TIMEOUT` and the time for a file at that speed."""

CHUNK: Final = 1 << 20


class Sum(NamedTuple):
    """Checks of a published file: its size in bytes and its SHA-256 sum, in hexadecimal."""

    size: int
    sha256: str


class DownloadError(UserError):
    """No mirror served the file; the message holds the reason for each."""


def cache_folder(name: str) -> Path:
    """Return the folder of a data set: ``$ENERGYSCAPE_DATA/name``, else ``~/.cache/energyscape/name``."""
    return Path(os.path.expanduser(os.environ.get("ENERGYSCAPE_DATA") or "~/.cache/energyscape"), name)


def learned_folder(name: str) -> Path:
    """Return the folder of trained models: ``energyscape/name`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``.

    Data may lie in a shared, read-only folder; this one is the user's own.
    """
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "energyscape", name)


def download(name: str, folder: str | Path, *, mirrors: Sequence[str], known: Sum, timeout: float = TIMEOUT) -> Path:
    """Fetch a file into a folder from the first mirror that serves it; raise `DownloadError` if none does."""
    faults = []
    for mirror in mirrors:
        try:
            with urllib.request.urlopen(mirror + name, timeout=timeout) as response:
                content = _received(response, known.size, timeout)
        except (OSError, ValueError, http.client.HTTPException) as error:
            faults.append(f"{mirror}: {error or type(error).__name__}")
            continue
        came = hashlib.sha256(content).hexdigest()
        if came == known.sha256:
            path = Path(folder) / name
            try:
                write_whole(path, content)
            except UserError as error:
                raise UserError(f"{error} (ENERGYSCAPE_DATA names another folder)") from None
            return path
        faults.append(f"{mirror}: SHA-256 is {came}, not {known.sha256}")
    raise DownloadError("; ".join(faults))


def _received(response: Any, size: int, timeout: float) -> bytes:
    """Return the content of an answer; refuse one that is too long or too slow."""
    content, end = bytearray(), time.monotonic() + timeout + size / SLOWEST
    while chunk := response.read1(CHUNK):
        content += chunk
        if len(content) > size:
            raise ValueError(f"expected {size:,} bytes; it sends more")
        if time.monotonic() > end:
            raise TimeoutError(f"timed out after {len(content):,} of {size:,} bytes")
    if len(content) < size:
        raise ValueError(f"expected {size:,} bytes; it sends {len(content):,}")
    return bytes(content)
