"""Diagnosis of a run or an energy, and advice."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from energyscape.cli.terminal import app, complain, say, working
from energyscape.errors import UserError

Words = Annotated[str, Parameter(name="RUN", allow_leading_hyphen=True)]
"""A run's folder, or settings: an optional folder before settings would take the first of them for itself."""


@app.command
def doctor(
    *words: Words,
    model: Annotated[Path | None, Parameter(accepts_keys=False)] = None,
    recipe: str | None = None,
    json: bool = False,
    seed: int | None = None,
) -> int:
    """Diagnose a run: symptom, evidence, likely cause and the settings that fix it, causes first.

    The exit status is 0 for a healthy run, 1 for findings, and 2 where there is too little to tell.

    Args:
        words: The run's folder; or, with --model, any setting of the recipe, such as --data.split test.
        model: Weights of a bare energy (.safetensors) instead of a run: the state dict of the recipe's model.
        recipe: Recipe of the weights: a recipe's name or the path of a TOML file.
        json: Print JSON instead of text.
        seed: Seed of the probes; the run's by default.
    """
    from energyscape.doctor.from_run import examine, examine_energy
    from energyscape.recipe import Recipe, overrides_from
    from energyscape.runs import Run

    if (model is None) != (recipe is None):
        raise UserError("--model FILE.safetensors and --recipe NAME belong together; one of them is missing")
    if model is not None and recipe is not None:
        chosen, subject = Recipe.named(recipe, overrides_from(words)), str(model)
        with working("probing"):
            examination = examine_energy(model, chosen, seed=seed)
    else:
        if len(words) != 1 or words[0].startswith("-"):
            raise UserError(
                "expected one run's folder and no settings, or --model FILE.safetensors with --recipe NAME; "
                f"it was {' '.join(words) or 'nothing'}"
            )
        opened, subject = Run.open(Path(words[0])), words[0]
        with working("reading and probing"):
            examination = examine(opened, seed=seed)
    status = 1 if examination.findings else 0 if examination.certain else 2
    print_json(examination, subject, status) if json else print_text(examination, subject)
    return status


def print_text(examination: Any, subject: str) -> None:
    """Print findings for people."""
    from energyscape.doctor import RULES

    if not examination.findings and not examination.certain:
        complain(f"{subject}: cannot tell: {examination.lacking}")
        return
    count = len(examination.findings)
    say(
        f"{subject}: " + (f"{count} finding{'s' * (count > 1)}" if count else f"healthy, {len(RULES)} rules are silent")
    )
    for number, each in enumerate(examination.findings, 1):
        say(f"\n{number}. {each.symptom} [{each.rule}, {each.severity}]")
        say(f"   evidence: {each.evidence}")
        say(f"   cause:    {each.cause}")
        say(f"   remedy:   {each.advice}")


def print_json(examination: Any, subject: str, status: int) -> None:
    """Print an examination as JSON, with null for non-finite numbers."""
    from energyscape.files import as_json

    probes = {name: each for name, each in examination.probes._asdict().items() if name != "energies"}
    findings = [
        each._asdict() | {"remedy": [one._asdict() for one in each.remedy], "flags": each.flags}
        for each in examination.findings
    ]
    state = ("healthy", "findings", "unclear")[status]
    print(as_json({"subject": subject, "status": state, "findings": findings, "probes": probes}, indent=2))
