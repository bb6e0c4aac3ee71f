r"""Compare energyscape with its nearest peer, TorchEBM 0.8.9, by exact KL.

Each objective that both libraries have trains the same network, from the same weights, on the same batches of the same
density, for the same CPU time on one thread. The same quadrature measures the results,

.. math:: \operatorname{KL}(p \,\|\, q) = \int p(x) \log \frac{p(x)}{q(x)}\, dx, \qquad q(x) = e^{-E(x) / T} / Z .

energyscape runs its shipped recipe, once. The peer runs in several settings, its documented ones and ours, each with
its last weights and with averaged ones. The best of all, chosen afterwards, counts.

Every training runs in its own process. ``cells.jsonl`` keeps finished ones, so the same command continues after Ctrl-C.
"""

import csv
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import peer
import torch
import torchebm
from cyclopts import App
from rich.console import Console
from rich.table import Table

import energyscape as es
from energyscape.calculus import EnergyFn
from energyscape.data import DATASETS
from energyscape.errors import UserError, did_you_mean
from energyscape.evaluation import kl, mode_masses
from energyscape.recipe import Experiment, Recipe, recipe_names
from energyscape.training import Verdict

OURS: Final = "energyscape"
"""The setting that is not one of the peer's."""

SHARE: Final = 0.98
"""Of the seconds that our training may count: its clock leaves snapshots out, and it is to have less, never more."""

EDGE: Final = 1e-3
"""Mass at the edge of the widest box beyond which a KL is not believed."""

app = App(help="energyscape's KL against the best that TorchEBM reaches in the same processor time.")


class Cell(NamedTuple):
    """One training.

    Args:
        objective: One of the peer's documented ones.
        setting: `OURS`, or one of the peer's.
        seed: Of the weights, the batches and all that training draws.
        seconds: Of processor time.
        recipe: The sections of our recipe, every default filled in; of it the peer has the law, the network and the
            weights.
        peer: How to use the peer, for the peer.
        versions: Of the libraries.
    """

    objective: str
    setting: str
    seed: int
    seconds: float
    recipe: dict[str, Any]
    peer: list[Any] | None
    versions: list[str]

    @property
    def key(self) -> str:
        """The cell as text, by which a finished one is recognised."""
        return json.dumps(self._asdict(), sort_keys=True)


class Score(NamedTuple):
    """The result of one cell with its last or its averaged weights.

    Args:
        objective: Which.
        setting: `OURS`, or one of the peer's.
        weights: ``last`` or ``average``.
        seed: Of everything random.
        kl: KL(law‖model) in nats; infinite where it is not to be believed.
        error: Of the quadrature.
        worst_mode: Least mass of a mode, over the law's own; NaN for laws without modes.
        steps: Of the optimiser.
        cpu_seconds: Processor time of training.
    """

    objective: str
    setting: str
    weights: str
    seed: int
    kl: float
    error: float
    worst_mode: float
    steps: int
    cpu_seconds: float


class Entrant(NamedTuple):
    """A setting, with all its seeds.

    Args:
        name: The setting, and which weights.
        scores: Its scores.
    """

    name: str
    scores: list[Score]

    @property
    def kl(self) -> float:
        """Mean KL over the seeds."""
        return statistics.fmean(each.kl for each in self.scores)

    def row(self) -> list[str]:
        """Return what there is to show of it."""
        values, error = [each.kl for each in self.scores], math.nan
        if len(values) > 1 and math.isfinite(self.kl):
            error = statistics.stdev(values) / math.sqrt(len(values))
        worst = min(each.worst_mode for each in self.scores)
        steps = statistics.fmean(each.steps for each in self.scores)
        spent = max(each.cpu_seconds for each in self.scores)
        shown = f"{error:.1g}" if math.isfinite(error) else "–"
        return [self.name, f"{self.kl:.4g}", shown, f"{worst:.2f}", f"{steps:,.0f}", f"{spent:.1f}"]


def shipped(law: str, objective: str, *, seed: int, seconds: float) -> Recipe:
    """Return our recipe for an objective, with the law, the seed and the budget exchanged.

    Args:
        law: Its name.
        objective: One of the peer's documented ones.
        seed: Of everything random.
        seconds: Of processor time.
    """
    overrides = {
        "data.name": law,
        "train.budget": f"{SHARE * seconds:g} cpu-s",
        "train.seed": str(seed),
        "train.threads": "1",
    }
    name = f"8gaussians-{objective}"
    if name not in recipe_names():  # CD-k is persistent CD whose chains start at the data
        name, overrides["objective.start.name"] = "8gaussians-pcd", "data"
    return Recipe.named(name, overrides).resolved()


