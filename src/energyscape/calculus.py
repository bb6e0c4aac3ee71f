r"""Derivatives and integrals of energies.

The score of :math:`p(x) \propto \exp(-E(x) / T)` at :math:`T = 1` is

.. math:: s(x) = \nabla_x \log p(x) = -\nabla_x E(x),

computed without recording a graph for the parameters of :math:`E` or touching their ``grad``. Integrals over a
box in the plane use the tensor product of Gauss-Legendre rules, which is exact for polynomials of degree
:math:`2 n - 1` in each coordinate.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

EnergyFn = Callable[[Tensor], Tensor]
"""Maps points ``(B, *)`` to energies ``(B,)``; low is likely."""

DenoiseFn = Callable[[Tensor, Tensor], Tensor]
r"""Maps noised points ``(B, *)`` and their noise levels ``(B,)`` to clean points, ``(B, *)``."""

Box = tuple[tuple[float, float], tuple[float, float]]
"""A rectangle ``((x0, x1), (y0, y1))``."""


def score(energy: EnergyFn, x: Tensor, *, create_graph: bool = False) -> Tensor:
    r"""Return the score :math:`-\nabla_x E(x)`.

    Args:
        energy: Maps ``(B, *)`` to ``(B,)``.
        x: Points, ``(B, *)``.
        create_graph: Whether the result will be differentiated again, as in a score-matching loss; only then is a graph
            kept for the parameters.

    Returns:
        The score, ``(B, *)``; detached unless ``create_graph``.

    Examples:
        >>> score(lambda x: (x**2).sum(1) / 2, torch.tensor([[1.0, -2.0]]))
        tensor([[-1., 2.]])
    """
    if not create_graph:
        return energy_and_score(energy, x)[1]
    x = x if x.requires_grad else leaf(x)
    (gradient,) = torch.autograd.grad(checked(energy(x), x).sum(), x, create_graph=True)
    return -gradient


def energy_and_score(energy: EnergyFn, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`E(x)` and :math:`-\nabla_x E(x)` from one forward and one backward pass.

    Args:
        energy: Maps ``(B, *)`` to ``(B,)``.
        x: Points, ``(B, *)``.

    Returns:
        The energy ``(B,)`` and the score ``(B, *)``, detached; no graph is kept.

    Raises:
        ValueError: If the energy is not one number a point.
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        # Autograd's own functions can neither be traced nor used in inference mode; torch.func's can, without a graph.
        return _traced(energy, x)
    x = leaf(x)
    with torch.enable_grad(), frozen(energy):
        e = checked(energy(x), x)
        (gradient,) = torch.autograd.grad(e.sum(), x)
    return e.detach(), -gradient


def leaf(x: Tensor) -> Tensor:
    """Return points that autograd follows, detached from any graph or inference mode."""
    return (x.clone() if x.is_inference() else x).detach().requires_grad_()


def _traced(energy: EnergyFn, x: Tensor) -> tuple[Tensor, Tensor]:
    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        e = checked(energy(y), y)
        return e.sum(), e

    gradient, (_, e) = torch.func.grad_and_value(total, has_aux=True)(x)
    return e, -gradient


def checked(e: Tensor, x: Tensor) -> Tensor:
    """Return energies, or raise a clear error unless there is one for each point."""
    if e.shape != x.shape[:1]:
        raise ValueError(
            f"an energy maps points {tuple(x.shape)} to one number each, shape {tuple(x.shape[:1])}; "
            f"it returned shape {tuple(e.shape)}: squeeze or sum its last dimensions"
        )
    return e


@contextmanager
def frozen(function: Callable[..., Any]) -> Iterator[None]:
    """Stop autograd from recording the parameters that a function uses, inside the block.

    ``requires_grad`` is restored on exit, also after an exception.
    """
    live = [
        parameter for module in modules_of(function) for parameter in module.parameters() if parameter.requires_grad
    ]
    for parameter in live:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in live:
            parameter.requires_grad_(True)


def modules_of(function: Any) -> list[nn.Module]:
    """Return the modules that a callable is or closes over.

    Examples:
        >>> net = nn.Linear(2, 1)
        >>> modules_of(lambda x: net(x).squeeze(1)) == [net]
        True
    """
    return [each for each in _reached(function, set()) if isinstance(each, nn.Module)]


def _reached(thing: Any, seen: set[int]) -> Iterator[Any]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield thing
    if isinstance(thing, nn.Module):
        return
    inside: list[Any] = []
    if isinstance(thing, functools.partial):
        inside = [thing.func, *thing.args, *thing.keywords.values()]
    elif callable(thing):
        cells = getattr(thing, "__closure__", None) or ()
        inside = [cell.cell_contents for cell in cells if cell != type(cell)()]
        inside.append(getattr(thing, "__self__", None))
        inside += _global_modules(thing)
    for each in inside:
        if callable(each):
            yield from _reached(each, seen)


def _global_modules(function: Any) -> list[nn.Module]:
    """Return the modules that a function of a script or a notebook uses by a global name."""
    names, known = getattr(getattr(function, "__code__", None), "co_names", ()), getattr(function, "__globals__", {})
    return [known[name] for name in names if isinstance(known.get(name), nn.Module)]


def gauss_legendre(box: Box, nodes: int) -> tuple[Tensor, Tensor]:
    r"""Return the points and weights of a quadrature rule in the plane.

    .. math:: \int_{\text{box}} f(x)\, dx \approx \sum_i w_i f(x_i)

    Examples:
        >>> points, weights = gauss_legendre(((0.0, 1.0), (0.0, 2.0)), 4)
        >>> round(float((weights * points[:, 0] ** 2 * points[:, 1]).sum()), 12)
        0.666666666667
    """
    node, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(nodes))
    (x0, x1), (y0, y1) = box
    xs, ys = (x0 + x1 + (x1 - x0) * node) / 2, (y0 + y1 + (y1 - y0) * node) / 2
    area = (x1 - x0) * (y1 - y0) / 4
    return torch.cartesian_prod(xs, ys), area * torch.outer(weight, weight).flatten()
