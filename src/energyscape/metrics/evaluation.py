"""The record of an evaluation: ``evaluation.json`` in the run, which report and doctor read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from energyscape import __version__
from energyscape.errors import UserError
from energyscape.evaluation import read_inception
from energyscape.files import as_json, foreign, read_json, write_whole
from energyscape.metrics import METRICS
from energyscape.metrics.evidence import SAMPLES, Evidence, digest_of, numbers
from energyscape.metrics.images import everything
from energyscape.metrics.metric import Measure, Metric
from energyscape.runs import Run

RECORD: Final = "evaluation.json"
DRAWS: Final = "evaluation"
"""Folder of the samples that were judged, and of other draws."""


class Evaluation(NamedTuple):
    """The results of an evaluation.

    Args:
        evidence: The evidence behind them.
        families: Entries of `METRICS` and their numbers.
    """

    evidence: Evidence
    families: dict[str, list[Metric]]

    @property
    def metrics(self) -> list[Metric]:
        """All numbers, in the order of `METRICS`, then those of a user's own."""
        own = [name for name in self.families if ":" in name]
        return [metric for name in (*METRICS, *own) for metric in self.families.get(name, [])]


def protocol_of(run: Run, *, seed: int | None = None) -> dict[str, Any]:
    """Return n, steps and seed of the run's record, so that pages show what was measured; a given seed comes first."""
    path = run.path / RECORD
    record = read_json(path, "an evaluation; delete it") if path.exists() else {}
    recorded = {name: record[name] for name in ("n", "steps", "seed") if type(record.get(name)) is int}
    return recorded | ({} if seed is None else {"seed": seed})


def evaluate(
    run: Run,
    *,
    n: int = SAMPLES,
    steps: int | None = None,
    seed: int | None = None,
    only: Sequence[str] = (),
    inception_weights: Path | None = None,
) -> Evaluation:
    """Measure a run, or read what was measured before of the same checkpoint, seed, n and steps.

    Args:
        run: With at least one checkpoint.
        n: Samples that are judged.
        steps: Steps of the chains that draw them; the recipe's by default.
        seed: Seed of all random streams; the run's by default.
        only: Names of `METRICS`; all that apply by default.
        inception_weights: Weights of the Inception network for published Fréchet distances.

    Raises:
        UserError: If a name is unknown or does not apply to the run, or the weights cannot be used.
    """
    evidence = Evidence(run.experiment(), n=n, steps=steps, seed=seed, folder=run.path / DRAWS)
    if inception_weights is not None:
        if not evidence.source.space.is_image:
            raise UserError("Inception's features are of images; this run's are points: leave --inception-weights out")
        evidence.inception = read_inception(inception_weights)
    measures: dict[str, Measure] = {name: METRICS[name]() for name in only or METRICS}
    applying = {name: each for name, each in measures.items() if each.applies(evidence)}
    if only and (idle := [name for name in measures if name not in applying]):
        raise UserError(f"{', '.join(idle)}: not a metric of this run; those are {', '.join(_applying(evidence))}")
    known = _read(run.path / RECORD, evidence)
    found = {name: known[name] if name in known else each.measure(evidence) for name, each in applying.items()}
    if any(name not in known for name in found):
        kept = {name: each for name, each in (known | found).items() if name != "inception"}  # of weights from outside
        write_whole(run.path / RECORD, _record(evidence, kept).encode())
    return Evaluation(evidence, found)


def _applying(evidence: Evidence) -> list[str]:
    return [name for name, each in METRICS.items() if each().applies(evidence)]


def _record(evidence: Evidence, families: dict[str, list[Metric]]) -> str:
    facts = {
        "energyscape": __version__,
        "origin": evidence.origin,
        "checkpoint": evidence.checkpoint,
        "seed": evidence.seed,
        "n": evidence.n,
        "steps": evidence.steps,
        "classifier": _classifier(evidence),
        "metrics": {name: [each._asdict() for each in metrics] for name, metrics in families.items()},
    }
    return as_json(facts, indent=2)


def _classifier(evidence: Evidence) -> dict[str, Any] | None:
    """Return which network judged the samples: its digest, seed and accuracy on held-out images."""
    judge, labels = evidence.classifier, evidence.held_out.labels
    if judge is None:
        return None
    accuracy = None
    if labels is not None:
        x = everything(evidence.held_out)
        named = judge.probabilities(x)[:, : judge.classes].argmax(1)
        accuracy = float((named == labels[: len(x)]).double().mean())
    return {"sha256": digest_of(judge.state_dict()), "seed": 0, "accuracy": accuracy}


def _read(path: Path, evidence: Evidence) -> dict[str, list[Metric]]:
    """Return the numbers of a record of the same evidence; none of another."""
    if not path.exists():
        return {}
    record = read_json(path, "an evaluation; delete it")
    if record.get("origin") != evidence.origin:
        return {}
    with foreign(f"{path} is no evaluation: delete it"):
        families = {name: [_metric(each) for each in rows] for name, rows in record["metrics"].items()}
    return {name: each for name, each in families.items() if name in METRICS}


def _metric(row: dict[str, Any]) -> Metric:
    (value,) = numbers([row["value"]])
    metric = Metric(**{**row, "value": float(value)})
    texts = (metric.name, metric.protocol, metric.unit, metric.better)
    if not isinstance(metric.error, float | int | None) or not all(isinstance(each, str) for each in texts):
        raise TypeError(f"{str(row)[:100]} is no number with its protocol")
    return metric
