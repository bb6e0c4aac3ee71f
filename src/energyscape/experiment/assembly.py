"""A recipe made into objects."""

import copy
import math
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, cast, final

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from energyscape.data import DATASETS, Batches, Distribution, Images, batches
from energyscape.errors import UserError
from energyscape.experiment.precision import autocast_dtype
from energyscape.experiment.recipe import Recipe, plain
from energyscape.experiment.settings import MOST_THREADS, Budget, Guarding, Sampling, Solving, Training
from energyscape.files import foreign
from energyscape.memory import require_memory
from energyscape.models import MODELS, Denoiser, Energy, EnergyDenoiser
from energyscape.objectives import OBJECTIVES, Objective, ReplayBuffer
from energyscape.objectives.base import Adjustment, unconfined
from energyscape.objectives.contrastive import evaluating
from energyscape.registry import build, construct, schema
from energyscape.rng import generator_for, global_seed, seed_for
from energyscape.samplers.base import zero_energy
from energyscape.samplers.driver import Compile
from energyscape.training import Fit, Snapshot, averaged


@final
class Experiment:
    """The objects that a recipe describes, each made when first asked for.

    Args:
        recipe: What to make.
        shape: Shape of one data point, where it is known without the data; else the data tell.

    Raises:
        UserError: If the recipe cannot be built.
    """

    def __init__(self, recipe: Recipe, *, shape: tuple[int, ...] | None = None) -> None:
        self.recipe = recipe.resolved()
        tables = self.recipe.tables
        self.training: Training = construct(Training, "[train]", tables["train"])
        self.sampling: Sampling | Solving = construct(
            plain("sampler", tables["sampler"]), "[sampler]", tables["sampler"]
        )
        self.guarding: Guarding = construct(Guarding, "[guard]", tables["guard"])
        if self.training.threads is not None:
            torch.set_num_threads(min(self.training.threads, MOST_THREADS))
        self.shape = self.source.shape if shape is None else shape
        self.objective: Objective[Any] = self._built("objective", OBJECTIVES)
        if not self.objective.temperature > 0:
            raise UserError(
                "objective.kernel has temperature 0, so that its chains follow no law and none can be sampled later: "
                "give it a positive one, such as 1, or lower step_size for less noise"
            )
        with torch.device("meta"), _Unfilled():
            size = sum(each.numel() for each in self._built("model", MODELS).parameters())
        # Training keeps gradients, two moments, an average and three snapshots too.
        require_memory((8 if shape is None else 3) * 4 * size, f"a model of {size:,} parameters")
        with global_seed(seed_for(self.training.seed, "weights")):
            self.model: Energy | Denoiser = self._built("model", MODELS)
        self.objective.check(self.model)
        self.model.to(self.training.torch_device)
        self.objective.to(self.training.torch_device)
        self.average: AveragedModel | None = None
        if self.training.ema_half_life is not None:
            self.average = averaged(
                self.model, half_life=self.training.ema_half_life, batch_size=self.training.batch_size
            )

    @cached_property
    def source(self) -> Distribution | Images:
        """The training data."""
        return self._data()

    @cached_property
    def held_out(self) -> Distribution | Images:
        """Data that training does not see: a law is its own, images have a test split.

        Raises:
            UserError: If training saw that split too.
        """
        if isinstance(self.source, Distribution):
            return self.source
        split = self.recipe.tables["data"].get("split", "train")
        if split != "train":
            raise UserError(
                f"nothing is held out: the run's data are the split {split!r}; "
                "to measure and report a run, train it on --data.split train"
            )
        return self._data(split="test")

    @property
    def budget(self) -> Budget:
        """When training ends."""
        epoch = None if isinstance(self.source, Distribution) else len(self.source)
        return Budget.parse(self.training.budget, epoch=epoch)

    @property
    def best(self) -> Energy | Denoiser:
        """The model to use: with averaged weights where there are any."""
        return self.model if self.average is None else cast("Energy | Denoiser", self.average.module)

    @property
    def level(self) -> float:
        """The noise level at which the model is nearest to the data; 0 where it learns data as they are."""
        if not self.has_chains and isinstance(self.best, EnergyDenoiser):
            return self.objective.level or self.solving.levels()[-2]
        return self.objective.level

    @property
    def energy(self) -> Energy:
        """The energy to use, at the lowest noise level that was learned.

        Raises:
            UserError: If the model is a denoiser without energy.
        """
        best = self.best
        if isinstance(best, EnergyDenoiser):
            return best.at(self.level)
        if not isinstance(best, Energy):
            raise UserError(
                f"this run's model is a denoiser ({type(best).__name__}), which has no energy: train one with "
                "--model.name energy-denoiser for energies and what is made of them"
            )
        return best

    @property
    def has_energy(self) -> bool:
        """Whether the model is an energy, or one at each noise level."""
        return isinstance(self.best, Energy | EnergyDenoiser)

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser to use.

        Raises:
            UserError: If the model is none.
        """
        if not isinstance(self.best, Denoiser):
            raise UserError(
                f"this run's model is an energy ({type(self.best).__name__}) at one noise level, and no denoiser of all"
            )
        return self.best

    @property
    def has_chains(self) -> bool:
        """Whether samples come from chains on an energy, and not from a solver."""
        return isinstance(self.sampling, Sampling)

    @property
    def chains(self) -> Sampling:
        """How chains are run on the energy.

        Raises:
            UserError: If samples come from a solver instead.
        """
        if not isinstance(self.sampling, Sampling):
            raise UserError("this run's sampler comes down the noise levels with a solver: it has no chains")
        return self.sampling

    @property
    def solving(self) -> Solving:
        """How a solver comes down the noise levels.

        Raises:
            UserError: If samples come from chains instead.
        """
        if not isinstance(self.sampling, Solving):
            raise UserError("this run's sampler runs chains on an energy: it has no solver")
        return self.sampling

    def check(self) -> None:
        """Refuses to be trained where settings do not go together.

        Raises:
            UserError: If the budget cannot be read, the model cannot be compiled, bounds of chains leave out data, or
                the model is to be told classes that the data have not or that its network has no room for.
        """
        training, budget, _ = self.training, self.budget, self._compile()
        training.check_machine()
        if budget.samples is not None and budget.samples < training.batch_size:
            raise UserError(
                f"a budget of {budget.samples:,} samples is less than one batch of {training.batch_size:,}: say "
                f"{budget.samples}s for seconds, {budget.samples}k for thousands of samples, or lower train.batch_size"
            )
        self._check_batch()
        self._check_bounds()
        if self.has_chains and self.chains.descent is not None:
            self.chains.descend(self.energy)
        if not self.objective.conditional:
            return
        images = self.source if isinstance(self.source, Images) else None
        labels = None if images is None else images.labels
        room = self.model.classes if isinstance(self.model, Denoiser) else 0
        there = 0 if images is None or labels is None else len(images.classes) or int(labels.max()) + 1
        if not there or room != there:
            raise UserError(
                f"objective.label_dropout tells the model classes: the data have {there}, the network was made for "
                f"{room}. Give its setting classes = {there}, or label_dropout = 'none'"
                if there
                else "objective.label_dropout tells the model classes, and the data have none: set it to 'none'"
            )

    def _check_batch(self) -> None:
        """Refuse a batch or a replay buffer that does not fit in memory, by what one point takes."""
        n, size = self.training.batch_size, math.prod(self.shape)
        for part in self.objective.modules():
            if isinstance(part, ReplayBuffer):
                part.check(n)
                require_memory(part.capacity * (32 + 12 * size), f"a replay buffer of {part.capacity:,} chains")
        sizes = [size]
        x = torch.zeros(1, *self.shape, device=self.training.torch_device)
        hooks = [
            each.register_forward_hook(lambda _layer, _x, y: sizes.append(y.numel()))
            for each in self.model.modules()
            if next(each.children(), None) is None
        ]
        with evaluating(self.model), torch.no_grad():
            _ = self.model(x, x.new_ones(1)) if isinstance(self.model, Denoiser) else self.model(x)
        for hook in hooks:
            hook.remove()
        require_memory(3 * 4 * n * sum(sizes), f"train.batch_size {n:,}")  # forward, backward and working copies

    def _check_bounds(self) -> None:
        kernel = self.sampling.kernel(zero_energy) if isinstance(self.sampling, Sampling) else None
        boxes = {
            "objective": self.objective.confined,
            "sampler": kernel.confined if kernel and kernel.bounds else unconfined,
        }
        for section, confined in boxes.items():
            if confined is not unconfined and not torch.equal(confined(reach := _reach(self.source)), reach):
                low, high = reach.tolist()
                fitting = [math.floor(100 * low) / 100, math.ceil(100 * high) / 100]
                raise UserError(
                    f"{section}.kernel.bounds leave out data, which reach from {low:g} to {high:g}: "
                    f"set them to {fitting} or wider"
                )

    def fit(self) -> Fit[Any]:
        """Returns the training run, at its beginning.

        Raises:
            UserError: If settings do not go together, as `check` says.
        """
        training = self.training
        self.check()
        budget = self.budget
        return Fit(
            self.model,
            self.objective,
            self.batches(),
            self._optimiser(),
            samples=budget.samples,
            seconds=budget.seconds,
            clock=time.process_time if budget.processor else time.monotonic,
            schedule=training.rate_factor,
            clip=training.clip,
            average=self.average,
            guards=self.guarding.guards(),
            snapshot_every=training.checkpoint_every,
            rollbacks=self.guarding.rollbacks,
            seed=training.seed,
            autocast=autocast_dtype(training.precision, training.torch_device),
            compile=self._compile(),
        )

    def batches(self) -> Batches:
        """Returns the data of training, from their beginning."""
        training = self.training
        device = training.torch_device
        return batches(self.source, training.batch_size, seed=training.seed, device=device, flips=training.flips)

    def load(self, snapshot: Snapshot) -> None:
        """Takes over what a snapshot has learned, to use it.

        Args:
            snapshot: Of a run of this recipe.

        Raises:
            UserError: If it is the snapshot of something else.
        """
        tree = snapshot.copy()
        modules: list[tuple[str, nn.Module | None]] = [
            ("model", self.model),
            ("average", self.average),
            ("objective", self.objective),
        ]
        for name, module in modules:
            if module is not None:
                with foreign(f"the checkpoint's {name} does not fit this run's recipe"):
                    module.load_state_dict(tree[name])
        with foreign("the checkpoint's clock does not fit this run's recipe"):
            self.objective.adjust(Adjustment.of(tree["clock"].get("treatment", {})))
        self.best.eval()

    def with_sampler(self, changes: Mapping[str, str]) -> "Experiment":
        """Returns the same model with another sampler.

        Args:
            changes: Settings that replace the recipe's, ``sampler.setting`` to TOML text.
        """
        other = copy.copy(self)
        other.recipe = self.recipe.overridden(changes).resolved()
        table = other.recipe.tables["sampler"]
        other.sampling = construct(plain("sampler", table), "[sampler]", table)
        return other

    def _compile(self) -> Compile:
        training, denoises = self.training, isinstance(self.model, Denoiser) and not self.has_energy
        if training.compile == "auto":
            return "auto" if denoises and training.torch_device.type == "cuda" else False
        if training.compile and not denoises:
            raise UserError(
                f"train.compile = true is for denoisers without energy; the model is {type(self.model).__name__}, "
                "which is differentiated twice or by chains: set it to false or 'auto' "
                "(objective.compile compiles the chains of contrastive divergence)"
            )
        return training.compile

    def _optimiser(self) -> Optimizer:
        parameters = [*self.model.parameters(), *self.objective.parameters()]
        training = self.training
        return Adam(parameters, lr=training.learning_rate, betas=(training.beta1, training.beta2), fused=True)

    def _built(self, section: str, registry: Any) -> Any:
        table = dict(self.recipe.tables[section])
        return build(registry, table.pop("name"), table, shape=self.shape)

    def _data(self, **changes: Any) -> Distribution | Images:
        table = {**self.recipe.tables["data"], **changes}
        name = table.pop("name")
        if "split" in changes and "split" not in schema(DATASETS[name]):
            raise UserError(f"dataset {name!r} has no {changes['split']} split")
        data: Distribution | Images = build(DATASETS, name, table)
        return data


class _Unfilled(TorchFunctionMode):
    """Leave out the normal numbers of new weights, whose meta kernel takes seconds to import."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.normal_ else func(*args, **(kwargs or {}))


def _reach(source: Distribution | Images) -> Tensor:
    """Return the lowest and the highest number in the data, or in many draws of a law."""
    if isinstance(source, Distribution):
        return torch.stack(source.sample(PART, generator=generator_for(0, "reach")).aminmax())
    parts = [source.floats(slice(i, i + PART)).aminmax() for i in range(0, len(source), PART)]
    return torch.stack([min(low for low, _ in parts), max(high for _, high in parts)])


PART: Final = 4_096
"""Images that are looked at at a time, and draws of a law."""


def seeded(
    experiment: Experiment, seed: int | None, role: str, *, device: torch.device | str | None = None
) -> torch.Generator:
    """Returns a generator for using a trained model.

    Args:
        experiment: Whose seed is the default.
        seed: Of the stream; the run's own when left out.
        role: What it is for.
        device: Where its tensors live; the run's own when left out.
    """
    seed = experiment.training.seed if seed is None else seed
    return generator_for(seed, role, device=device or experiment.training.torch_device)
