r"""Denoisers of diffusers: a U-Net that was trained on a chain of noise levels, as a function of :math:`\sigma`.

A chain of DDPM has the levels :math:`\sigma_t^2 = (1 - \bar\alpha_t) / \bar\alpha_t`. Its network takes the
variance-preserving point :math:`x / \sqrt{1 + \sigma^2}` and the step :math:`t`, here a real number interpolated from
the chain in :math:`\ln \sigma`, and predicts the noise, the clean point or the velocity.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn

from energyscape.errors import UserError, did_you_mean, require
from energyscape.files import read_json, reading, whole_folder
from energyscape.models import Clean, Epsilon, NetworkDenoiser, Preconditioning, Velocity
from energyscape.models.preconditioning import Coefficients, step_of

PREDICTIONS: Final[dict[str, Preconditioning]] = {
    "epsilon": Epsilon(),
    "sample": Clean(data_std=1.0),
    "v_prediction": Velocity(),
}
"""What the networks of diffusers predict; all see variance-preserving points."""

SCHEDULERS: Final = ("DDPMScheduler", "DDIMScheduler")
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


@final
@dataclass(frozen=True)
class Chain(Preconditioning):
    r"""A preconditioning whose network takes the step of a chain.

    .. math:: c_{\text{noise}} = t(\sigma), \qquad \sigma_{t(\sigma)} = \sigma

    Between two steps :math:`t` is interpolated in :math:`\ln \sigma`. Levels beyond the chain, on which the network was
    not trained, map to the nearest end.

    Args:
        predicted: The preconditioning with the other coefficients.
        levels: Noise level of each step, rising, in units of ``x``.

    Raises:
        ValueError: If the levels are fewer than two, not positive and finite, or do not rise.

    Examples:
        >>> Chain(Epsilon(), (0.1, 1.0, 10.0))(torch.tensor([0.01, 1.0, 3.1623])).noise
        tensor([0.0000, 1.0000, 1.5000])
    """

    predicted: Preconditioning
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        level = torch.tensor(self.levels, dtype=torch.float64)
        if len(level) < 2 or not bool((level > 0).all() & level.isfinite().all() & (level.diff() > 0).all()):
            raise ValueError("a chain has at least two noise levels, positive and rising")

    def __call__(self, sigma: Tensor) -> Coefficients:
        return self.predicted(sigma)._replace(noise=step_of(self.levels, sigma))


@final
class DiffusersUNet(nn.Module):
    """The network of a denoiser, wrapping one of diffusers.

    It may be trained like any other, and written with `to_diffusers`. It has no class for "no class": a label of −1 is
    an error.

    Args:
        unet: A ``UNet2DModel`` with as many channels out as in.

    Raises:
        UserError: If it has another number of channels out, or its classes are not numbers; on a call, if either
            classes or labels are missing.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        config: Any = unet.config
        if config.in_channels != config.out_channels:
            raise UserError(
                f"a denoiser has as many channels out as in; the network has {config.in_channels} in and "
                f"{config.out_channels} out (learned variances are not supported)"
            )
        if config.class_embed_type is not None:
            raise UserError(f"classes of the kind {config.class_embed_type!r} are not supported, only numbered ones")
        self.unet = unet
        self.classes = int(config.num_class_embeds or 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        config: Any = self.unet.config
        size = config.sample_size
        height, breadth = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), int(height), int(breadth)

    def forward(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        if (label is None) != (self.classes == 0):
            raise UserError(
                f"the network knows {self.classes} classes and needs a label" if label is None else "it takes no label"
            )
        out: Tensor = self.unet(u, noise, class_labels=label, return_dict=False)[0]
        return out

    if TYPE_CHECKING:

        def __call__(self, u: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor: ...


def from_diffusers(folder: str | Path) -> NetworkDenoiser:
    """Return the denoiser in a folder that diffusers saved: a ``UNet2DModel`` with a DDPM or DDIM scheduler.

    Only the network and the chain's noise levels are read. DDPM's sampler clips denoised points to [−1, 1]
    (``clip_sample``); the denoiser does not.

    Args:
        folder: Contains ``model_index.json``, ``unet`` and ``scheduler``; nothing is fetched or unpickled.

    Returns:
        The denoiser, in evaluation mode; its ``network`` is a `DiffusersUNet`, whose ``shape`` is that of an image.

    Raises:
        UserError: If diffusers is not installed, or the folder holds something else.
    """
    diffusers, place = require("diffusers", "diffusers"), Path(folder)
    index = read_json(place / "model_index.json", "that of a pipeline that diffusers saved")
    settings = read_json(place / "scheduler" / "scheduler_config.json", "the scheduler's settings")
    read_json(place / "unet" / "config.json", "the network's settings")
    if not (place / "unet" / WEIGHTS).is_file():
        raise UserError(f"{place / 'unet'}: there is no {WEIGHTS}; weights in a pickle (.bin) are never loaded")
    with reading(place, "a UNet2DModel that diffusers can read"):
        kinds = {part: (index.get(part) or ["", ""])[-1] for part in ("unet", "scheduler")}
        if kinds["unet"] != "UNet2DModel" or kinds["scheduler"] not in SCHEDULERS:
            raise UserError(
                f"{place}: expected a UNet2DModel with one of {', '.join(SCHEDULERS)}; "
                f"model_index.json names {kinds['unet'] or 'no unet'} with {kinds['scheduler'] or 'no scheduler'}"
            )
        prediction = settings.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS:
            raise UserError(
                f"{place}: no prediction of type {prediction!r}{did_you_mean(str(prediction), PREDICTIONS)}"
            )
        scheduler = getattr(diffusers, kinds["scheduler"]).from_config(settings)
        unet, info = diffusers.UNet2DModel.from_pretrained(
            place / "unet",
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
        preconditioning = Chain(PREDICTIONS[prediction], _levels(scheduler.betas))
        network = DiffusersUNet(unet)
    # diffusers leaves missing weights at their random initial values.
    if amiss := {
        name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info.get(kind, ())
    }:
        raise UserError(
            f"{place / 'unet'}: {len(amiss)} weights do not fit the network, such as {min(map(str, amiss))}"
        )
    return NetworkDenoiser(network, preconditioning).eval()


def to_diffusers(denoiser: NetworkDenoiser, folder: str | Path) -> None:
    """Write a denoiser atomically as a pipeline of diffusers.

    Args:
        denoiser: Its network is a `DiffusersUNet`, and its preconditioning `Epsilon` or a `Chain`.
        folder: A new or empty folder.

    Raises:
        UserError: If diffusers is not installed, the denoiser is of another kind, or the folder holds something.
    """
    diffusers, network = require("diffusers", "diffusers"), denoiser.network
    if not isinstance(network, DiffusersUNet):
        raise UserError(
            f"diffusers knows its own networks only: the denoiser's is a {type(network).__name__}, no DiffusersUNet"
        )
    scheduler = diffusers.DDPMScheduler(**_chain(denoiser.preconditioning))
    with whole_folder(Path(folder)) as place:
        diffusers.DDPMPipeline(unet=network.unet, scheduler=scheduler).save_pretrained(place)


def _levels(betas: Tensor) -> tuple[float, ...]:
    r"""Return :math:`\sigma_t`, without a last step that keeps nothing of the data and has no finite level."""
    products = (1 - betas.double()).cumprod(0)  # theirs are in single precision, coarse at low noise
    levels = ((1 - products) / products).sqrt()
    return tuple(levels[levels.isfinite()].tolist())


def _chain(preconditioning: Preconditioning) -> dict[str, Any]:
    """Return the settings of a scheduler of diffusers."""
    if isinstance(preconditioning, Epsilon):
        return {
            "num_train_timesteps": preconditioning.chain,
            "beta_start": preconditioning.beta_min,
            "beta_end": preconditioning.beta_max,
        }
    predicted = preconditioning.predicted if isinstance(preconditioning, Chain) else None
    prediction = next((name for name, row in PREDICTIONS.items() if row == predicted), None)
    if not isinstance(preconditioning, Chain) or prediction is None:
        raise UserError(
            "networks of diffusers take the step of a chain and predict noise, clean points or velocities: "
            f"the preconditioning is epsilon or a Chain of one of those; it was {type(preconditioning).__name__}"
        )
    products = 1 / (1 + torch.tensor(preconditioning.levels, dtype=torch.float64).square())
    betas = 1 - products / torch.cat([products.new_ones(1), products[:-1]])
    return {"num_train_timesteps": len(betas), "trained_betas": betas.tolist(), "prediction_type": prediction}
