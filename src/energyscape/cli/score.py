"""Energies of given points: the lower, the likelier."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, complain, open_run, say, working


@app.command
def score(
    run: RunFolder, data: Path, /, *, out: Path = Path("scores.csv"), draws: int = 4, seed: int | None = None
) -> int:
    """Score points by their energy, for anomaly detection: the higher, the less likely.

    Where the model has learned noised data, an energy is the mean over draws of that noise.

    Args:
        run: The run's folder.
        data: An array (.npy, .npz), a table (.csv) or a picture (.png, .jpg) of one or many points.
        out: File of the table: index, energy over temperature, and quantile, the share of held-out data whose
            energy is no higher (near 1: an outlier).
        draws: Draws of the noise for each point.
        seed: Seed of the noise; the run's by default.
    """
    from energyscape.files import write_whole
    from energyscape.inference.files import read_points
    from energyscape.inference.scoring import check_table, quantiles, score_table

    check_table(out, draws)
    opened = open_run(run)
    experiment = opened.experiment()
    x = read_points(data, experiment.space.shape, extent=opened.extent())
    with working("scoring"):
        known, among = (experiment.source, "training") if experiment.unseen is None else (experiment.unseen, "held-out")
        scored = quantiles(experiment.trained, known, x, among=among, draws=draws, seed=seed)
    write_whole(out, score_table(scored).encode())
    if broken := int((~scored.energy.isfinite()).sum()):
        complain(f"{broken} of {len(x)} energies are not finite: those points are far from all that was learned")
    above = int((scored.quantile > 0.95).sum())
    say(f"{len(x):,} scored, {above:,} above 95 % of {scored.among}: {out}")
    return 0
