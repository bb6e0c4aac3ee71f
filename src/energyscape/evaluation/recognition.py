r"""Whether another model, trained on real labelled images only, recognises what a generator made.

A support vector machine gives a class :math:`k` and, calibrated, a probability :math:`p_k(x)`. An image is recognised
surely if :math:`\max_k p_k(x)` reaches a threshold.

A classifier of real classes alone must call everything one of them: trained on scikit-learn's digits, it was sure of
55 % of uniform noise and of every black image. So the judge also learns a class of debris made from the real images
(pixels shuffled, noise added, noise alone, flat grey), which is never an answer: of the same noise it is then sure in
0 %, of held-out digits in 98 % instead of 91 %. (On MNIST: of noise 0 % instead of 99 %, of held-out digits 97 % both.)

The share of such images, :math:`c` of :math:`n`, has the error

.. math:: \sqrt{\tilde p\, (1 - \tilde p) / (n + 4)}, \qquad \tilde p = \frac{c + 2}{n + 4},

which stays positive at shares of zero and one.

References:
    Approximate is better than "exact" for interval estimation of binomial proportions (Agresti & Coull, 1998).
    https://doi.org/10.2307/2685469
"""

from typing import NamedTuple, Protocol, final

import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Generator, Tensor

from energyscape.errors import UserError
from energyscape.noise import normal_like, uniform_like
from energyscape.rng import generator_for

LIMIT = 6_000
"""Most images that a judge is trained on; of 28×28 pixels they take one core half a minute, twice as many two."""


class Recogniser(Protocol):
    """Whoever tells classes of images apart: a `Judge` or a `Classifier`."""

    classes: int

    def confidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest class of each image and its probability."""


@final
class Judge:
    r"""A classifier of real images, to look at generated ones with.

    A radial-basis support vector machine on pixels in [-1, 1], its probabilities calibrated on held-out folds.

    A high probability says "nearer to this class than to another or to debris", not "real": on digits it still is sure
    of eight tenths of blurred ones and of nine tenths of those turned upside down. Report `distances.nearest` too.

    Args:
        images: Real images, ``(N, *)``; of more than 6,000, as many are drawn, always the same.
        labels: Class of each, whole numbers from zero, ``(N,)``; at least three images of each class that occurs.
        debris: Images of each of four kinds of debris, in units of the number of real ones; 0 leaves the class out.

    Raises:
        UserError: If images and labels do not match, or a class has too few images.

    Examples:
        >>> x = torch.cat([torch.full((20, 1, 2, 2), -0.5), torch.full((20, 1, 2, 2), 0.5)])
        >>> x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        >>> label, probability = Judge(x, torch.arange(2).repeat_interleave(20)).confidence(x[[0, 39]])
        >>> label
        tensor([0, 1])
    """

    def __init__(self, images: Tensor, labels: Tensor, *, debris: float = 0.1) -> None:
        if labels.shape != images.shape[:1]:
            raise UserError(f"one label for each of {len(images)} images; labels were {tuple(labels.shape)}")
        if len(images) > LIMIT:
            some = torch.randperm(len(images), generator=generator_for(0, "judge"))[:LIMIT]
            images, labels = images[some.to(images.device)], labels[some.to(labels.device)]
        count = torch.bincount(labels)
        if int((count > 0).sum()) < 2 or int(count[count > 0].min()) < 3:
            raise UserError(f"at least 2 classes of at least 3 images; classes 0, 1, … have {count.tolist()}")
        self.classes = len(count)
        """Number of classes, one more than the highest label."""
        self._shape = images.shape[1:]
        # SVC(probability=True) would do the same, but scikit-learn 1.9 deprecates it.
        self._model = CalibratedClassifierCV(SVC(C=10.0), ensemble=False, cv=3)
        flat, labels = images.flatten(1).cpu().float(), labels.cpu()
        each = max(3, round(debris * len(flat))) if debris > 0 else 0
        nothing = corruptions(flat, each, generator=generator_for(0, "debris"))
        known = torch.cat([labels, labels.new_full((len(nothing),), self.classes)])
        self._model.fit(torch.cat([flat, nothing]).numpy(), known.numpy())

    def confidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest class of each image, debris apart, and its probability."""
        if x.shape[1:] != self._shape:
            raise UserError(f"the judge knows images {tuple(self._shape)}; these were {tuple(x.shape[1:])}")
        flat = x.detach().flatten(1).cpu().float()
        finite = flat.isfinite().all(1)
        label, probability = torch.full((len(x),), -1), torch.zeros(len(x))
        if finite.any():
            real = self._model.classes_ < self.classes
            table = torch.from_numpy(self._model.predict_proba(flat[finite].numpy())[:, real])
            probability[finite], index = table.float().max(1)
            label[finite] = torch.from_numpy(self._model.classes_[real])[index]
        return label, probability


def corruptions(flat: Tensor, n: int, *, generator: Generator | None = None) -> Tensor:
    """Return pictures of nothing, made from real ones: pixels shuffled, noise added, noise alone, flat grey."""
    one, other = (flat[torch.randint(len(flat), (n,), generator=generator)] for _ in range(2))
    shuffled = one.gather(1, uniform_like(one, generator=generator).argsort(1))
    noised = other + normal_like(one, generator=generator)
    noise = 2 * uniform_like(one, generator=generator) - 1
    grey = 2 * uniform_like(one[:, :1], generator=generator) - 1
    return torch.cat([shuffled, noised, noise, grey + 0.1 * normal_like(one, generator=generator)])


class Recognition(NamedTuple):
    """How much of a set of images a judge recognises, and as what.

    Args:
        sure: Share of images whose likeliest class reaches the threshold.
        sure_error: Its standard error.
        shares: Of the sure images, the share of each class, ``(classes,)``; zeros if none is sure.
        share_errors: Their standard errors, ``(classes,)``.
        judged: Number of images.
    """

    sure: float
    sure_error: float
    shares: Tensor
    share_errors: Tensor
    judged: int


def recognise(judge: Recogniser, x: Tensor, threshold: float = 0.8) -> Recognition:
    """Return how many images a judge is sure of, and which classes it sees in them.

    Report it beside the same number for held-out real images: that is the goal, not one. The standard errors are those
    of independent images; draws of one chain are worth fewer.
    """
    if not 0 < threshold <= 1 or len(x) == 0:
        raise UserError(f"a threshold in (0, 1] and at least one image; there were {threshold} and {len(x)}")
    label, probability = judge.confidence(x)
    sure = probability >= threshold
    count = torch.bincount(label[sure], minlength=judge.classes).double()
    total = int(sure.sum())
    return Recognition(
        total / len(x),
        float(_error(torch.tensor(float(total)), len(x))),
        count / max(total, 1),
        _error(count, total),
        len(x),
    )


def _error(count: Tensor, n: int) -> Tensor:
    share = (count + 2) / (n + 4)
    return (share * (1 - share) / (n + 4)).sqrt()
