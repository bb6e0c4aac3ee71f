"""Models in and out: energyscape folders, diffusers folders, ONNX files."""

from energyscape.exchange.diffusers import Chain, DiffusersUNet, from_diffusers, to_diffusers
from energyscape.exchange.onnx import to_onnx
from energyscape.exchange.pretrained import from_pretrained, save_pretrained

__all__ = [
    "Chain",
    "DiffusersUNet",
    "from_diffusers",
    "from_pretrained",
    "save_pretrained",
    "to_diffusers",
    "to_onnx",
]
