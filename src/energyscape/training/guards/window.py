"""The last values of an objective's facts: a single batch is too noisy."""

import math
import statistics
from collections import deque
from typing import Any, final

from energyscape.objectives.facts import Fact, Facts


@final
class Window:
    """The last values of some facts.

    Args:
        names: Names of the facts.
        size: Number of steps.
    """

    def __init__(self, *names: Fact, size: int) -> None:
        self.size = size
        self.values: Facts[deque[float]] = {name: deque(maxlen=size) for name in names}

    def add(self, facts: Facts[float]) -> bool:
        """Take a step's facts; return whether the window is full and every number was present."""
        numbers = {name: facts.get(name, math.nan) for name in self.values}
        if not all(math.isfinite(each) for each in numbers.values()):
            return False
        for name, number in numbers.items():
            self.values[name].append(number)
        return all(len(each) == self.size for each in self.values.values())

    def median(self, name: Fact) -> float:
        """Return the median of one fact."""
        return statistics.median(self.values[name])

    def clear(self) -> None:
        """Forget all values, because another run follows."""
        for each in self.values.values():
            each.clear()

    def state(self) -> dict[Any, list[float]]:
        """Return all values."""
        return {name: list(each) for name, each in self.values.items()}

    def restore(self, state: dict[Any, list[float]]) -> None:
        """Restore the result of `state`."""
        self.values = {name: deque(state[name], maxlen=self.size) for name in self.values}
