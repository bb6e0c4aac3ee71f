"""The page of a run: rendered from its record, its evaluation and the draws that were kept with it."""

import functools
import math
from collections.abc import Mapping
from typing import Final

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from energyscape import plotting
from energyscape.calculus import Box, score
from energyscape.doctor import RULES, Record
from energyscape.doctor.from_run import examine
from energyscape.doctor.record import WINDOW, autocorrelation
from energyscape.evaluation import overlap
from energyscape.inference import Chains, Descent
from energyscape.inference.scoring import energies_on_grid
from energyscape.metrics import Evidence
from energyscape.metrics.denoisers import COST_SAMPLES, by_level, costs
from energyscape.metrics.evaluation import evaluate, protocol_of
from energyscape.metrics.ood import OODResult, survey
from energyscape.metrics.restoration import completions, masks, restorations
from energyscape.objectives.facts import Column
from energyscape.reports.html import Section, page
from energyscape.runs import Run

ARROWS: Final = 21
"""Arrows along each side of a score field."""

COLUMNS: Final = 10
"""Images in a row, and samples of one class."""

SHOWN: Final = 12
"""Restored images in a row."""


def run_page(run: Run, *, seed: int | None = None) -> str:
    """Return a run's page, one HTML file that needs no network."""
    evaluation = evaluate(run, **protocol_of(run, seed=seed))
    evidence = evaluation.evidence
    table: list[tuple[object, ...]] = [("metric", "value", "± s.e.", "protocol")]
    table += [(each.title, each.shown, each.shown_error, each.protocol) for each in evaluation.metrics]
    tables = evidence.experiment.recipe.tables
    subtitle = f"{tables['objective']['name']} on {tables['data']['name']}, seed {evidence.experiment.training.seed}"
    stop = [Section("A guard stopped the training", why)] if (why := run.stopped()) else []
    sections = [
        *stop,
        Section("What was measured", "", table=table),
        *gallery(evidence),
        *_course(run),
        examined(run, seed=seed),
        Section("The recipe", pre=run.recipe().text()),
    ]
    return page(run.path.name, sections, subtitle=subtitle)


def gather(run: Run, evidence: Evidence) -> None:
    """Draw what a page shows besides numbers, so that the page draws nothing itself."""
    if evidence.source.space.is_image:
        completions(evidence)
    if evidence.descent is not None and evidence.classifier is not None:
        costs(evidence)
    examine(run, seed=evidence.seed)


def gallery(evidence: Evidence) -> list[Section]:
    """Return what the model makes: everything that is drawn for it is kept with the evaluation."""
    sections = _images(evidence) if evidence.source.space.is_image else _points(evidence)
    if evidence.descent is not None:
        sections.append(level_section(evidence))
        if evidence.classifier is not None:
            sections.append(cost_section(evidence))
    if evidence.source.space.is_image:
        sections += [denoising_section(evidence), inpainting_section(evidence)]
        sections += [outlier_section(evidence)] if evidence.chains is not None else []
    return sections


def _images(evidence: Evidence) -> list[Section]:
    generated, classes = evidence.generated, evidence.trained.classes
    real = evidence.source.draw(4 * COLUMNS, generator=evidence.stream("real"))
    x = generated.x
    # Samples were made of each class in turn: a row shows one class.
    shown = torch.cat([x[k::classes][:COLUMNS] for k in range(classes)]) if classes else x[: 4 * COLUMNS]
    return [
        Section(
            "Real and generated",
            f"{_start(evidence)} {'A row a class; they' if classes else 'They'} were not selected.",
            (
                (plotting.image_grid(real, columns=COLUMNS), "Real images"),
                (plotting.image_grid(shown, columns=COLUMNS), "Generated images"),
            ),
        ),
        Section(
            "From noise to image",
            "Each row is one sample, from noise to the finished image. Noise beyond black and white is cut off.",
            ((plotting.evolution(generated.path.clamp(-1, 1), generated.at), "Samples on their way"),),
        ),
    ]


