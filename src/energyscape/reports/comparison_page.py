"""Output of a comparison: a table, a picture and a page for each law, and one board over all."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from energyscape.files import write_whole
from energyscape.laboratory.kernels import (
    SamplerCell,
    SamplerScore,
    sampler_multiples,
    sampler_table,
)
from energyscape.laboratory.objectives import (
    MethodCell,
    Score,
    entropy_of,
    failures,
    matrix,
    multiples,
    table,
)
from energyscape.laboratory.scoreboard import as_csv, markdown
from energyscape.reports.html import Section, page

Written = Iterator[tuple[list[list[str]] | None, str]]
"""Tables to print, each with what to say after it."""

METHODS = (
    "KL(law‖model) by quadrature, mean over seeds ± its standard error: the cross-entropy above the law's entropy, "
    "zero only for the truth. Worst mode: the least share of its own mass that a mode got with any seed. MMD²: between "
    "1,000 samples of the recipe's sampler from noise and 1,000 of the law. ESS/s: effective samples of that sampler a "
    "second of the processor, 32 chains. Failed runs are not in the means."
)

SAMPLERS = (
    "128 chains start uniformly in the law's box on its own energy. Modes wrong by: total variation between the shares "
    "of the modes in the second half of the draws and the right ones. MMD²: between where the 128 chains ended "
    "and 1,000 exact draws. R-hat: the worst over seeds. MALA and HMC are tuned by a warm-up, which is part of the "
    "budget; unadjusted kernels take a quarter of MALA's step."
)


def write_methods(cells: Sequence[MethodCell], scores: Sequence[Score], *, out: Path, command: str) -> Written:
    """Write the boards of a comparison of methods."""
    text = f"# Scoreboard\n\nMade by `{command}`.\n\n{METHODS}\n"
    laws = list(dict.fromkeys(score.law for score in scores))
    if len(laws) > 1:
        yield matrix(scores), f"mean KL of {len(laws)} laws, nats"
        text += f"\n## All laws\n\n{markdown(matrix(scores))}"
    for law in laws:
        mine = [cell for cell in cells if cell.law == law]
        theirs = [score for score in scores if score.law == law]
        folder, entropy = mine[0].folder.parent, entropy_of(mine)
        write_whole(folder / "scores.csv", as_csv(theirs).encode())
        picture = multiples(mine, theirs)
        write_whole(folder / "scoreboard.png", _png(picture))
        about = f"The entropy of {law} is {entropy:.4f} nats. {METHODS}"
        sections = [
            Section("Scoreboard", about, table=table(theirs)),
            Section("Landscapes", "", figures=((picture, f"{law}: data, landscape and samples of each method"),)),
            Section("Failures", "", pre="\n".join(failures(theirs)) or "none"),
        ]
        whole = page(folder.name, sections, subtitle="methods against the exact truth")
        write_whole(folder / "scoreboard.html", whole.encode())
        text += f"\n## {law}\n\nEntropy {entropy:.4f} nats.\n\n{markdown(table(theirs))}"
        yield (
            table(theirs),
            f"{law}: {folder / 'scores.csv'}, {folder / 'scoreboard.png'}, {folder / 'scoreboard.html'}",
        )
    failed = failures(scores)
    text += "\n## Failures\n\n" + ("".join(f"- {line}\n" for line in failed) or f"None of {len(scores)} runs.\n")
    write_whole(out / "scoreboard.md", text.encode())
    yield None, "\n".join([*failed, f"{len(failed)} of {len(scores)} runs failed; {out / 'scoreboard.md'}"])


def write_samplers(cells: Sequence[SamplerCell], scores: Sequence[SamplerScore]) -> Written:
    """Write the board of a comparison of samplers."""
    folder = cells[0].folder.parent
    write_whole(folder / "scores.csv", as_csv(scores).encode())
    picture = sampler_multiples(cells, scores)
    write_whole(folder / "scoreboard.png", _png(picture))
    sections = [
        Section("Scoreboard", SAMPLERS, table=sampler_table(scores)),
        Section("Chains", "", figures=((picture, "exact draws, the landscape, and where chains ended"),)),
    ]
    whole = page(folder.name, sections, subtitle="samplers against the exact truth")
    write_whole(folder / "scoreboard.html", whole.encode())
    write_whole(folder / "scoreboard.md", f"# Samplers\n\n{SAMPLERS}\n\n{markdown(sampler_table(scores))}".encode())
    yield sampler_table(scores), f"{folder / 'scores.csv'}, {folder / 'scoreboard.png'}, {folder / 'scoreboard.html'}"


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return content.getvalue()
