"""``python -m energyscape.cli`` is ``energyscape``."""

from energyscape.cli import main

main()
