"""What the page of a denoiser's run shows."""

import functools
import math

import torch
from torch import Tensor

from energyscape import plotting
from energyscape.data import Distribution, Images
from energyscape.evaluation import Classifier, classifier_for
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.descents import by_level, costs, likelihood_figures
from energyscape.experiment.figure import Figure
from energyscape.experiment.generation import draw_data, generate
from energyscape.experiment.measures import MIN_CLASSIFIER_IMAGES, REPORT_SAMPLES, against_truth, of_samples
from energyscape.experiment.restorations import denoising_section, inpainting_section, restorations
from energyscape.experiment.solving import known_classes
from energyscape.report import Section

IN_A_ROW = 10
"""Samples of one class, or images beside each other."""


def in_the_plane(
    experiment: Experiment, law: Distribution, *, seed: int | None = None
) -> tuple[list[Figure], list[Section]]:
    """Return the figures and sections of a denoiser of points."""
    figures = against_truth(experiment, law, seed=seed)
    generated = generate(experiment, 2_000, seed=seed, shown=6, frames=40)
    data = law.sample(2_000, generator=seeded(experiment, seed, "data", device="cpu"))
    pictures = [(plotting.real_and_generated(data, generated.x, law.box), "Data, and as many samples")]
    return figures, [Section("Data and samples", _made(experiment), tuple(pictures)), level_section(experiment, seed)]


def of_images(experiment: Experiment, source: Images, *, seed: int | None = None) -> tuple[list[Figure], list[Section]]:
    """Return the figures and sections of a denoiser of images."""
    generated = generate(experiment, REPORT_SAMPLES, seed=seed)
    real = draw_data(source, 4 * IN_A_ROW, generator=seeded(experiment, seed, "real", device="cpu"))
    restored = restorations(experiment, seed=seed)
    figures = [*of_samples(experiment, generated.x, seed=seed), *likelihood_figures(experiment, seed=seed)]
    shown = _by_class(experiment, generated.x)
    sections = [
        Section(
            "Real and generated",
            f"{_made(experiment)} {'A row a class; they' if known_classes(experiment) else 'They'} were not selected.",
            (
                (plotting.image_grid(real, columns=IN_A_ROW), "Real images"),
                (plotting.image_grid(shown, columns=IN_A_ROW), "Generated images"),
            ),
        ),
        Section(
            "From noise to image",
            "Each row is one sample; each column a noise level, from the highest to none. Noise beyond black and white "
            "is cut off in the picture only.",
            ((plotting.evolution(generated.path.clamp(-1, 1), generated.at), "Samples on their way"),),
        ),
        level_section(experiment, seed),
        denoising_section(experiment, restored),
        inpainting_section(experiment, seed=seed),
    ]
    if source.labels is not None and len(source) >= MIN_CLASSIFIER_IMAGES:
        sections.insert(3, cost_section(experiment, classifier_for(source), seed))
    return figures + [figure for each in restored for figure in each.figures()], sections


def _made(experiment: Experiment) -> str:
    sampling = experiment.solving
    name = experiment.recipe.tables["sampler"]["solver"]["name"]
    return (
        f"Samples begin as noise of deviation {sampling.levels()[0]:g} and come down in {sampling.steps} steps of "
        f"{name}, {sampling.evaluations()} evaluations of the denoiser."
    )


def _by_class(experiment: Experiment, x: Tensor) -> Tensor:
    """Return some samples, in rows of one class where there are classes; they were made of each class in turn."""
    if not (classes := known_classes(experiment)):
        return x[: 4 * IN_A_ROW]
    return torch.cat([x[k::classes][:IN_A_ROW] for k in range(classes)])


def level_section(experiment: Experiment, seed: int | None) -> Section:
    """Return how well the denoiser does at each noise level."""
    told = by_level(experiment, seed=seed)
    at = [math.log10(sigma) for sigma in told.sigma]
    curves = functools.partial(plotting.curves, at, xlabel="log₁₀ σ", smooth=1)
    left, norms = {"left of the noise": told.error}, {"norm": told.norm, "1 − error": [1 - e for e in told.error]}
    error = curves(left, title="Error by noise level", ylabel="E|D − x|² / dσ²")
    norm = curves(norms, title="The score's squared norm", ylabel="E|σ s|² / d")
    worst = max(told.imbalance, key=abs)
    text = (
        "On held-out data, no class told. One means that nothing of the noise is removed. The posterior mean is "
        "orthogonal to its error, so that the squared norm of σ times its score is one minus that error: where the two "
        f"curves part, the score is too large or too small. The largest difference is {worst:+.2g}."
    )
    return Section("Noise levels", text, ((error, "Error by noise level"), (norm, "Norm of the score by noise level")))


def cost_section(experiment: Experiment, judge: Classifier, seed: int | None) -> Section:
    """Return quality against the number of evaluations, for several solvers."""
    found = costs(experiment, judge, seed=seed)
    table: list[tuple[object, ...]] = [("solver", "evaluations", "Fréchet distance")]
    table += [(each.solver, each.nfe, each.distance) for each in found]
    text = (
        "250 samples each, from the same noise, against held-out images on a classifier's features. So few samples "
        "overstate the distance, all alike: compare the rows with each other only."
    )
    return Section("Quality and cost", text, table=table)
