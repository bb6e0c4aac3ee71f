r"""Tables of scores: a mean over seeds and its standard error :math:`s / \sqrt n`, the best first."""

import csv
import io
import math
import statistics
from collections.abc import Sequence

from energyscape.laboratory.cells import Score

Table = list[list[str]]


def table(scores: Sequence[Score]) -> Table:
    """Return the scoreboard of one distribution, the best component first; runs that failed are only counted."""
    kind = scores[0].cell
    columns = [each for each in kind.columns if each.title]
    rows = []
    for name in dict.fromkeys(score.cell.name for score in scores):
        mine = [score for score in scores if score.cell.name == name]
        good = [score for score in mine if not score.failed]
        shown = [each.summary([score.values[each.field] for score in good]) for each in columns]
        failed = f"{len(mine) - len(good)} of {len(mine)}"
        rank = mean_and_error([score.values[kind.rank] for score in good])[0] if good else math.inf
        rows.append((rank, [name, *shown, failed]))
    return [[kind.component, *(each.title for each in columns), "failed"], *_sorted(rows)]


def matrix(scores: Sequence[Score]) -> Table:
    """Return the mean of the `rank` column for each component (row) and distribution (column)."""
    kind = scores[0].cell
    (title,) = [each.title for each in kind.columns if each.field == kind.rank]
    places = list(dict.fromkeys(score.cell.distribution for score in scores))
    rows = []
    for name in dict.fromkeys(score.cell.name for score in scores):
        good = [score for score in scores if score.cell.name == name and not score.failed]
        values = [[each.values[kind.rank] for each in good if each.cell.distribution == place] for place in places]
        means = [mean_and_error(each)[0] for each in values]
        known = [each for each in means if math.isfinite(each)]
        # Distributions differ in the values that can be reached on them: ranks are by geometric means.
        rank = math.exp(sum(math.log(max(value, 1e-6)) for value in known) / len(known)) if known else math.inf
        rows.append((rank, [name, *map(shown, means)]))
    return [[title, *places], *_sorted(rows)]


def _sorted(rows: Sequence[tuple[float, list[str]]]) -> Table:
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def failures(scores: Sequence[Score]) -> list[str]:
    """Return a line for each run that failed, with its reason."""
    return [score.summary() for score in scores if score.failed]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of independent values and its standard error; NaN for too few values."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def shown(value: float, digits: int = 3) -> str:
    """Return a number for people, or a dash for one that is not finite.

    Examples:
        >>> shown(0.012345), shown(float("nan")), shown(12345.6)
        ('0.0123', '–', '12,300')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if abs(value) >= 1_000 else text


def shown_mean(values: Sequence[float]) -> str:
    """Return a mean for people."""
    return shown(mean_and_error(values)[0])


def shown_with_error(values: Sequence[float], digits: int = 3) -> str:
    """Return a mean and its standard error for people.

    Examples:
        >>> shown_with_error([0.010, 0.012]), shown_with_error([0.5])
        ('0.011 ± 0.001', '0.5')
    """
    mean, error = mean_and_error(values)
    return shown(mean, digits) + (f" ± {shown(error, 2)}" if math.isfinite(error) else "")


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, its first row the head."""
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def as_csv(scores: Sequence[Score]) -> str:
    """Return a line for each score."""
    rows = [score.row() for score in scores]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
