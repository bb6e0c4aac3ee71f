"""Quality of generated images, beside real ones measured the same way."""

import math
from typing import Final, final

from torch import Tensor

from energyscape.data import Dataset
from energyscape.evaluation import Classifier, Inception, frechet_distance, haze, kernel_distance, nearest, recognise
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.metric import Measure, Metric

SURE: Final = 0.9
"""Class probability from which an image counts as recognised."""

REFERENCE: Final = 6_000
"""Training images that samples, or scores of outliers, are compared with."""


class OfClassifier(Measure):
    """Numbers that need a classifier of the training images."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.classifier is not None


def classifier(evidence: Evidence) -> Classifier:
    """Return the classifier of the training images."""
    assert evidence.classifier is not None
    return evidence.classifier


@final
class Recognised(OfClassifier):
    """Share of samples that a network recognises, and how evenly they cover the classes."""

    def measure(self, evidence: Evidence) -> list[Metric]:
        judge, held_out = classifier(evidence), evidence.held_out
        seen, known = (recognise(judge, x, SURE) for x in (evidence.generated.x, everything(held_out)))
        shares = seen.shares.double()
        entropy = float(-(shares * shares.clamp(min=1e-12).log()).sum()) / math.log(len(shares))
        rarest, equal = int(shares.argmin()), 1 / len(shares)
        sure = f"share with class probability ≥ {SURE:g} by a network that knows the training images"
        error = float(seen.share_errors[rarest])
        return [
            Metric("recognised", seen.sure, seen.sure_error, f"{sure}; {evidence.protocol}", better="higher"),
            Metric("recognised, real", known.sure, known.sure_error, "the same of held-out images"),
            Metric(
                "rarest class",
                float(shares[rarest]),
                error,
                f"class {rarest}'s share of the recognised; equal: {equal:.3g}",
                better="higher",
            ),
            Metric(
                "class entropy",
                entropy,
                None,
                "of the recognised samples' classes, over that of equal shares",
                better="near 1",
                biased=True,
            ),
        ]


@final
class Features(OfClassifier):
    """Fréchet and kernel distance on the features of the classifier."""

    def measure(self, evidence: Evidence) -> list[Metric]:
        return feature_metrics(evidence, classifier(evidence))


@final
class InceptionFeatures(Measure):
    """The same on the features of the Inception network that published distances use."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.inception is not None and evidence.source.space.is_image

    def measure(self, evidence: Evidence) -> list[Metric]:
        assert evidence.inception is not None
        return feature_metrics(evidence, evidence.inception)


def feature_metrics(evidence: Evidence, network: Classifier | Inception) -> list[Metric]:
    """Return distances of samples to held-out images, and of training images the same way, on a network's features."""
    held_out, samples = evidence.held_out, evidence.generated.x
    n = min(len(samples), held_out.size or len(samples))
    train = evidence.source.draw(n, generator=evidence.stream("floor"))
    real = held_out.draw(n, generator=evidence.stream("held out"))
    x, floor, y = (network.features(each.to(real)) for each in (samples[:n], train, real))
    whose, mark = ("Inception's of 2015", ", Inception") if isinstance(network, Inception) else ("a classifier's", "")
    protocol = f"{x.shape[1]:,} features, {whose}; {n:,} held-out images and {evidence.protocol}"
    same = "the same of training images: the floor at this size"
    metrics = []
    for name, measured, least, biased in (
        ("Fréchet distance", frechet_distance(x, y), frechet_distance(floor, y), True),
        ("kernel distance", kernel_distance(x, y), kernel_distance(floor, y), False),
    ):
        metrics += [
            Metric(f"{name}{mark}", measured.value, measured.error, protocol, better="lower", biased=biased),
            Metric(f"{name}{mark}, real", least.value, least.error, same, biased=biased),
        ]
    return metrics


@final
class TrainingDistance(Measure):
    """Distance of samples to their nearest training images: 0 for copies."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.source.space.is_image

    def measure(self, evidence: Evidence) -> list[Metric]:
        source = evidence.source
        images = source.draw(min(source.size or REFERENCE, REFERENCE), generator=evidence.stream("measure"))
        real = nearest(evidence.held_out.head(1_000), images).median()
        ratio = float(nearest(evidence.generated.x, images).median() / real)
        protocol = "median nearest-neighbour distance over held-out images'; 0: copies"
        return [Metric("distance to training", ratio, None, protocol, better="near 1")]


@final
class Haze(Measure):
    """Share of nearly black pixels: noise that a model leaves on black."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.source.space.is_image

    def measure(self, evidence: Evidence) -> list[Metric]:
        protocol = "share of pixels between 0.5 and 10 % of the way from black to white"
        return [
            Metric("haze", haze(evidence.generated.x), None, f"{protocol}; {evidence.protocol}", better="lower"),
            Metric("haze, real", haze(evidence.held_out.head(1_000)), None, "the same of held-out images"),
        ]


def everything(data: Dataset, most: int = 10_000) -> Tensor:
    """Return all rows of a dataset, or the first of very many."""
    return data.head(min(data.size or most, most))
