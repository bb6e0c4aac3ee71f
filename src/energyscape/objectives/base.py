"""Objectives: what training minimises, one equation each."""

import typing
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import torch
from torch import Generator, Tensor, nn
from typing_extensions import TypeVar

from energyscape.errors import UserError
from energyscape.models import MODELS
from energyscape.models.energy import Energy

Model = TypeVar("Model", bound=nn.Module, default=Energy)
"""The kind of model that an objective trains; `Energy` where none is named."""


class Loss(NamedTuple):
    """What an objective tells.

    Args:
        value: The number to minimise, a 0-d tensor with a graph.
        facts: Detached 0-d tensors for the record, by name.
    """

    value: Tensor
    facts: dict[str, Tensor]


class Objective(nn.Module, ABC, Generic[Model]):
    r"""A loss of a model on a batch of data.

    The annotation of ``model`` in `forward` says which models it trains: an `Energy`, or with ``Objective[Denoiser]``
    or ``Objective[EnergyDenoiser]`` one of those.

    It owns its state as buffers and parameters, such as chains or :math:`\log Z`, so that a snapshot holds them; it
    never steps an optimiser.
    """

    level: float = 0.0
    """Standard deviation of the noise on the data whose law the model learns; 0 where data are taken as they are."""

    temperature: float = 1.0
    """:math:`T` of the law :math:`\\exp(-E / T)` that the model learns."""

    @abstractmethod
    def forward(
        self, model: Model, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        """Returns the loss and its facts.

        Args:
            model: What is trained.
            x: Data, ``(B, *)``.
            label: Class of each point, ``(B,)``.
            generator: The stream to draw from.
        """

    def check(self, model: nn.Module) -> None:
        """Refuses a model of the wrong kind; asked once, before training.

        Args:
            model: What is to be trained; a compiled one is judged by what it was compiled from.

        Raises:
            UserError: If it is of another kind than `forward` takes.
        """
        kind = typing.get_type_hints(type(self).forward).get("model", nn.Module)
        given = getattr(model, "_orig_mod", model)
        if not isinstance(given, kind):
            fitting = [name for name, made in MODELS.items() if isinstance(made, type) and issubclass(made, kind)]
            raise UserError(
                f"{type(self).__name__} trains models of kind {kind.__name__} ({', '.join(fitting)}); "
                f"it was given {type(given).__name__}"
            )

    if TYPE_CHECKING:

        def __call__(
            self, model: Model, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
        ) -> Loss: ...


def lazily_shaped(module: nn.Module, *names: str) -> None:
    """Lets a module load buffers whose shape it learns only from the first batch of data.

    Args:
        module: Whose state is loaded, into buffers of the shape of what is loaded.
        names: Of those buffers.
    """

    def make_room(owner: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in names:
            loaded, buffer = state.get(prefix + name), owner.get_buffer(name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(owner, name, torch.empty_like(loaded, device=buffer.device))

    module.register_load_state_dict_pre_hook(make_room)
