"""Cost of a training step, and utilisation of the machine."""

import copy
import sys
import time
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from energyscape.recipe.build import Experiment
from energyscape.training.precision import autocast, autocast_dtype


class Efficiency(NamedTuple):
    """The utilisation of the machine by a training.

    Args:
        speed: Samples a second.
        flops: Floating-point operations of products and convolutions a sample, forwards and backwards, chains included;
            a multiplication and an addition are two.
        peak: Such operations a second of one large product of matrices, in the precision of the training.
        memory: Peak bytes of the device, or of this process on a CPU.
    """

    speed: float
    flops: float
    peak: float
    memory: int

    @property
    def utilisation(self) -> float:
        """Model-FLOP utilisation: the share of the peak that went into products and convolutions."""
        return self.speed * self.flops / self.peak

    def __str__(self) -> str:
        return (
            f"{self.speed:,.0f} samples/s, {self.flops / 1e6:,.3g} MFLOP each: {self.utilisation:.0%} of the rate of "
            f"matrix products here ({self.peak / 1e9:,.0f} GFLOP/s); {self.memory / 2**20:,.0f} MiB at most"
        )


def efficiency(experiment: Experiment, *, speed: float) -> Efficiency:
    """Return the utilisation of the machine by a training, from one more step on copies of the model."""
    device = experiment.training.torch_device
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()
    return Efficiency(speed, flops_per_sample(experiment), _peak(experiment), memory)


def flops_per_sample(experiment: Experiment) -> float:
    """Return the operations of a training step's products and convolutions, over the points of its batch."""
    model, objective = copy.deepcopy(experiment.model), copy.deepcopy(experiment.objective)
    device, batch = experiment.training.torch_device, next(iter(experiment.batches()))
    x, label = (batch, None) if isinstance(batch, torch.Tensor) else batch
    generator = torch.Generator(device).manual_seed(experiment.training.seed)
    with torch.compiler.set_stance("force_eager"), _Counting() as counting:  # compilers' own operations do not count
        with autocast(experiment.training.precision, device):
            loss = objective(model, x, label, generator=generator)
        loss.value.backward()
    return float(counting.flops / len(x))


class _Counting(TorchDispatchMode):
    """Count the operations of products and convolutions by PyTorch's own formulas.

    PyTorch's counter hooks into modules besides, which a gradient inside a loss does not bear.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _peak(experiment: Experiment, *, repeats: int = 4) -> float:
    """Return operations a second of a product of square matrices, the best of a few."""
    device = experiment.training.torch_device
    lower = autocast_dtype(experiment.training.precision, device)
    size = 1024 if device.type == "cpu" else 8192  # a small product does not fill a GPU
    generator = torch.Generator(device).manual_seed(0)  # of equal numbers some machines make short work
    a = torch.empty(size, size, device=device).normal_(generator=generator).to(lower or torch.float32)
    times = []
    for _ in range(repeats + 1):  # of which the first one only warms up
        _waited(device)
        begun = time.perf_counter()
        a @ a
        _waited(device)
        times.append(time.perf_counter() - begun)
    return 2.0 * size**3 / min(times[1:])


def _waited(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident() -> int:
    import resource  # which Windows has not

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
