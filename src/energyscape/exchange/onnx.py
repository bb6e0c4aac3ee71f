r"""Energies and denoisers as ONNX files, for use without PyTorch.

An energy becomes a graph from ``x`` to ``energy``, a denoiser one from ``x`` and ``sigma`` to ``denoised``; points come
in batches of any size. The denoiser of an energy, :math:`x - \sigma^2 \nabla E(x, \sigma)`, is written with an
explicit gradient, because a file has no automatic differentiation.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from energyscape.errors import UserError, require
from energyscape.files import atomic_write, check_absent
from energyscape.models import Denoiser, Energy, EnergyDenoiser
from energyscape.models.denoiser import column


def to_onnx(model: Energy | Denoiser, path: str | Path, *, shape: tuple[int, ...], labels: bool = False) -> float:
    """Write a model as an ONNX file, and compare the two on points of another batch.

    Args:
        model: The model, written as on the CPU in evaluation mode. At one noise level, an `EnergyDenoiser` is the
            energy ``model.at(sigma)``.
        path: A new file.
        shape: Shape of one point.
        labels: Whether the graph also takes ``label``, int64, with −1 for no class.

    Returns:
        The largest difference between the file's values and the model's, as a share of the largest value.

    Raises:
        UserError: If ONNX is not installed, has no operation that the model needs, or its values differ by more than
            rounding.
    """
    runtime = require("onnxruntime", "export")
    require("onnxscript", "export")
    model = copy.deepcopy(model).cpu().eval()
    dtype = next((each.dtype for each in model.state_dict().values() if each.is_floating_point()), torch.float32)
    names = ["x", *([] if isinstance(model, Energy) else ["sigma"]), *(["label"] if labels else [])]
    # Trace batches of 3 and compare batches of 5, to find a batch size fixed in the graph.
    traced, compared = (
        {name: each for name, each in _points(n, shape, dtype).items() if name in names} for n in (3, 5)
    )
    check_absent(Path(path))
    with atomic_write(Path(path)) as file:
        place = Path(file.name)
        _written(_Graph(model), traced, place, "energy" if isinstance(model, Energy) else "denoised")
        session = runtime.InferenceSession(place)
        values = session.run(None, {name: each.numpy() for name, each in compared.items()})[0]
        with torch.no_grad():
            truth = _Graph(model)(*compared.values())
        error = float((torch.from_numpy(values) - truth).abs().max() / truth.abs().max().clamp(min=1e-30))
        if not error <= torch.finfo(dtype).eps ** 0.5:  # half of the digits
            raise UserError(f"{path}: the exported values differ by {error:.1e} of the largest: nothing was written")
    return error


class _Graph(nn.Module):
    """A model called with positional arguments; an energy's denoiser has an explicit gradient."""

    def __init__(self, model: Energy | Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        if isinstance(self.model, Energy):
            return self.model(x, second)
        if second is None:
            raise TypeError("a denoiser takes the noise level")
        if not isinstance(self.model, EnergyDenoiser):
            return self.model(x, second, third)
        energy = self.model.energy
        slope: Tensor = torch.func.grad(lambda y: energy(y, second, third).sum())(x)
        return x - column(second, x).square() * slope


def _points(n: int, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, *shape, generator=generator, dtype=dtype)
    label = torch.arange(n) % 2 - 1  # no class, and the first
    return {"x": x, "sigma": torch.linspace(0.1, 3, n, dtype=dtype), "label": label}


def _written(graph: _Graph, points: dict[str, Tensor], place: Path, output: str) -> None:
    batch = torch.export.Dim("batch")
    traced: nn.Module = graph
    try:
        with _quiet():
            if isinstance(graph.model, EnergyDenoiser):
                table = {torch.ops.aten.convolution_backward.default: _back_through}
                trace = make_fx(graph, table, tracing_mode="symbolic", _allow_non_fake_inputs=True)
                traced = trace(*points.values())
            shapes = tuple({0: batch} for _ in points)
            exported = torch.export.export(traced, tuple(points.values()), dynamic_shapes=shapes, strict=False)
            program: Any = torch.onnx.export(
                exported, dynamo=True, input_names=list(points), output_names=[output], verbose=False
            )
            program.save(place)
    except OSError:
        raise
    except Exception as error:  # the exporter may raise anything
        reason = next((line for line in str(error).splitlines() if line.startswith("<class")), str(error))
        text = " ".join(reason.split())[:300]
        raise UserError(f"{type(graph.model).__name__} cannot be written as ONNX: {text}") from error


def _back_through(slope: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> Any:
    """Write the derivative of a convolution by its input as a convolution, which ONNX knows."""
    _, stride, padding, dilation, transposed, _, groups, wanted = settings
    if transposed or any(wanted[1:]):
        return NotImplemented
    reached = [
        (n - 1) * step - 2 * pad + gap * (window - 1) + 1
        for n, step, pad, gap, window in zip(slope.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True)
    ]
    rest = [size - each for size, each in zip(x.shape[2:], reached, strict=True)]
    back = torch.ops.aten.convolution.default(slope, weight, None, stride, padding, dilation, True, rest, groups)
    return back, None, None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings, which its user cannot act on."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
