"""What a run's page shows, gathered from its directory and a few chains."""

import torch
from matplotlib.figure import Figure as Picture
from torch import Tensor

from energyscape import plotting
from energyscape.calculus import score
from energyscape.data import Distribution, Images
from energyscape.experiment.assembly import Experiment, seeded
from energyscape.experiment.denoiser_story import in_the_plane, of_images
from energyscape.experiment.examination import examined
from energyscape.experiment.figure import Figure
from energyscape.experiment.generation import draw_data, energies_on_grid, generate
from energyscape.experiment.measures import (
    REPORT_SAMPLES,
    acceptance_probe,
    against_truth,
    of_outliers,
    of_samples,
)
from energyscape.experiment.outliers import outlier_section, survey
from energyscape.experiment.restorations import denoising_section, inpainting_section, restorations
from energyscape.experiment.run import Run
from energyscape.report import Section, page

ARROWS = 21
"""Along each side of a score field."""


def story(run: Run, *, seed: int | None = None) -> str:
    """Returns a run's page, one HTML file that needs no network.

    Args:
        run: With at least one checkpoint.
        seed: Of the chains; the run's when left out.
    """
    experiment = run.experiment()
    plane, images = (_in_the_plane, _of_images) if experiment.has_chains else (in_the_plane, of_images)
    source = experiment.source
    figures, sections = (
        plane(experiment, source, seed=seed)
        if isinstance(source, Distribution)
        else images(experiment, source, seed=seed)
    )
    table = [("figure", "value", "± s.e.", "protocol")]
    table += [(each.name, each.shown, each.shown_error, each.protocol) for each in figures]
    measured = Section("What was measured", "", table=table)
    tables = experiment.recipe.tables
    subtitle = f"{tables['objective']['name']} on {tables['data']['name']}, seed {experiment.training.seed}"
    stop = [Section("A guard stopped the training", why)] if (why := run.stopped()) else []
    return page(
        run.path.name,
        [*stop, measured, *sections, *_course(run), examined(run, seed=seed), _recipe(run)],
        subtitle=subtitle,
    )


def _of_images(experiment: Experiment, source: Images, *, seed: int | None) -> tuple[list[Figure], list[Section]]:
    generated = generate(experiment, REPORT_SAMPLES, seed=seed)
    real = draw_data(source, 40, generator=seeded(experiment, seed, "real", device="cpu"))
    restored = restorations(experiment, seed=seed)
    figures = [*of_samples(experiment, generated.x, seed=seed), acceptance_probe(experiment, seed=seed)]
    figures += [figure for each in restored for figure in each.figures()]
    path = plotting.evolution(generated.path, generated.at)
    steps = experiment.sampling.steps
    sections = [
        Section(
            "Real and generated",
            f"Generated images start from noise and follow {steps} steps of the sampler; they were not selected.",
            figures=(
                (plotting.image_grid(real, columns=10), "Real images"),
                (plotting.image_grid(generated.x[:40], columns=10), "Generated images"),
            ),
        ),
        Section(
            "From noise to image",
            "Each row is one chain; each column a step. The last one has been denoised, where the recipe says so.",
            figures=((path, "Chains from noise to image"),),
        ),
    ]
    surveyed = survey(experiment, samples=generated.x, seed=seed)
    figures += of_outliers(surveyed)
    sections += [
        denoising_section(experiment, restored),
        inpainting_section(experiment, seed=seed),
        outlier_section(experiment, surveyed=surveyed),
    ]
    return figures, sections


def _in_the_plane(experiment: Experiment, law: Distribution, *, seed: int | None) -> tuple[list[Figure], list[Section]]:
    figures = [*against_truth(experiment, law, seed=seed), acceptance_probe(experiment, seed=seed)]
    generated = generate(experiment, 2_000, seed=seed, shown=6, frames=40)
    data = law.sample(2_000, generator=seeded(experiment, seed, "data", device="cpu"))
    energy = energies_on_grid(experiment, law.box)
    sections = [
        Section(
            "Data and samples",
            f"Samples start from noise and follow {experiment.sampling.steps} steps of the sampler.",
            figures=((plotting.real_and_generated(data, generated.x, law.box), "Data, and as many samples"),),
        ),
        Section(
            "The landscape",
            "Energy over temperature, its lowest value set to 0.",
            figures=(
                (plotting.landscape(energy, law.box, samples=generated.x[:300]), "Energy contours and samples"),
                (plotting.surface(energy, law.box), "The same energy as a surface, its contours on the floor"),
                (_score_field(experiment, law, energy), "The score, which points downhill"),
                (plotting.trajectories(generated.path, energy, law.box), "Chains on their way from noise"),
            ),
        ),
    ]
    return figures, sections


def _score_field(experiment: Experiment, law: Distribution, energy: Tensor) -> Picture:
    points = torch.cartesian_prod(*(torch.linspace(low, high, ARROWS) for low, high in law.box))
    points = points.to(experiment.training.torch_device)
    arrows = score(experiment.energy, points) / experiment.objective.temperature
    return plotting.score_field(points, arrows, law.box, energy)


def _course(run: Run) -> list[Section]:
    metrics, interventions = run.metrics(), run.interventions()
    if not metrics:
        return []
    marks = [(float(each["samples"]), each["verdict"]) for each in interventions]
    groups = {
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


def _recipe(run: Run) -> Section:
    return Section("The recipe", pre=run.recipe().text())
