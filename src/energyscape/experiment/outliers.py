r"""Whether a trained energy knows what it has not learned: images of another kind, against trivial scores.

Scores are energies and the lengths of their gradients, as `scoring` averages them over noise, the same inside and
outside: with noise on one side only, that alone would decide. Trivial scores see the images without noise.

A third score asks whether both, and the length of the image, are such as training images have (`DensityOfStates`): a
black image is simpler than any digit, and an energy may be as low there.

References:
    Your classifier is secretly an energy based model (Grathwohl et al., 2020), section 5.3, for both scores.
    https://arxiv.org/abs/1912.03263
"""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from energyscape import plotting
from energyscape.data import DATASETS, Images
from energyscape.errors import UserError
from energyscape.evaluation import DensityOfStates, Detection, overlap, trivial_scores
from energyscape.evaluation.detection import compressed_size, pixel_mean, pixel_variance
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.generation import draw_data
from energyscape.experiment.scoring import BATCH, DRAWS, energies, slopes
from energyscape.noise import uniform_like
from energyscape.objectives import ReplayBuffer
from energyscape.registry import build
from energyscape.report import Section

OUTLIERS = 1_000
"""Images of each set, as far as there are any."""

REFERENCE = 6_000
"""Images of the training among which a nearest neighbour is looked for."""

SIBLINGS = ("mnist", "fashion-mnist", "kmnist")
"""Published sets of the same size and kind."""


class OODResult(NamedTuple):
    """What a trained energy and trivial scores say of images from inside and outside.

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
        """How it was done, in a line."""
        inside = len(self.energies["held-out"])
        lacking = f"; no files of {' and '.join(self.missing)}" if self.missing else ""
        noise = f"both + N(0, {self.level:g}²), mean of {DRAWS} draws; " if self.level > 0 else ""
        return f"{inside:,} held-out images; {noise}trivial scores without noise{lacking}"


def outlier_sets(
    experiment: Experiment, *, n: int = OUTLIERS, seed: int | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return images that a model has no business with, and the names of sets whose files are not there."""
    held_out = experiment.held_out
    assert isinstance(held_out, Images)
    sets: dict[str, Tensor] = {}
    missing = []
    for name in SIBLINGS if held_out.shape == (1, 28, 28) else ():
        if name == held_out.name:
            continue
        try:
            sets[name] = build(DATASETS, name, {"split": "test", "download": False}).floats(slice(0, n))
        except UserError:
            missing.append(name)
    like = torch.empty(n, *held_out.shape)
    generator = seeded(experiment, seed, "outliers", device="cpu")
    inside = held_out.floats(slice(0, n))
    shuffled = inside.flatten(1).gather(1, uniform_like(inside.flatten(1), generator=generator).argsort(1))
    sets["grey"] = (2 * uniform_like(like[:, :1, :1, :1], generator=generator) - 1).expand_as(like)
    sets["mid-grey"] = torch.zeros_like(like)
    sets["noise"] = 2 * uniform_like(like, generator=generator) - 1
    sets["shuffled pixels"] = shuffled.view_as(inside)
    return sets, missing


def survey(
    experiment: Experiment, *, samples: Tensor | None = None, n: int = OUTLIERS, seed: int | None = None
) -> OODResult:
    """Score held-out images and outliers."""
    train, held_out = experiment.source, experiment.held_out
    assert isinstance(train, Images)
    assert isinstance(held_out, Images)
    sets, missing = outlier_sets(experiment, n=n, seed=seed)
    pick = seeded(experiment, seed, "training images", device="cpu")
    reference = draw_data(train, min(len(train), REFERENCE), generator=pick)
    images = {"train": reference[:n], "held-out": held_out.floats(slice(0, n)), **sets}
    found = {name: energies(experiment, x, seed=seed) for name, x in images.items()}
    steep = {name: slopes(experiment, x, seed=seed) for name, x in images.items()}
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
    told = {
        name: {each: Detection.of(values, scores["held-out"][each]) for each, values in scores[name].items()}
        for name in sets
    }
    if (chains := _negatives(experiment, n, seed)) is not None:
        # Chains of noised data carry their noise already.
        with torch.no_grad():
            parts = [experiment.energy(part).double().cpu() for part in chains.split(BATCH)]
        found["negatives"] = torch.cat(parts) / experiment.objective.temperature
    if samples is not None:
        found["samples"] = energies(experiment, samples[:n], seed=seed)
    return OODResult(found, told, missing, experiment.level)


