"""A measured number."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One measured number.

    Args:
        name: What was measured.
        value: The number.
        error: Its standard error, or the numerical error's estimate; none where there is none to give.
        protocol: How it was measured, in a line.
    """

    name: str
    value: float
    error: float | None
    protocol: str

    @property
    def shown(self) -> str:
        """The value for people."""
        return f"{self.value:.4g}"

    @property
    def shown_error(self) -> str:
        """The error for people."""
        return "" if self.error is None else f"{self.error:.2g}"