def plan(
    law: str, objectives: Sequence[str], *, seeds: int, seconds: float, settings: Sequence[str] | None = None
) -> Iterator[Cell]:
    """Yield the cells, seed by seed.

    Args:
        law: Name of a law in the plane.
        objectives: Some of the peer's documented ones.
        seeds: How many.
        seconds: Of processor time.
        settings: Of the peer; all when left out.
    """
    versions = [es.__version__, torchebm.__version__, torch.__version__]
    for seed in range(seeds):
        for objective in objectives:
            recipe = shipped(law, objective, seed=seed, seconds=seconds)
            yield Cell(objective, OURS, seed, seconds, recipe.tables, None, versions)
            for name, setting in peer.settings_for(objective, recipe).items():
                if settings is None or name in settings:
                    yield Cell(objective, name, seed, seconds, recipe.tables, list(setting), versions)


def scored(cell: Cell) -> list[Score]:
    """Train one cell and measures what it has learned.

    Args:
        cell: Which.

    Raises:
        UserError: If our training stopped before its time.
    """
    torch.set_num_threads(1)
    experiment = Experiment(Recipe(cell.objective, cell.recipe))
    law = experiment.source
    assert isinstance(law, es.Distribution)
    if cell.peer is None:
        fit, begun = experiment.fit(), time.process_time()
        *_, last = fit
        spent = time.process_time() - begun
        if last.verdict == Verdict.STOP:
            raise UserError(f"training stopped: {last.reason}")
        steps, temperature = last.step, experiment.objective.temperature
        learned: dict[str, EnergyFn] = {
            "last" if experiment.average is None else "average": experiment.trained.require_energy()
        }
    else:
        setting = peer.Setting(*cell.peer)
        found = peer.train(experiment, setting, seed=cell.seed, seconds=cell.seconds)
        steps, spent, temperature = found.steps, found.cpu_seconds, setting.temperature
        learned = {"last": found.last, "average": found.average}
    name = cell.objective, cell.setting
    return [
        Score(*name, weights, cell.seed, *measured(law, energy, temperature=temperature), steps, spent)
        for weights, energy in learned.items()
    ]


def measured(law: es.Distribution, energy: EnergyFn, *, temperature: float) -> tuple[float, float, float]:
    """Return the KL, its error, and the worst mode's share of its mass.

    Args:
        law: The truth.
        energy: What was learned.
        temperature: Of the density that it means.
    """
    divergence = kl(law, energy, temperature=temperature)
    believed = math.isfinite(divergence.value) and divergence.edge_mass <= EDGE
    worst = math.nan
    if law.modes is not None:
        own = mode_masses(law, lambda x: -law.log_prob(x))
        worst = float((mode_masses(law, energy, temperature=temperature) / own).min())
    return divergence.value if believed else math.inf, divergence.error, worst


def kept(path: Path) -> dict[str, list[Score]]:
    """Read the finished cells; a line that was cut off is none.

    Args:
        path: Of ``cells.jsonl``.
    """
    finished = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        finished[json.dumps(entry["cell"], sort_keys=True)] = [Score(*each) for each in entry["scores"]]
    return finished


def run(cell: Cell) -> list[Score] | None:
    """Run a cell in a process of its own; return nothing if it failed.

    Args:
        cell: Which.
    """
    child = subprocess.run(
        [sys.executable, __file__, "cell"],
        input=cell.key,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    if child.returncode:
        print(f"  failed: {(child.stderr.strip() or '?').splitlines()[-1]}", file=sys.stderr)
        return None
    return [Score(*each) for each in json.loads(child.stdout)]


def fill(cells: Sequence[Cell], path: Path) -> int:
    """Run the cells that are not there yet; return the exit status.

    Args:
        cells: All of them.
        path: Of ``cells.jsonl``.
    """
    status, finished = 0, kept(path)
    try:
        for i, cell in enumerate(cells, 1):
            if cell.key in finished:
                continue
            print(f"{i}/{len(cells)} {cell.objective}, {cell.setting}, seed {cell.seed}", file=sys.stderr, flush=True)
            scores = run(cell)
            if scores is None:
                status = 2
                continue
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell._asdict(), "scores": scores}) + "\n")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return status


