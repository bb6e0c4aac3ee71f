"""Print a recipe."""

from energyscape.cli.terminal import app, say


@app.command
def show(recipe: str, /) -> int:
    """Print a recipe as written: its purpose, result, cost and settings.

    Args:
        recipe: A recipe's name (see `energyscape list recipes`) or the path of a TOML file.
    """
    from energyscape.recipe import recipe_text

    say(recipe_text(recipe).rstrip())
    return 0
