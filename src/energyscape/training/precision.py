"""In which numbers networks multiply and convolve."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""Precision of a network's products and convolutions; everything else is in float32."""


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return what products and convolutions are cast to, or none where they are left as they are."""
    wanted = precision == "bfloat16" or (precision == "auto" and _multiplies_bfloat16(device))
    return torch.bfloat16 if wanted else None


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which products and convolutions are cast, or left as they are; see `autocast_dtype`."""
    lower = autocast_dtype(precision, device)
    return torch.autocast(device.type, lower, enabled=lower is not None)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # which older versions of PyTorch lack
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