def _start(evidence: Evidence) -> str:
    """Return where samples start and how they come to the data."""
    match evidence.trained.sampler:
        case Descent() as descent:
            name = evidence.experiment.recipe.tables["sampler"]["solver"]["name"]
            return (
                f"Samples start as noise of deviation {descent.levels()[0]:g} and take {descent.steps} steps of "
                f"{name}, {descent.evaluations()} evaluations of the denoiser."
            )
        case sampler:
            return f"Samples start from noise and follow {sampler.steps} steps of the sampler."


def _points(evidence: Evidence) -> list[Section]:
    generated, trained, box = evidence.generated, evidence.trained, evidence.source.box
    data = evidence.source.draw(evidence.n, generator=evidence.stream("data"))
    if box is None:
        both = _projected(data, generated.x)
        picture = plotting.real_and_generated(*both, plotting.box_around(*both))
        return [Section("Data and samples", _start(evidence), ((picture, "The two leading principal components"),))]
    picture = plotting.real_and_generated(data, generated.x, box)
    sections = [Section("Data and samples", _start(evidence), ((picture, "Data, and as many samples"),))]
    if not isinstance(trained.sampler, Chains):
        return sections
    energy = energies_on_grid(trained, box)
    pictures = (
        (plotting.landscape(energy, box, samples=generated.x[:300]), "Energy contours and samples"),
        (plotting.surface(energy, box), "The same energy as a surface, its contours on the floor"),
        (_score_field(evidence, box, energy), "The score, which points downhill"),
        (plotting.trajectories(generated.path[:, :6], energy, box), "Chains on their way from noise"),
    )
    text = "Energy over temperature, its lowest value set to 0."
    return [*sections, Section("The landscape", text, pictures)]


