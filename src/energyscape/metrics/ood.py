r"""Detection of images of another kind by a trained energy, against trivial scores.

Scores are energies and the lengths of their gradients, as `scoring` averages them over noise, the same inside and
outside: with noise on one side only, that alone would decide. Trivial scores see the images without noise.

A third score compares both, and the length of the image, with those of training images (`DensityOfStates`): a black
image is simpler than any digit, and an energy may be as low there.

References:
    Your classifier is secretly an energy based model (Grathwohl et al., 2020), section 5.3, for both scores.
    https://arxiv.org/abs/1912.03263
"""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from energyscape.data import DATASETS, Dataset
from energyscape.errors import UserError
from energyscape.evaluation import DensityOfStates, Detection, overlap, trivial_scores
from energyscape.evaluation.detection import compressed_size, pixel_mean, pixel_variance
from energyscape.inference.scoring import BATCH, DRAWS, energies, slopes
from energyscape.metrics.evidence import Evidence, numbers
from energyscape.metrics.images import REFERENCE
from energyscape.metrics.metric import Measure, Metric
from energyscape.noise import uniform_like
from energyscape.objectives.chain_init import persistent_chains
from energyscape.registry import build

OUTLIERS = 1_000
"""Images of each set, as far as there are any."""

SIBLINGS = ("mnist", "fashion-mnist", "kmnist")
"""Published sets of the same size and kind."""


class OODResult(NamedTuple):
    """Scores of a trained energy, and trivial scores, for images inside and outside.

    Args:
        energies: Averaged energies over temperature, by set, of which "held-out" is the inside and "train",
            "negatives" and "samples" are no outliers.
        detections: By set of outliers and by score.
        missing: Published sets whose files are not there.
        level: Standard deviation of the noise, in units of ``x``.
    """

    energies: dict[str, Tensor]
    detections: dict[str, dict[str, Detection]]
    missing: list[str]
    level: float

    @property
    def protocol(self) -> str:
        """The protocol, in one line."""
        inside = len(self.energies["held-out"])
        lacking = f"; no files of {' and '.join(self.missing)}" if self.missing else ""
        noise = f"both + N(0, {self.level:g}²), mean of {DRAWS} draws; " if self.level > 0 else ""
        return f"{inside:,} held-out images; {noise}trivial scores without noise{lacking}"


