"""Arrays from untrusted pickles.

A pickle is a program: it names functions and calls them. Here it is not run. Numbers, bytes, text, lists, tuples and
dictionaries are read. Of names, only those that make an array are known, and each gets a stand-in of this module that
only stores bytes. No other name is looked up, and numpy's own functions are not called either.
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
"""Operations of a pickle; a published batch has about 30,000, each making an object of some hundred bytes at most."""


def word(key: str | bytes) -> str:
    """Return text, which Python 2 pickles as bytes."""
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class StandIn:
    """A stand-in for an object that a pickle names; calling it does nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a state that nothing asks for")


class Kind(StandIn):
    """A stand-in for ``numpy.dtype``: the kind of numbers, of which bytes and whole numbers are known."""

    __slots__ = ("dtype",)

    KNOWN: Final = {"u1": np.uint8, "i4": np.int32, "i8": np.int64}

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.dtype = np.dtype(self.KNOWN[word(code).lstrip("<|")]).newbyteorder("<")

    def __setstate__(self, state: Any) -> None:
        if word(state[1]) not in "<|":
            raise ValueError("numbers in another byte order")


class Array(StandIn):
    """A stand-in for ``numpy.ndarray`` and its constructors: the numbers, once their state is read."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, content = state
        self.fill(content, kind, shape, "F" if in_columns else "C")

    def fill(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        """Take the numbers, whose last index is fastest for the order ``"C"``, the first for ``"F"``."""
        if not isinstance(kind, Kind) or not isinstance(content, bytes | bytearray):
            raise ValueError("an array of something else than numbers")
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order=order)


class Buffered(Array):
    """A stand-in for numpy's ``_frombuffer``, which pickles of the fifth protocol call."""

    __slots__ = ()

    def __init__(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        super().__init__()
        self.fill(content, kind, shape, order)


class Latin(StandIn):
    """A stand-in for ``_codecs.encode``, which Python 3 calls for bytes in a pickle of the second protocol."""

    __slots__ = ()

    def __new__(cls, text: str, code: str) -> Any:
        """Return bytes instead of an instance."""
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
"""Names that a batch may use, and their stand-ins."""


class Unpickler(pickle.Unpickler):
    """Read numbers, bytes, text, lists and dictionaries, and arrays as stand-ins; refuses every other name.

    Nothing that the file names is imported or called: each of the few names of `ADMITTED` maps to a class of this
    module. Admitting the real objects would not be safe, because they can do more than make an array.
    """

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return the stand-in; raise an error if a batch of images does not need the name."""
        if (module_name, global_name) not in ADMITTED:
            named = f"{module_name}.{global_name}"[:80]
            raise UserError(f"a batch of images has no use for {named!r}, and it was not run")
        return ADMITTED[module_name, global_name]


def unpickled(content: bytes, name: str) -> Any:
    """Return the content of a pickle without running it."""
    with reading(name, "an intact pickled batch"):
        _check_size(content)
        try:
            return Unpickler(io.BytesIO(content), encoding="bytes").load()
        except UserError as refused:
            raise UserError(f"{name}: {refused}: do not trust this file, fetch it again") from None
        finally:
            _latin.cache_clear()


def _check_size(content: bytes) -> None:
    """Raise an error if a pickle could take disproportionate memory, without running it."""
    for count, (code, argument, _) in enumerate(pickletools.genops(content)):
        if count == INSTRUCTIONS:
            raise ValueError(f"it has more than {INSTRUCTIONS:,} instructions")
        # Python allocates room for all memo numbers up to the largest one.
        if "PUT" in code.name and int(argument or 0) > count:
            raise ValueError(f"it puts its value number {count:,} aside as number {argument:,}")