def _projected(data: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return data and samples on the two leading principal components of the data."""
    data, x = data.flatten(1), x.flatten(1)
    _, _, directions = torch.linalg.svd(data - data.mean(0), full_matrices=False)
    plane = directions[:2].mT
    return (data - data.mean(0)) @ plane, (x - data.mean(0)) @ plane


def _score_field(evidence: Evidence, box: Box, energy: Tensor) -> Picture:
    trained = evidence.trained
    points = torch.cartesian_prod(*(torch.linspace(low, high, ARROWS) for low, high in box)).to(trained.device)
    arrows = score(trained.require_energy(), points) / trained.temperature
    return plotting.score_field(points, arrows, box, energy)


def level_section(evidence: Evidence) -> Section:
    """Return how well the denoiser does at each noise level."""
    levels = by_level(evidence)
    at = [math.log10(sigma) for sigma in levels.sigma]
    curves = functools.partial(plotting.curves, at, xlabel="log₁₀ σ", smooth=1)
    left = {"left of the noise": levels.error}
    norms = {"norm": levels.norm, "1 − error": [1 - each for each in levels.error]}
    error = curves(left, title="Error by noise level", ylabel="E|D − x|² / dσ²")
    norm = curves(norms, title="The score's squared norm", ylabel="E|σ s|² / d")
    worst = max(levels.imbalance, key=abs)
    text = (
        "On held-out data, unconditional. One means that none of the noise is removed. The posterior mean is "
        "orthogonal to its error, so the squared norm of σ times its score is one minus that error. Where the curves "
        f"part, the score is too large or too small. The largest difference is {worst:+.2g}."
    )
    return Section("Noise levels", text, ((error, "Error by noise level"), (norm, "Norm of the score by noise level")))


def cost_section(evidence: Evidence) -> Section:
    """Return quality against the number of evaluations, for several solvers."""
    table: list[tuple[object, ...]] = [("solver", "evaluations", "Fréchet distance")]
    table += [(each.solver, each.nfe, each.distance) for each in costs(evidence)]
    text = (
        f"{COST_SAMPLES} samples each, from the same noise, against held-out images on a classifier's features. So few "
        "samples overstate the distance, all alike: compare the rows with each other only."
    )
    return Section("Quality and cost", text, table=table)


def denoising_section(evidence: Evidence) -> Section:
    """Return held-out images denoised at several levels."""
    restored = restorations(evidence)
    table: list[tuple[object, ...]] = [("noise", "way", "PSNR, dB", "± s.e.", "SSIM")]
    table += [row for each in restored for row in each.rows()]
    pictures = []
    for each in restored:
        rows = {"original": each.clean[:SHOWN], **{name: x[:SHOWN] for name, x in each.ways.items()}}
        gain = float(each.gain("median").mean())
        caption = f"Noise of {each.sigma / 2:g} of the range: restored is {gain:+.1f} dB over the median filter"
        pictures.append((plotting.side_by_side(rows), caption))
    chains = (
        f". Where the noise is at most {evidence.trained.level / 2:g}, which the model learned with the data, it is a "
        "step along the score whose length follows from the noise. One step: x − σ²∇E/T"
    )
    text = (
        f"{len(restored[0].clean)} held-out images with noise; the table gives its standard deviation with black at 0 "
        f"and white at 1. Restored: the posterior mean{'' if evidence.chains is None else chains}. "
        "Median: of 3×3 or 5×5 pixels, whichever does better. All are kept between black and white."
    )
    return Section("Denoising", text, tuple(pictures), table)


def inpainting_section(evidence: Evidence) -> Section:
    """Return images completed."""
    clean, draws = completions(evidence)
    pictures = []
    for name, missing in masks(evidence.source.shape).items():
        rows = {"original": clean, "masked": clean.masked_fill(missing, 0.0)}
        rows |= {f"draw {number}": x for number, x in enumerate(draws[name], 1)}
        pictures.append(
            (plotting.side_by_side(rows), f"The {name} is missing (grey), and {len(draws[name])} completions")
        )
    text = (
        f"Held-out images with a part missing, and draws of that part: {evidence.trained.sampler.steps} steps of the "
        f"recipe's sampler from noise{', each level several times (RePaint)' if evidence.descent is not None else ''}. "
        "Draws of one image should agree where the image leaves no choice, and differ elsewhere."
    )
    return Section("Inpainting", text, tuple(pictures))


def outlier_section(evidence: Evidence) -> Section:
    """Return the section on the energies of images of other kinds."""
    result = survey(evidence)
    names = list(next(iter(result.detections.values())))
    rows: list[tuple[object, ...]] = [("AUROC of", *names, "AUPR, energy", "FPR95, energy", "overlap of energies")]
    for name, each in result.detections.items():
        energy = each["energy"]
        common = overlap(result.energies[name], result.energies["held-out"])
        rows.append((name, *(each[score].auroc for score in names), energy.aupr, energy.fpr95, common))
    others = [name for name in result.energies if name not in result.detections and name != "held-out"]
    shared = {name: overlap(result.energies[name], result.energies["held-out"]) for name in others}
    alike = ", ".join(f"{name} {share:.2f}" for name, share in shared.items())
    text = (
        "How often an outlier scores above a held-out image: 1 is perfect, 0.5 chance, and below it low scores tell "
        f"outliers. Energy, slope and typicality have learned; the others have not. {result.protocol}.\n\n"
        f"Overlap of energies with those of held-out images, where 1 is alike: {alike}."
    )
    caption = (
        "Energies over temperature of what was learned, what the chains make and what was never seen; "
        "beyond the limits there is no bar, but a number in the legend"
    )
    return Section("What the energy does not know", text, figures=((_histogram(result), caption),), table=rows)


def _histogram(result: OODResult) -> Picture:
    """Draw energies between limits that held-out images set: outliers may lie a thousand times as far."""
    inside = result.energies["held-out"]
    low, middle, high = (
        inside[inside.isfinite()].quantile(torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)).tolist()
    )
    reach = 4 * max(high - low, 1e-12)
    first = ("train", "held-out", "negatives", "samples")
    names = [name for name in first if name in result.energies]
    names += [name for name in result.energies if name not in (*first, "mid-grey", "shuffled pixels")]
    shown = {}
    for name in names:
        near = (result.energies[name] - middle).abs() <= reach
        beyond = len(near) - int(near.sum())
        shown[f"{name} ({beyond:,} of {len(near):,} beyond)" if beyond else name] = result.energies[name][near]
    return plotting.histogram(shown, "energy / T", bins=80, title="Energies")


def _course(run: Run) -> list[Section]:
    metrics, interventions = run.metrics(), run.interventions()
    if not metrics:
        return []
    marks = [(float(each["samples"]), each["verdict"]) for each in interventions]
    groups: dict[str, dict[Column, str]] = {
        "Loss": {"loss": "loss"},
        "Energy": {"energy_data": "data", "energy_model": "negatives"},
        "Energy gap": {"gap": "negatives − data"},
        "Error over noise, by level": {
            "relative_low": "low third",
            "relative_middle": "middle third",
            "relative_high": "high third",
        },
        "Gradient norm": {"grad_norm": "parameters' gradient"},
        "RMS move per step and coordinate": {"drift": "drift", "noise": "noise"},
    }
    pictures: list[tuple[Picture, str]] = []
    for title, names in groups.items():
        series = {label: metrics[name] for name, label in names.items() if name in metrics}
        if series:
            log = title in ("Gradient norm", "RMS move per step and coordinate")
            drawn = plotting.curves(metrics["samples"], series, title=title, ylabel=title.lower(), marks=marks, log=log)
            pictures.append((drawn, title))
    text = f"{len(interventions)} interventions by the guards" + (", marked in the curves." if interventions else ".")
    if "drift" in metrics:
        ratio = [d / n for d, n in zip(metrics["drift"], metrics["noise"], strict=True) if n > 0]
        text += f" At the end a step's drift is {ratio[-1]:.2f} times its noise." if ratio else ""
    rows = [("sample", "verdict", "reason")]
    rows += [(f"{each['samples']:,}", each["verdict"], each["reason"]) for each in interventions[-20:]]
    return [Section("How training went", text, figures=tuple(pictures), table=rows if interventions else None)]


def examined(run: Run, *, seed: int | None = None) -> Section:
    """Return the doctor's findings."""
    examination = examine(run, seed=seed)
    pictures: list[tuple[Picture, str]] = []
    if any(math.isfinite(each) for values in examination.probes.energies.values() for each in values):
        title = "Energies over temperature" if examination.record.temperature in (None, 1.0) else "Energies"
        drawn = plotting.histogram(_shown(examination.probes.energies), "energy", title=title)
        pictures.append((drawn, "Energies of data, of chains and of what chains from noise came to: alike is well"))
    gaps = examination.record.column("gap")
    if len(gaps) >= 2 * WINDOW:
        pictures.append((_swing(examination.record), "Lag-1 autocorrelation of the gap: 0 is noise, near 1 it drifts"))
    if not examination.findings:
        text = f"{len(RULES)} rules are silent." if examination.certain else f"Undecided: {examination.lacking}."
        return Section("The doctor", text, figures=tuple(pictures))
    rows = [("what one sees", "evidence", "likely cause", "remedy")]
    rows += [(each.symptom, each.evidence, each.cause, each.advice) for each in examination.findings]
    text = f"{len(examination.findings)} findings, causes before what they cause."
    return Section("The doctor", text, figures=tuple(pictures), table=rows)


def _shown(energies: Mapping[str, tuple[float, ...]]) -> dict[str, Tensor]:
    """Return energies without the few that would flatten all others to a line."""
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in energies.items()}
    pooled = torch.cat([each[each.isfinite()] for each in tensors.values()])
    low, high = pooled.quantile(0.005), pooled.quantile(0.995)
    margin = (high - low).clamp(min=1e-9) / 4
    return {name: each.clamp(low - margin, high + margin) for name, each in tensors.items()}


def _swing(record: Record) -> Picture:
    """Draw the autocorrelation of the gap over windows of the record."""
    gaps, samples = record.column("gap"), record.column("samples")
    at = range(WINDOW, len(gaps) + 1, max(1, len(gaps) // 200))
    rho = [autocorrelation(gaps[end - WINDOW : end]) for end in at]
    series = {"gap": [math.nan if each is None else each for each in rho]}
    title = f"Lag-1 autocorrelation of the gap, over {WINDOW} lines"
    return plotting.curves([samples[end - 1] for end in at], series, title=title, ylabel="autocorrelation", smooth=1)