def _states(x: Tensor, energy: Tensor, slope: Tensor) -> Tensor:
    """Return the statistics that typicality is made of: energy, logarithm of the slope, and squared length."""
    return torch.stack([energy, slope.log(), x.flatten(1).square().sum(1).double()], 1)


def _plain(x: Tensor) -> Tensor:
    """Return statistics that nothing was learned for, to see what their typicality is worth alone."""
    return torch.stack([compressed_size(x), pixel_mean(x), pixel_variance(x)], 1)


def outlier_section(
    experiment: Experiment, *, samples: Tensor | None = None, surveyed: OODResult | None = None, seed: int | None = None
) -> Section:
    """Return the part of a report that tells what the energy makes of images that it has not learned."""
    told = survey(experiment, samples=samples, seed=seed) if surveyed is None else surveyed
    names = list(next(iter(told.detections.values())))
    rows: list[tuple[object, ...]] = [("AUROC of", *names, "AUPR, energy", "FPR95, energy", "overlap of energies")]
    for name, each in told.detections.items():
        energy = each["energy"]
        common = overlap(told.energies[name], told.energies["held-out"])
        rows.append((name, *(each[score].auroc for score in names), energy.aupr, energy.fpr95, common))
    others = [name for name in told.energies if name not in told.detections and name != "held-out"]
    shared = {name: overlap(told.energies[name], told.energies["held-out"]) for name in others}
    alike = ", ".join(f"{name} {share:.2f}" for name, share in shared.items())
    text = (
        "How often an outlier scores above a held-out image: 1 is perfect, 0.5 chance, and below it low scores tell "
        f"outliers. Energy, slope and typicality have learned; the others have not. {told.protocol}.\n\n"
        f"Overlap of energies with those of held-out images, where 1 is alike: {alike}."
    )
    caption = (
        "Energies over temperature of what was learned, what the chains make and what was never seen; "
        "beyond the limits there is no bar, but a number in the legend"
    )
    return Section("What the energy does not know", text, figures=((_histogram(told), caption),), table=rows)


def _histogram(told: OODResult) -> Picture:
    """Draw energies between limits that held-out images set: outliers may lie a thousand times as far."""
    inside = told.energies["held-out"]
    low, middle, high = (
        inside[inside.isfinite()].quantile(torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)).tolist()
    )
    reach = 4 * max(high - low, 1e-12)
    first = ("train", "held-out", "negatives", "samples")
    names = [name for name in first if name in told.energies]
    names += [name for name in told.energies if name not in (*first, "mid-grey", "shuffled pixels")]
    shown = {}
    for name in names:
        near = (told.energies[name] - middle).abs() <= reach
        beyond = len(near) - int(near.sum())
        shown[f"{name} ({beyond:,} of {len(near):,} beyond)" if beyond else name] = told.energies[name][near]
    return plotting.histogram(shown, "energy / T", bins=80, title="Energies")


def _negatives(experiment: Experiment, n: int, seed: int | None) -> Tensor | None:
    """Return chains of the replay buffer, or none."""
    for module in experiment.objective.modules():
        if isinstance(module, ReplayBuffer) and module.chains.numel():
            slots = torch.arange(min(n, module.capacity), device=module.chains.device)
            return module.positions(slots, generator=seeded(experiment, seed, "negatives"))
    return None
