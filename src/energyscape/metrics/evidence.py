"""Draws from a trained run for its metrics: made once, stored beside the run, and read again."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import torch
from safetensors.torch import save
from torch import Generator, Tensor

from energyscape import __version__
from energyscape.data import Dataset, Rows
from energyscape.errors import UserError
from energyscape.evaluation import Classifier, Inception, classifier_for
from energyscape.files import as_json, read_tensors, write_whole
from energyscape.inference import Chains, Descent, Generated, Trained
from energyscape.recipe import Experiment

SAMPLES: Final = 1_000
"""Samples that are judged by default."""

SMALLEST: Final = 8
"""Least side of an image that the classifier can see."""


def numbers(values: Iterable[float | None]) -> list[float]:
    """Return numbers read from JSON, which writes NaN as null."""
    return [math.nan if each is None else each for each in values]


def digest_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of named tensors and a text."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@final
class Evidence:
    """Samples, restorations and other draws of a trained run, for one seed.

    Each field is computed when first asked for. With a `folder`, draws are kept there, and read again as long as
    checkpoint, seed, number of samples and sampler are the same.

    Args:
        experiment: With trained weights.
        n: Number of samples that are judged, at least 4.
        steps: Steps of the chains that draw them; the recipe's by default.
        seed: Seed of all random streams; the run's by default.
        folder: Folder of the draws; None stores none.

    Raises:
        UserError: If there are fewer than four samples.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        n: int = SAMPLES,
        steps: int | None = None,
        seed: int | None = None,
        folder: Path | None = None,
    ) -> None:
        if n < 4:
            raise UserError(f"at least 4 samples are judged; {n} were asked for")
        self.experiment, self.n, self.steps, self.folder = experiment, n, steps, folder
        self.inception: Inception | None = None  # network of published Fréchet distances
        self.seed = experiment.training.seed if seed is None else seed

    @cached_property
    def trained(self) -> Trained:
        """The trained model of the run."""
        return self.experiment.trained

    @property
    def source(self) -> Dataset:
        """The training data."""
        return self.experiment.source

    @property
    def held_out(self) -> Dataset:
        """Data that training did not see."""
        return self.experiment.held_out

    @property
    def chains(self) -> Chains | None:
        """The sampler if it runs chains."""
        return self.trained.sampler if isinstance(self.trained.sampler, Chains) else None

    @property
    def descent(self) -> Descent | None:
        """The sampler if it comes down noise levels with a solver."""
        return self.trained.sampler if isinstance(self.trained.sampler, Descent) else None

    def stream(self, role: str, *, device: torch.device | str = "cpu") -> Generator:
        """Return the random stream of a role."""
        return self.trained.stream(role, seed=self.seed, device=device)

    @property
    def protocol(self) -> str:
        """The sampling protocol, in words."""
        return self.trained.sampler.describe(self.trained, self.n, self.steps)

    @cached_property
    def checkpoint(self) -> str:
        """Digest of the weights and the chains."""
        objective = {f"objective.{name}": each for name, each in self.trained.objective.state_dict().items()}
        return digest_of(self.trained.model.state_dict() | objective)

    @cached_property
    def origin(self) -> str:
        """Digest of everything that the draws depend on."""
        sampler = self.experiment.recipe.tables["sampler"]
        facts = [__version__, self.checkpoint, self.seed, self.n, self.steps, sampler]
        return hashlib.sha256(as_json(facts).encode()).hexdigest()

    def kept(
        self, name: str, draw: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and facts that `draw` makes, from their file if they were made before."""
        if self.folder is None:
            return draw()
        path = self.folder / f"{name}.safetensors"
        with suppress(UserError, KeyError):  # what is not there, or damaged, is drawn again
            tensors, metadata = read_tensors(path, "draws of an evaluation")
            if metadata["seal"] == self._seal(tensors, metadata["facts"]):
                return tensors, json.loads(metadata["facts"])
        tensors, facts = draw()
        metadata = {"facts": as_json(facts)}
        metadata["seal"] = self._seal(tensors, metadata["facts"])
        with suppress(UserError):  # in a folder that is read only, draws are not kept
            write_whole(path, save({key: each.contiguous() for key, each in tensors.items()}, metadata))
        return tensors, json.loads(metadata["facts"])

    def _seal(self, tensors: dict[str, Tensor], facts: str) -> str:
        """Return a digest of draws and of everything that they depend on."""
        return digest_of(tensors, self.origin + facts)

    @cached_property
    def generated(self) -> Generated:
        """Samples, and the paths of the first chains: finely for a film in the plane, in nine pictures of images."""

        def draw() -> tuple[dict[str, Tensor], dict[str, Any]]:
            frames = 9 if self.source.space.is_image else 40
            drawn = self.trained.sample(self.n, steps=self.steps, frames=frames, seed=self.seed)
            return {"x": drawn.x, "path": drawn.path}, {"at": drawn.at, "diverged": drawn.diverged}

        tensors, facts = self.kept("samples", draw)
        return Generated(tensors["x"], tensors["path"], facts["at"], facts["diverged"])

    @cached_property
    def classifier(self) -> Classifier | None:
        """A network that knows the classes of the training images; None without labelled images."""
        source = self.source
        seen = source.space.is_image and source.labels is not None and min(source.shape[1:]) >= SMALLEST
        return classifier_for(source) if seen and isinstance(source, Rows) else None
