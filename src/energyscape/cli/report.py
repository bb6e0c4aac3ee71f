"""Write the page of a run."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, open_run, say, working


@app.command
def report(run: RunFolder, /, *, out: Path | None = None, seed: int | None = None) -> int:
    """Write a run's page: its recipe, its training and its samples, in one self-contained file.

    Args:
        run: The run's folder.
        out: File to write; RUN/report.html by default.
        seed: Seed of the chains; the run's by default.
    """
    from energyscape.files import write_whole
    from energyscape.reports.run_page import run_page

    opened = open_run(run)
    path = out or opened.path / "report.html"
    with working("measuring and drawing"):
        page = run_page(opened, seed=seed)
    write_whole(path, page.encode())
    say(f"report: {path}")
    return 0
