r"""A convolutional classifier of generated images, whose features compare sets of images.

.. math:: h = f_\theta(x), \qquad p_k(x) = \frac{e^{a_k \cdot h + b_k}}{\sum_{j \le K} e^{a_j \cdot h + b_j}}

Class :math:`K` is debris (`recognition.corruptions`), never an answer. The classifier names 99.3 % of MNIST's test
images rightly and is sure, at 0.9, of 97.9 %. Of noise, shuffled, inverted and plain images it is sure of 0.1 % at
most. But it takes 72 % of Fashion-MNIST and 32 % of KMNIST for digits: it separates classes, and does not detect
digits.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from energyscape.data import Rows, Space, batches
from energyscape.data.download import learned_folder
from energyscape.errors import UserError
from energyscape.evaluation.recognition import corruptions
from energyscape.noise import normal_like, uniform_like
from energyscape.rng import generator_for, global_seed, seed_for
from energyscape.training import Snapshot

FEATURES: Final = 128
"""Number of features of an image."""

SAMPLES: Final = 180_000
"""Most images of training: three epochs of MNIST."""

EPOCHS: Final = 30
"""Most epochs of training, for small sets."""

BATCH: Final = 128

RATE: Final = 3e-3
"""The highest learning rate."""

NOISE: Final = 0.3
"""The most noise, in units of ``x``, under which an image keeps its class in training."""

MOVE: Final = 14
"""Part of an image's side by which training shifts it at most: two pixels of 28, none of 8."""

SHARE: Final = 0.04
"""Share of a batch that each of the four kinds of debris adds."""

VERSION: Final = 1
"""Version of network and training; change it with either, so that older files are not used."""