def entrants(scores: Sequence[Score], objective: str, *, ours: bool) -> list[Entrant]:
    """Return the settings of one library with an objective, the lowest mean KL first.

    Args:
        scores: Of all cells.
        objective: Which.
        ours: Whether of energyscape.
    """
    groups: dict[str, list[Score]] = {}
    for each in scores:
        if each.objective == objective and (each.setting == OURS) == ours:
            groups.setdefault(f"{each.setting}, {each.weights} weights", []).append(each)
    return sorted((Entrant(*group) for group in groups.items()), key=lambda entrant: entrant.kl)


def show(scores: Sequence[Score], title: str) -> bool:
    """Print what each library reached, and return whether our KL is lower with every objective.

    Args:
        scores: Of all cells.
        title: Of the table.
    """
    head = ["objective", "library, setting", "KL, nats", "± s.e.", "worst mode", "steps", "CPU s", "KL / ours"]
    board, lower = Table(*head, title=title), True
    for objective in dict.fromkeys(each.objective for each in scores):
        ours, peers = (entrants(scores, objective, ours=each) for each in (True, False))
        if ours and peers:
            lower &= ours[0].kl < peers[0].kl
            for entrant in (*ours, *peers):
                name = objective if entrant is ours[0] else ""
                board.add_row(name, *entrant.row(), f"{entrant.kl / ours[0].kl:.3g}")
            board.add_section()
    if board.rows:
        Console(width=110).print(board)
    return lower and bool(board.rows)


@app.default
def main(
    *,
    law: str = "8gaussians",
    objectives: str = "all",
    settings: str = "all",
    seeds: int = 3,
    seconds: float = 60.0,
    out: Path | None = None,
) -> int:
    """Run the cells that have not been run, and print and write the scoreboard.

    The exit status is 0 if energyscape's KL is lower than the best of the peer's with every objective, 1 if not, 2 if
    a cell failed or the request is mistaken, 130 after Ctrl-C.

    Args:
        law: A law in the plane, by name.
        objectives: Some of sm, ssm, dsm, cd, pcd with commas between them, or all.
        settings: Of the peer: documented, decayed, matched, fine, hmc, with commas between them, or all.
        seeds: How many; they are 0, 1, 2, ….
        seconds: Of processor time for each training.
        out: Where cells.jsonl and the table go; runs/peer-kl when left out.
    """
    known = list(peer.DOCUMENTED)
    names = known if objectives == "all" else [name.strip() for name in objectives.split(",")]
    for name in names:
        if name not in known:
            raise UserError(
                f"no objective {name!r} that both have{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
    source: object = DATASETS[law]
    if not (isinstance(source, type) and issubclass(source, es.Distribution)):
        raise UserError(f"{law!r} is no law in the plane, so there is no exact truth to compare with")
    if seeds < 1 or not 0 < seconds < math.inf:
        raise UserError(f"seeds are at least 1 and seconds positive; they were {seeds} and {seconds}")
    apart = peer.disagreements(Experiment(shipped(law, "sm", seed=0, seconds=seconds)))
    words = ", ".join(f"{what} {value:.2g}" for what, value in apart.items())
    print(f"disagreement, in units of what is allowed: {words}", file=sys.stderr)
    if not max(apart.values()) <= 1:
        raise UserError("the libraries do not agree where they must, so that a comparison would mean nothing")
    folder = out or Path("runs/peer-kl")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = None if settings == "all" else [name.strip() for name in settings.split(",")]
    cells = list(plan(law, names, seeds=seeds, seconds=seconds, settings=wanted))
    status, finished = fill(cells, folder / "cells.jsonl"), kept(folder / "cells.jsonl")
    scores = [each for cell in cells for each in finished.get(cell.key, [])]
    with (folder / f"{law}-{seconds:g}s.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([Score._fields, *scores])
    lower = show(scores, f"{law}, {seconds:g} s of processor time, seeds: {seeds}")
    return status or (0 if lower else 1)


@app.command(name="cell", show=False)
def one() -> None:
    """Run the cell on standard input."""
    print(json.dumps(scored(Cell(**json.loads(sys.stdin.read())))))


if __name__ == "__main__":
    try:
        sys.exit(app(result_action="return_value"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
