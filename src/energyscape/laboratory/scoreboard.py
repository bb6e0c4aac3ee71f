r"""Tables of scores: a mean over seeds and its standard error :math:`s / \sqrt n`, the best first."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One method's or sampler's line.

    Args:
        name: Whose.
        rank: What the lines are ordered by, the lowest first.
        cells: What is shown, the name first.
    """

    name: str
    rank: float
    cells: list[str]


def board(head: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """Return a table, the best row first."""
    return [list(head), *(row.cells for row in sorted(rows, key=lambda row: row.rank))]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent values and its standard error; NaN where there are too few."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def shown(value: float, digits: int = 3) -> str:
    """Return a number for people, or a dash where there is none.

    Examples:
        >>> shown(0.012345), shown(float("nan")), shown(12345.6)
        ('0.0123', '–', '12,300')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if abs(value) >= 1_000 else text


def shown_with_error(mean: float, error: float, digits: int = 3) -> str:
    """Return a mean and its standard error for people.

    Examples:
        >>> shown_with_error(0.012345, 0.0021), shown_with_error(0.5, float("nan"))
        ('0.0123 ± 0.0021', '0.5')
    """
    return shown(mean, digits) + (f" ± {shown(error, 2)}" if math.isfinite(error) else "")


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, its first row the head."""
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def as_csv(scores: Sequence[Any]) -> str:
    """Return one line a score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([scores[0]._fields, *scores])
    return text.getvalue()