@final
class Classifier(nn.Module):
    """A network of strided convolutions for images of one size.

    Like any classifier it answers "which class", not "how real": a blurred three is a three. So compare sets on its
    features. The constructor does not train; `classifier_for` does.

    Args:
        shape: Channels, height and width of one image, at least 8×8.
        classes: Number of classes of real images.

    Examples:
        >>> classifier = Classifier((1, 8, 8), 10)
        >>> classifier.features(torch.zeros(3, 1, 8, 8)).shape, classifier.probabilities(torch.zeros(3, 1, 8, 8)).shape
        (torch.Size([3, 128]), torch.Size([3, 10]))
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        if not Space(shape).is_image or min(shape[1:]) < 8 or classes < 2:
            raise UserError(f"images (C, H, W) of at least 8×8 and 2 classes; they were {shape} and {classes}")
        self.shape, self.classes = shape, classes
        channels, height, breadth = shape
        layers: list[nn.Module] = []
        width = 32
        while max(height, breadth) > 4 and min(height, breadth) > 1:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
            channels, width = width, min(2 * width, 128)
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * breadth, FEATURES), nn.SiLU())
        self.head = nn.Linear(FEATURES, classes + 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all classes, debris last."""
        if x.shape[1:] != self.shape:
            raise UserError(f"the classifier knows images {self.shape}; these were {tuple(x.shape[1:])}")
        logits: Tensor = self.head(self.body(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the activations under the last layer; all non-finite for an image that is not finite."""
        return torch.cat([self.body(part.float()) for part in x.split(500)])

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probability of each class; the rest to one is the probability of debris."""
        parts = [self(part.float()).softmax(1)[:, :-1] for part in x.split(500)]
        return torch.cat([x.new_zeros(0, self.classes, dtype=torch.float32), *parts]).nan_to_num(0.0)

    def confidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest class of each image, debris apart, and its probability; -1 and 0 if it is not finite."""
        probability, label = self.probabilities(x).cpu().max(1)
        finite = x.detach().flatten(1).isfinite().all(1).cpu()
        return label.where(finite, -1), probability.where(finite, 0.0)


def train_classifier(images: Rows, *, samples: int = SAMPLES, seed: int = 0) -> Classifier:
    """Return a classifier of a data set, trained by cross-entropy: about a minute on one core for 28×28 pixels.

    Each batch is shifted a little, half of it gets noise of up to 0.3, and debris made of it is added. The same data,
    seed and number of threads give the same bits.
    """
    if images.labels is None or len(images) < 2 or samples < BATCH:
        raise UserError(
            f"{images.name}: a classifier needs labelled images and at least {BATCH} samples of them; there were "
            f"{len(images)} images {'without' if images.labels is None else 'with'} labels and {samples} samples"
        )
    with global_seed(seed_for(seed, "classifier")):
        classifier = Classifier(images.shape, int(images.labels.max()) + 1).train()
    generator = generator_for(seed, "augmentation")
    optimiser = AdamW(classifier.parameters(), lr=RATE, weight_decay=1e-2)
    steps = samples // BATCH
    schedule = OneCycleLR(optimiser, max_lr=RATE, total_steps=steps, pct_start=0.2)
    stream = batches(images.to("cpu"), BATCH, seed=seed)
    for _ in range(steps):
        x, label = next(stream)
        assert label is not None
        y, known = _augmented(x, label, classifier.classes, generator)
        optimiser.zero_grad()
        cross_entropy(classifier(y), known).backward()
        optimiser.step()
        schedule.step()
    return classifier.eval()


def _augmented(x: Tensor, label: Tensor, classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return a training batch: shifted, half of it noised, with debris at its end."""
    nothing = corruptions(x.flatten(1), max(1, round(SHARE * len(x))), generator=generator).unflatten(1, x.shape[1:])
    far = min(x.shape[2:]) // MOVE
    down, right = (int(torch.randint(-far, far + 1, (), generator=generator)) for _ in range(2))
    moved = x.roll((down, right), (2, 3))
    level = NOISE * uniform_like(x[:, :1, :1, :1], generator=generator)
    level[::2] = 0
    y = moved + level * normal_like(x, generator=generator)
    return torch.cat([y, nothing]), torch.cat([label, label.new_full((len(nothing),), classes)])


def classifier_for(images: Rows, *, seed: int = 0) -> Classifier:
    """Return the classifier of a data set from the cache, or train and cache it.

    The file's name is a hash of the data, the settings and the seed. A damaged file is replaced, and this is logged. If
    the cache is not writable, the classifier is trained each time.
    """
    path = cached_at(images, seed=seed)
    if path.exists() and (known := _loaded(path, images)) is not None:
        return known
    classifier = train_classifier(images, samples=max(BATCH, min(SAMPLES, EPOCHS * len(images))), seed=seed)
    try:
        Snapshot.of({"classifier": classifier.state_dict()}).save(path)
    except UserError as error:
        logging.getLogger("energyscape").warning("energyscape: the classifier is not kept: %s", error)
    return classifier


def cached_at(images: Rows, *, seed: int = 0) -> Path:
    """Return the path of a data set's trained classifier."""
    if images.labels is None:
        raise UserError(f"{images.name}: a classifier needs labelled images; these have no labels")
    settings = (
        VERSION,
        FEATURES,
        SAMPLES,
        EPOCHS,
        BATCH,
        RATE,
        NOISE,
        MOVE,
        SHARE,
        seed,
        images.shape,
        images.grey_levels,
    )
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=10)
    for tensor in images.tensors():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return learned_folder("classifiers") / f"{digest.hexdigest()}.safetensors"


def _loaded(path: Path, images: Rows) -> Classifier | None:
    """Return the classifier in a file, or none if it is damaged."""
    assert images.labels is not None
    classifier = Classifier(images.shape, int(images.labels.max()) + 1)
    try:
        tree: Mapping[str, Any] = Snapshot.load(path).tree
        classifier.load_state_dict(tree["classifier"])
    except (UserError, RuntimeError, KeyError, TypeError, AttributeError):
        logging.getLogger("energyscape").warning("energyscape: %s is damaged; the classifier is trained again", path)
        return None
    return classifier.eval()
