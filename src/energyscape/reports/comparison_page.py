"""Files of a comparison: a table, a picture and a page for each distribution, and one scoreboard over all."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from energyscape import plotting
from energyscape.files import write_whole
from energyscape.laboratory import Score
from energyscape.laboratory.scoreboard import Table, as_csv, failures, markdown, matrix, table
from energyscape.reports.html import Section, page, png


def write_comparison(scores: Sequence[Score], *, out: Path, command: str) -> Iterator[tuple[Table | None, str]]:
    """Write the files of a comparison; yield tables to print, each with the text to print after it."""
    kind = scores[0].cell
    text = f"# Scoreboard\n\nMade by `{command}`.\n\n{kind.protocol}\n"
    places = list(dict.fromkeys(score.cell.distribution for score in scores))
    if len(places) > 1:
        yield matrix(scores), f"means of {len(places)} laws"
        text += f"\n## All laws\n\n{markdown(matrix(scores))}"
    for place in places:
        mine = [score for score in scores if score.cell.distribution == place]
        folder, board, entropy = mine[0].cell.folder.parent, table(mine), mine[0].cell.entropy()
        write_whole(folder / "scores.csv", as_csv(mine).encode())
        picture = _picture(mine)
        write_whole(folder / "scoreboard.png", png(picture))
        about = f"The entropy of {place} is {entropy:.4f} nats. {kind.protocol}"
        caption = f"{place}: data, landscape and samples of each {kind.component}"
        sections = [
            Section("Scoreboard", about, table=board),
            Section("Landscapes", "", figures=((picture, caption),)),
            Section("Failures", "", pre="\n".join(failures(mine)) or "none"),
        ]
        html = page(folder.name, sections, subtitle=f"{kind.component}s against the exact truth")
        write_whole(folder / "scoreboard.html", html.encode())
        text += f"\n## {place}\n\nEntropy {entropy:.4f} nats.\n\n{markdown(board)}"
        yield (
            board,
            f"{place}: {', '.join(str(folder / f'score{end}') for end in ('s.csv', 'board.png', 'board.html'))}",
        )
    failed = failures(scores)
    text += "\n## Failures\n\n" + ("".join(f"- {line}\n" for line in failed) or f"None of {len(scores)} runs.\n")
    write_whole(out / "scoreboard.md", text.encode())
    yield None, "\n".join([*failed, f"{len(failed)} of {len(scores)} runs failed; {out / 'scoreboard.md'}"])


def _picture(scores: Sequence[Score]) -> Figure:
    """Draw data, landscape and samples of each component's first seed on one distribution, the best first."""
    kind = scores[0].cell
    (column,) = [each for each in kind.columns if each.field == kind.rank]
    firsts = [score for score in scores if score.cell.seed == 0]
    firsts.sort(key=lambda score: math.inf if score.failed else score.values[kind.rank])
    rows = []
    for score in firsts:
        if panels := score.cell.panels():
            result = "failed" if score.failed else f"{column.title} {column.summary([score.values[kind.rank]])}"
            rows.append(plotting.Multiple(score.cell.name, result, *panels))
    return plotting.small_multiples(rows, kind.truth().box, title=f"{kind.distribution}, seed 0")