@final
class Outliers(Measure):
    """Detection of outliers by energy and by trivial scores, and overlap of the energies of inliers."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.chains is not None and evidence.source.space.is_image

    def measure(self, evidence: Evidence) -> list[Metric]:
        return ood_metrics(survey(evidence))


def ood_metrics(result: OODResult) -> list[Metric]:
    """Return AUROC by set and score, and the overlap of energies with those of held-out images."""
    metrics = []
    for name, scores in result.detections.items():
        for each, found in scores.items():
            protocol = f"AUPR {found.aupr:.3f}, FPR95 {found.fpr95:.3f}; {found.outside:,} against {result.protocol}"
            metrics.append(Metric(f"AUROC {name}, {each}", found.auroc, found.error, protocol, better="higher"))
    for name in result.energies:
        if name in result.detections or name == "held-out":
            continue
        common = overlap(result.energies[name], result.energies["held-out"])
        protocol = "with held-out images; 1: alike"
        metrics.append(Metric(f"energy overlap, {name}", common, None, protocol, better="near 1"))
    return metrics


def outlier_sets(evidence: Evidence, *, n: int = OUTLIERS) -> tuple[dict[str, Tensor], list[str]]:
    """Return images that a model has no business with, and the names of sets whose files are not there."""
    held_out = evidence.held_out
    sets: dict[str, Tensor] = {}
    missing = []
    for name in SIBLINGS if held_out.shape == (1, 28, 28) else ():
        if name == held_out.name:
            continue
        try:
            other: Dataset = build(DATASETS, name, {"split": "test", "download": False})
            sets[name] = other.head(n)
        except UserError:
            missing.append(name)
    like, generator = torch.empty(n, *held_out.shape), evidence.stream("outliers")
    inside = held_out.head(n)
    shuffled = inside.flatten(1).gather(1, uniform_like(inside.flatten(1), generator=generator).argsort(1))
    sets["grey"] = (2 * uniform_like(like[:, :1, :1, :1], generator=generator) - 1).expand_as(like)
    sets["mid-grey"] = torch.zeros_like(like)
    sets["noise"] = 2 * uniform_like(like, generator=generator) - 1
    sets["shuffled pixels"] = shuffled.view_as(inside)
    return sets, missing


def survey(evidence: Evidence) -> OODResult:
    """Score held-out images, outliers and samples."""

    def draw() -> tuple[dict[str, Tensor], dict[str, Any]]:
        result = _scored(evidence, OUTLIERS)
        detections = {name: {key: [*found] for key, found in each.items()} for name, each in result.detections.items()}
        return result.energies, {"order": [*result.energies], "detections": detections, "missing": result.missing}

    energies_of, facts = evidence.kept("outliers", draw)
    found = {name: {key: _detection(one) for key, one in each.items()} for name, each in facts["detections"].items()}
    ordered = {name: energies_of[name] for name in facts["order"]}
    return OODResult(ordered, found, facts["missing"], evidence.trained.level)


def _detection(stored: list[float | None]) -> Detection:
    auroc, error, aupr, fpr95, inside, outside = numbers(stored)
    return Detection(auroc, error, aupr, fpr95, int(inside), int(outside))


def _scored(evidence: Evidence, n: int) -> OODResult:
    source, held_out, trained = evidence.source, evidence.held_out, evidence.trained
    sets, missing = outlier_sets(evidence, n=n)
    many = min(source.size or REFERENCE, REFERENCE)
    reference = source.draw(many, generator=evidence.stream("training images"))
    images = {"train": reference[:n], "held-out": held_out.head(n), **sets}
    found = {name: energies(trained, x, seed=evidence.seed) for name, x in images.items()}
    steep = {name: slopes(trained, x, seed=evidence.seed) for name, x in images.items()}
    states = {name: _states(x, found[name], steep[name]) for name, x in images.items()}
    rare, trivial = DensityOfStates(states["train"]), trivial_scores(reference)
    plain = DensityOfStates(_plain(images["train"]))
    scores = {
        name: {
            "energy": found[name],
            "slope": steep[name],
            "typicality": rare(states[name]),
            **{each: value(images[name]) for each, value in trivial.items()},
            "trivial typicality": plain(_plain(images[name])),
        }
        for name in ("held-out", *sets)
    }
    detections = {
        name: {each: Detection.of(values, scores["held-out"][each]) for each, values in scores[name].items()}
        for name in sets
    }
    if (chains := _negatives(evidence, n)) is not None:
        # Chains of noised data carry their noise already.
        energy = trained.require_energy()
        with torch.no_grad():
            parts = [energy(part).double().cpu() for part in chains.split(BATCH)]
        found["negatives"] = torch.cat(parts) / trained.temperature
    found["samples"] = energies(trained, evidence.generated.x[:n], seed=evidence.seed)
    return OODResult(found, detections, missing, trained.level)


def _states(x: Tensor, energy: Tensor, slope: Tensor) -> Tensor:
    """Return the statistics that typicality is made of: energy, logarithm of the slope, and squared length."""
    return torch.stack([energy, slope.log(), x.flatten(1).square().sum(1).double()], 1)


def _plain(x: Tensor) -> Tensor:
    """Return untrained statistics, as a baseline for their typicality."""
    return torch.stack([compressed_size(x), pixel_mean(x), pixel_variance(x)], 1)


def _negatives(evidence: Evidence, n: int) -> Tensor | None:
    """Return chains of the replay buffer, or none."""
    buffer = persistent_chains(evidence.trained.objective)
    if buffer is None:
        return None
    slots = torch.arange(min(n, buffer.capacity), device=buffer.chains.device)
    return buffer.positions(slots, generator=evidence.stream("negatives", device=evidence.trained.device))
