"""Run: the directories that training leaves and every command reads."""

from energyscape.runs.run import Run
from energyscape.runs.session import Session

__all__ = ["Run", "Session"]
