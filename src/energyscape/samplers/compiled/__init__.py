"""Fast chains: several steps in one graph, compiled by Inductor or recorded on a GPU."""

from energyscape.samplers.compiled.steps import Compile, Steps, added

__all__ = ["Compile", "Steps", "added"]
