"""Objectives: the losses of training, one equation each."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, final

import torch
from torch import Generator, Tensor, nn
from typing_extensions import TypeVar

from energyscape.errors import UserError
from energyscape.models import MODELS
from energyscape.models.energy import Energy
from energyscape.noise import noised
from energyscape.objectives.facts import Facts
from energyscape.registry import hints_of

Model = TypeVar("Model", bound=nn.Module, default=Energy)
"""The kind of model that an objective trains; `Energy` by default."""


def unconfined(x: Tensor) -> Tensor:
    """Return points unchanged: there is no box."""
    return x


class Loss(NamedTuple):
    """A loss and its facts.

    Args:
        value: The number to minimise, a 0-d tensor with a graph.
        facts: Detached 0-d tensors for the record, by name; see `Fact`.
    """

    value: Tensor
    facts: Facts[Tensor]


class Adjustment(NamedTuple):
    """The changes that guards have made in a run so far, on top of its recipe.

    Args:
        rate: Factor on the learning rates.
        step: Factor on the step size of the chains.
        alpha: Factor on the energy regulariser.
        data_noise: Least standard deviation of the noise on the data, in units of ``x``.
        trim: Standard deviations of the data's energies above them beyond which negatives have no gradient.
    """

    rate: float = 1.0
    step: float = 1.0
    alpha: float = 1.0
    data_noise: float = 0.0
    trim: float | None = None

    def then(self, more: "Adjustment") -> "Adjustment":
        """Return both adjustments together: factors multiply, the stricter limit counts."""
        return Adjustment(
            self.rate * more.rate,
            self.step * more.step,
            self.alpha * more.alpha,
            max(self.data_noise, more.data_noise),
            min((each for each in (self.trim, more.trim) if each is not None), default=None),
        )

    @staticmethod
    def of(stored: Any) -> "Adjustment":
        """Return the adjustment in a checkpoint: a table or, in older ones, a list whose fourth entry is ignored."""
        return Adjustment(**stored) if isinstance(stored, dict) else Adjustment(*stored[:3], *stored[4:])

    def since(self, before: "Adjustment") -> dict[str, float | None]:
        """Return the settings in which this differs from an earlier adjustment, with their values now."""
        return {name: new for name, old, new in zip(self._fields, before, self, strict=True) if new != old}

    def words(self, before: "Adjustment") -> list[str]:
        """Return `since` in words."""
        changed = self.since(before)
        words = [
            f"{name} × {getattr(self, field) / getattr(before, field):.4g} (now × {getattr(self, field):.4g})"
            for field, name in {"rate": "learning rate", "step": "step size", "alpha": "alpha"}.items()
            if field in changed
        ]
        if "data_noise" in changed:
            words.append(f"data noised at {self.data_noise:.3g}")
        if "trim" in changed:
            limit = "without limit" if self.trim is None else f"up to {self.trim:g} deviations above the data"
            words.append(f"negatives count {limit}")
        return words


class Objective(nn.Module, ABC, Generic[Model]):
    r"""A loss of a model on a batch of data.

    The annotation of ``model`` in `forward` names the models that it trains: an `Energy`, or one of those in
    ``Objective[Denoiser]`` and ``Objective[EnergyDenoiser]``.

    Its state, such as chains or :math:`\log Z`, is in buffers and parameters, so that a snapshot holds it. It never
    steps an optimiser.
    """

    level: float = 0.0
    """Standard deviation of the noise on the data whose law the model learns; 0 for clean data."""

    confined: Callable[[Tensor], Tensor] = staticmethod(unconfined)
    """Brings points into the box that the model learns a law on."""

    conditional: bool = False
    """Whether the model takes the classes of the data."""

    temperature: float = 1.0
    """:math:`T` of the law :math:`\\exp(-E / T)` that the model learns."""

    progress: float = 0.0
    """Share of the budget that is used, from 0 to 1; `fit` sets it before each step."""

    @abstractmethod
    def forward(
        self, model: Model, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        """Return the loss and its facts.

        Args:
            model: The model to train.
            x: Data, ``(B, *)``.
            label: Class of each point, ``(B,)``.
            generator: The stream to draw from.
        """

    @final
    def noised(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Return data ``(B, *)`` as the model learns them: noised at `level`, and confined to the box of the chains."""
        return self.confined(noised(x, self.level, generator=generator)[0] if self.level else x)

    def check(self, model: nn.Module) -> None:
        """Refuse a model of the wrong kind; called once, before training.

        Args:
            model: The model to train; a compiled one is judged by its original.

        Raises:
            UserError: If `forward` takes another kind.
        """
        kind = hints_of(type(self).forward).get("model", nn.Module)
        given = getattr(model, "_orig_mod", model)
        if not isinstance(given, kind):
            fitting = [name for name, made in MODELS.items() if isinstance(made, type) and issubclass(made, kind)]
            ours = isinstance(given, tuple(made for made in MODELS.values() if isinstance(made, type)))
            raise UserError(
                f"{type(self).__name__} trains models of kind {kind.__name__} ({', '.join(fitting)}); "
                f"it was given {type(given).__name__}{'' if ours else f': wrap it in es.{MODELS[fitting[0]].__name__}'}"
            )

    def adjust(self, adjustment: Adjustment) -> None:
        """Apply the guards' changes to the settings that this objective has; ignore the others.

        Args:
            adjustment: All changes since the run began, not those since the last call.
        """

    def restart_diverged(self, model: Model, x: Tensor, *, generator: Generator | None = None) -> int:
        """Restart diverged persistent chains; return their number.

        Args:
            model: The model to train.
            x: Data, ``(B, *)``, to measure distances by.
            generator: The stream to draw from.
        """
        return 0

    if TYPE_CHECKING:

        def __call__(
            self, model: Model, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
        ) -> Loss: ...


def lazily_shaped(module: nn.Module, *names: str) -> None:
    """Let a module load buffers whose shape is unknown until the first batch of data."""

    def make_room(owner: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in names:
            loaded, buffer = state.get(prefix + name), owner.get_buffer(name)
            if loaded is not None and loaded.shape != buffer.shape:
                setattr(owner, name, torch.empty_like(loaded, device=buffer.device))

    module.register_load_state_dict_pre_hook(make_room)
