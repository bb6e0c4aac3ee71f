"""``python -m energyscape``, the command line where its script is not on the path."""

from energyscape.cli import main

main()
