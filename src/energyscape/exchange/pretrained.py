"""Trained models in a folder: ``config.json`` describes the model, ``model.safetensors`` holds its weights.

A configuration is a recipe's section ``[model]`` and the shape of one point. Nothing is unpickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from energyscape import __version__
from energyscape.errors import UserError
from energyscape.files import foreign, read_json, read_tensors, whole_folder
from energyscape.models import MODELS, Denoiser, Energy
from energyscape.registry import build

FORMAT: Final = "energyscape-model-1"
WHAT: Final = "the config.json of a folder that save_pretrained wrote"


def save_pretrained(
    model: Energy | Denoiser, folder: str | Path, *, settings: Mapping[str, Any], shape: tuple[int, ...]
) -> None:
    """Write a model atomically to a new folder.

    Args:
        model: The trained model; for averaged weights, the module inside.
        folder: A new or empty folder.
        settings: Its settings: a recipe's section ``[model]``, a table with a ``name``.
        shape: Shape of one point.

    Raises:
        UserError: If the settings do not make this model, the folder holds something, or it cannot be written.

    Examples:
        >>> import tempfile
        >>> from energyscape.models import MLP, NeuralEnergy
        >>> energy, settings = NeuralEnergy(MLP(2, width=8)), {"name": "neural", "network": {"name": "mlp", "width": 8}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pretrained(energy, folder, settings=settings, shape=(2,))
        ...     again = from_pretrained(folder)
        >>> bool((again(torch.ones(1, 2)) == energy(torch.ones(1, 2))).all())
        True
    """
    tensors = {name: each.detach().cpu().contiguous().clone() for name, each in model.state_dict().items()}
    config = {"format": FORMAT, "energyscape": __version__, "shape": list(shape), "model": dict(settings)}
    _restored(config, tensors, f"{folder}: the settings do not make this model")
    with whole_folder(Path(folder)) as place:
        (place / "model.safetensors").write_bytes(save(tensors))
        (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def from_pretrained(folder: str | Path) -> Energy | Denoiser:
    """Return the model that `save_pretrained` wrote, in evaluation mode and on the CPU.

    Args:
        folder: The folder.

    Raises:
        UserError: If the folder was not written by `save_pretrained`, its parts do not fit together, a number is not
            finite, or this version lacks the model.
    """
    place = Path(folder)
    config = read_json(place / "config.json", WHAT)
    if config.get("format") != FORMAT:
        raise UserError(f"{place / 'config.json'}: expected {WHAT}; its format is {str(config.get('format'))[:40]!r}")
    path = place / "model.safetensors"
    tensors, _ = read_tensors(path, "a whole safetensors file")
    for name, each in tensors.items():
        with foreign(f"{path}: {name}"):  # isfinite does not support every dtype
            if each.is_floating_point() and not each.isfinite().all():
                raise ValueError("holds numbers that are not finite")
    return _restored(config, tensors, f"{path} and config.json do not fit together").eval()


def _restored(config: Mapping[str, Any], tensors: dict[str, Tensor], blame: str) -> Energy | Denoiser:
    """Return the model that a configuration describes, with these numbers."""
    with foreign(blame):
        shape, settings = config.get("shape"), dict(config.get("model") or {})
        if not isinstance(shape, list) or not shape or not all(type(each) is int and each > 0 for each in shape):
            raise ValueError(f"a shape is a list of positive whole numbers; it was {shape!r}")
        name, point = str(settings.pop("name", "")), tuple(shape)
        with torch.device("meta"):  # compares shapes before anything is allocated
            build(MODELS, name, settings, shape=point).load_state_dict(tensors, assign=True)
        with torch.random.fork_rng(devices=[]):  # initial values are overwritten
            model: Energy | Denoiser = build(MODELS, name, settings, shape=point)
        kinds = {each.dtype for each in tensors.values() if each.is_floating_point()}
        if len(kinds) == 1:
            model.to(kinds.pop())
        model.load_state_dict(tensors)
    return model
