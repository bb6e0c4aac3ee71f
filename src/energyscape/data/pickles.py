"""Arrays out of a pickle that nobody trusts.

A pickle is a programme: it names functions and has them called. Here it is not run. Numbers, bytes, text, lists,
tuples and dictionaries are read; of names only those that an array is made with are known, and each is answered with a
stand-in of this module that does nothing but keep bytes. That numpy's own functions would be harmless need not be
believed, and nothing else is ever looked up.
"""

import functools
import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from energyscape.errors import UserError
from energyscape.files import reading

INSTRUCTIONS: Final = 1_000_000
"""Of a pickle; a published batch has about 30,000, and each makes an object of some hundred bytes at most."""


def word(key: str | bytes) -> str:
    """Return text of Python 2, which is read as bytes, or of Python 3."""
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class StandIn:
    """What a pickle gets in place of what it names; it may be called, and does nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a state that nothing asks for")


class Kind(StandIn):
    """In place of ``numpy.dtype``: the kind of numbers, of which bytes and whole numbers are known."""

    __slots__ = ("dtype",)

    KNOWN: Final = {"u1": np.uint8, "i4": np.int32, "i8": np.int64}

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.dtype = np.dtype(self.KNOWN[word(code).lstrip("<|")]).newbyteorder("<")

    def __setstate__(self, state: Any) -> None:
        if word(state[1]) not in "<|":
            raise ValueError("numbers in another byte order")


class Array(StandIn):
    """In place of ``numpy.ndarray`` and what makes one: the numbers, once their state has come."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, content = state
        self.fill(content, kind, shape, "F" if in_columns else "C")

    def fill(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        """Take the numbers, whose last index runs fastest for the order ``"C"``, the first for ``"F"``."""
        if not isinstance(kind, Kind) or not isinstance(content, bytes | bytearray):
            raise ValueError("an array of something else than numbers")
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order=order)


class Buffered(Array):
    """In place of numpy's ``_frombuffer``, which pickles of the fifth protocol call."""

    __slots__ = ()

    def __init__(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        super().__init__()
        self.fill(content, kind, shape, order)


class Latin(StandIn):
    """In place of ``_codecs.encode``, which Python 3 calls for bytes in a pickle of the second protocol."""

    __slots__ = ()

    def __new__(cls, text: str, code: str) -> Any:
        """Return bytes, and no instance."""
        if code != "latin1":
            raise ValueError(f"bytes as {code}")
        return _latin(str(text))


@functools.cache  # a text that is named again takes no more memory
def _latin(text: str) -> bytes:
    return text.encode("latin1")


ADMITTED: Final[Mapping[tuple[str, str], type[StandIn]]] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): Latin,
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for module, name, made in (("multiarray", "_reconstruct", Array), ("numeric", "_frombuffer", Buffered))
    },
}
"""What a batch may name, and what it gets in its place."""


class Unpickler(pickle.Unpickler):
    """Reads numbers, bytes, text, lists and dictionaries, and arrays as stand-ins; refuses every other name.

    Nothing that the file names is imported or called: each of the few names of `ADMITTED` is answered with a class of
    this module. The names themselves are not enough, because what they lead to can do more than make an array.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the stand-in; raise an error if a batch of images has no use for the name."""
        if (module_name, global_name) not in ADMITTED:
            named = f"{module_name}.{global_name}"[:80]
            raise UserError(f"a batch of images has no use for {named!r}, and it was not run")
        return ADMITTED[module_name, global_name]


def unpickled(content: bytes, name: str) -> Any:
    """Return what a pickle holds, without running anything of it."""
    with reading(name, "an intact pickled batch"):
        _check_size(content)
        try:
            return Unpickler(io.BytesIO(content), encoding="bytes").load()
        except UserError as refused:
            raise UserError(f"{name}: {refused}: do not trust this file, fetch it again") from None
        finally:
            _latin.cache_clear()


def _check_size(content: bytes) -> None:
    """Raise an error if a pickle could take more memory than is in proportion; nothing of it is run."""
    for count, (code, argument, _) in enumerate(pickletools.genops(content)):
        if count == INSTRUCTIONS:
            raise ValueError(f"it has more than {INSTRUCTIONS:,} instructions")
        # Python makes room for all numbers up to the one that a value is put aside under.
        if "PUT" in code.name and int(argument or 0) > count:
            raise ValueError(f"it puts its value number {count:,} aside as number {argument:,}")
