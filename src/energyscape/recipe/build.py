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

from energyscape.data import DATASETS, Batches, Dataset, Space, batches
from energyscape.errors import UserError
from energyscape.files import foreign
from energyscape.inference import Sampler, Trained
from energyscape.memory import require_memory
from energyscape.models import MODELS, Denoiser, Energy
from energyscape.objectives import OBJECTIVES, Objective, ReplayBuffer
from energyscape.objectives.base import Adjustment, unconfined
from energyscape.objectives.contrastive import evaluating
from energyscape.recipe.recipe import Recipe, plain
from energyscape.recipe.settings import MOST_THREADS, Budget, Guarding, Training
from energyscape.registry import build, construct, schema
from energyscape.rng import generator_for, global_seed, seed_for
from energyscape.samplers.compiled import Compile
from energyscape.training import Fit, Snapshot, averaged
from energyscape.training.precision import autocast_dtype

REFERENCE: Final = 256
"""Training images that a run keeps for the last denoising step of its samples."""


@final
class Experiment:
    """The objects that a recipe describes, each made on first use.

    Args:
        recipe: The recipe.
        shape: Shape of one data point, where it is known without the data; else the data tell.

    Raises:
        UserError: If the recipe cannot be built.
    """

    def __init__(self, recipe: Recipe, *, shape: tuple[int, ...] | None = None) -> None:
        self.recipe = recipe.resolved()
        tables = self.recipe.tables
        self.training: Training = construct(Training, "[train]", tables["train"])
        self.sampler: Sampler = construct(plain("sampler", tables["sampler"]), "[sampler]", tables["sampler"])
        self.guarding: Guarding = construct(Guarding, "[guard]", tables["guard"])
        if self.training.threads is not None:
            torch.set_num_threads(min(self.training.threads, MOST_THREADS))
        self.space = self.source.space if shape is None else Space(shape)
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
    def source(self) -> Dataset:
        """The training data."""
        return self._data()

    @cached_property
    def reference(self) -> Tensor:
        """Some training data; a run keeps them, so that it can sample without its data set."""
        generator = generator_for(self.training.seed, "images of the last step")
        return self.source.draw(min(REFERENCE, self.source.size or REFERENCE), generator=generator)

    @cached_property
    def unseen(self) -> Dataset | None:
        """Data that training does not see: new draws, or the test split; None if training saw that split too."""
        if self.source.size is None:
            return self.source
        seen = self.recipe.tables["data"].get("split", "train") != "train"
        return None if seen else self._data(split="test")

    @property
    def held_out(self) -> Dataset:
        """Data that training does not see; refused if training saw the test split too."""
        if self.unseen is None:
            raise UserError(
                f"nothing is held out: the run's data are the split {self.recipe.tables['data']['split']!r}; "
                "to measure and report a run, train it on --data.split train"
            )
        return self.unseen

    @property
    def budget(self) -> Budget:
        """The budget of training."""
        return Budget.parse(self.training.budget, epoch=self.source.size)

    @property
    def best(self) -> Energy | Denoiser:
        """The model to use: with averaged weights where there are any."""
        return self.model if self.average is None else cast("Energy | Denoiser", self.average.module)

    @property
    def trained(self) -> Trained:
        """The model trained so far, ready for use."""
        return Trained(
            model=self.best,
            objective=self.objective,
            sampler=self.sampler,
            space=self.space,
            data=lambda: self.source,
            reference=lambda: self.reference,
            seed=self.training.seed,
            device=self.training.torch_device,
            averaged=self.average is not None,
        )

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        training, budget, _ = self.training, self.budget, self._compile()
        training.check_machine()
        if budget.samples is not None and budget.samples < training.batch_size:
            raise UserError(
                f"a budget of {budget.samples:,} samples is less than one batch of {training.batch_size:,}: say "
                f"{budget.samples}s for seconds, {budget.samples}k for thousands of samples, or lower train.batch_size"
            )
        self._check_batch()
        self._check_bounds()
        self.sampler.check(self.trained)
        if not self.objective.conditional:
            return
        source, labels = self.source, self.source.labels
        room = self.model.classes if isinstance(self.model, Denoiser) else 0
        there = 0 if labels is None else len(source.classes) or int(labels.max()) + 1
        if not there or room != there:
            raise UserError(
                f"objective.label_dropout passes classes to the model: the data have {there}, the network was made for "
                f"{room}. Give its setting classes = {there}, or label_dropout = 'none'"
                if there
                else "objective.label_dropout passes classes to the model, and the data have none: set it to 'none'"
            )

    def _check_batch(self) -> None:
        """Refuse a batch or a replay buffer that does not fit in memory, by what one point takes."""
        n, size = self.training.batch_size, math.prod(self.space.shape)
        for part in self.objective.modules():
            if isinstance(part, ReplayBuffer):
                part.check(n)
                require_memory(part.capacity * (32 + 12 * size), f"a replay buffer of {part.capacity:,} chains")
        sizes = [size]
        x = torch.zeros(1, *self.space.shape, device=self.training.torch_device)
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
        for section, confined in {"objective": self.objective.confined, "sampler": self.sampler.confined}.items():
            if confined is not unconfined and not torch.equal(
                confined(reach := torch.tensor(self.source.reach())), reach
            ):
                low, high = reach.tolist()
                fitting = [math.floor(100 * low) / 100, math.ceil(100 * high) / 100]
                raise UserError(
                    f"{section}.kernel.bounds leave out data, which reach from {low:g} to {high:g}: "
                    f"set them to {fitting} or wider"
                )

    def fit(self) -> Fit[Any]:
        """Return the training run, at its beginning."""
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
        """Return the data of training, from their beginning."""
        training = self.training
        device = training.torch_device
        return batches(self.source, training.batch_size, seed=training.seed, device=device, flips=training.flips)

    def load(self, snapshot: Snapshot) -> None:
        """Load the trained weights of a snapshot, for use; refuse the snapshot of another recipe."""
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
        """Return the same model with another sampler: ``sampler.setting`` to TOML text."""
        other = copy.copy(self)
        other.recipe = self.recipe.overridden(changes).resolved()
        table = other.recipe.tables["sampler"]
        other.sampler = construct(plain("sampler", table), "[sampler]", table)
        return other

    def _compile(self) -> Compile:
        training, denoises = self.training, self.trained.energy is None
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
        return build(registry, table.pop("name"), table, shape=self.space.shape)

    def _data(self, **changes: Any) -> Dataset:
        table = {**self.recipe.tables["data"], **changes}
        name = table.pop("name")
        if "split" in changes and "split" not in schema(DATASETS[name]):
            raise UserError(f"dataset {name!r} has no {changes['split']} split")
        data: Dataset = build(DATASETS, name, table)
        return data


class _Unfilled(TorchFunctionMode):
    """Leave out the normal numbers of new weights, whose meta kernel takes seconds to import."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.normal_ else func(*args, **(kwargs or {}))
