"""A trained model for other programmes."""

from pathlib import Path

from energyscape.cli.terminal import RunFolder, app, open_run, say, working


@app.command
def export(run: RunFolder, /, *, to: Path) -> int:
    """Write a run's model, with averaged weights: a folder of safetensors, or an ONNX file.

    Args:
        run: The run's folder.
        to: A file .onnx, of the denoiser or the energy, compared with it before it gets its name; anything else is a
            folder, which `energyscape.from_pretrained` reads.
    """
    from energyscape.exchange import save_pretrained, to_onnx
    from energyscape.models import Denoiser

    opened = open_run(run)
    experiment = opened.experiment()
    trained = experiment.trained
    with working("writing"):
        if to.suffix == ".onnx":
            model = trained.require_denoiser() if trained.energy is None else trained.energy
            labels = isinstance(model, Denoiser) and model.classes > 0
            difference = to_onnx(model, to, shape=trained.space.shape, labels=labels)
            how = f"differs from the model by {difference:.1g} of its largest value"
        else:
            settings = experiment.recipe.tables["model"]
            save_pretrained(trained.model, to, settings=settings, shape=trained.space.shape)
            how = f"energyscape.from_pretrained({str(to)!r}) reads it"
    say(f"{to}: {how}")
    return 0
