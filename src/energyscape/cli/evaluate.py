"""Measure a trained run."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, open_run, working


@app.command
def evaluate(
    run: RunFolder,
    /,
    *,
    n: int = 1_000,
    steps: int | None = None,
    only: str | None = None,
    inception_weights: Path | None = None,
    json: bool = False,
    seed: int | None = None,
) -> int:
    """Measure a trained run: each number with its error bar and protocol.

    Numbers and samples are kept in the run, RUN/evaluation.json and RUN/evaluation/, for `report` and `doctor`. They
    are measured again when the checkpoint, n, steps or the seed change.

    Args:
        run: The run's folder.
        n: Samples that are judged.
        steps: Steps of their chains; the recipe's by default.
        only: Names of metrics with commas between them, such as kl,mmd; see `energyscape list metrics`.
        inception_weights: pt_inception-2015-12-05-6726825d.pth, or the same as safetensors, to compare images on the
            features that published Fréchet distances use too.
        json: Print JSON instead of a table.
        seed: Seed of the chains; the run's by default.
    """
    from energyscape.files import as_json
    from energyscape.metrics.evaluation import evaluate as measured
    from energyscape.reports.run_page import gather

    opened, names = open_run(run), [] if only is None else [each.strip() for each in only.split(",")]
    with working("measuring"):
        found = measured(opened, n=n, steps=steps, seed=seed, only=names, inception_weights=inception_weights)
        if not names:
            gather(opened, found.evidence)
    if json:
        print(as_json({each.title: each._asdict() for each in found.metrics}, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "± s.e.", "protocol", box=None)
    for each in found.metrics:
        table.add_row(each.title, each.shown, each.shown_error, each.protocol)
    Console().print(table)
    return 0
