r"""Sums of objectives.

If each part is least at the truth, so is a sum of parts with positive weights: :math:`L = \sum_i w_i L_i`. Parts
complement each other: score matching learns slopes and no masses of islands; noise contrast learns masses, and
slopes only slowly.
"""

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Generator, Tensor, nn

from energyscape.models.energy import Energy
from energyscape.objectives.base import Adjustment, Loss, Objective
from energyscape.objectives.noise_contrastive import NoiseContrastiveEstimation, NoiseLaw
from energyscape.objectives.score_matching import SlicedScoreMatchingVR


@final
class Weighted(Objective[nn.Module]):
    r"""A weighted sum of objectives.

    .. math:: L(\theta) = \sum_i w_i(t)\, L_i(\theta)

    The parts must learn the same law: one that learns noised data pulls a sum away from the data's own law. A score
    matching loss has the unit :math:`1 / x^2`, so that its weight is a squared length; others are in nats.

    The first part keeps the names of its facts; a later part's fact of the same name ends in its number, as in
    ``accuracy_2``. The parts' losses are facts too: ``part_1``, ``part_2``, ….

    Args:
        parts: The objectives, at least one.
        weights: :math:`w_i \ge 0` of each part at the beginning; 1 each by default.
        last_weights: Weights at the end of the budget, linear in the share of it that is used; none keeps them.

    Raises:
        ValueError: If there is no part, the weights are not one for each part or negative, or the parts learn laws of
            different noise or temperature.

    Examples:
        >>> from energyscape.objectives import NoiseContrastiveEstimation, ScoreMatching
        >>> objective = Weighted((NoiseContrastiveEstimation(), ScoreMatching()), weights=(1.0, 0.1))
    """

    def __init__(
        self,
        parts: tuple[Objective, ...],
        *,
        weights: tuple[float, ...] | None = None,
        last_weights: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.weights = (1.0,) * len(parts) if weights is None else weights
        self.last_weights = self.weights if last_weights is None else last_weights
        for each in (self.weights, self.last_weights):
            if not parts or len(each) != len(parts) or not all(0 <= weight < float("inf") for weight in each):
                raise ValueError(f"weights are not negative, one for each of {len(parts)} parts; they were {each}")
        if len(laws := {(part.level, part.temperature) for part in parts}) > 1:
            names = " and ".join(f"noise {level:g} at T = {temperature:g}" for level, temperature in sorted(laws))
            raise ValueError(f"all parts learn the same law; they learn {names}")
        self.parts = nn.ModuleList(parts)
        self.temperature, self.conditional = parts[0].temperature, any(part.conditional for part in parts)
        self.adjust(Adjustment())

    def forward(
        self, model: nn.Module, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        for part in self._each():
            part.progress = self.progress
        losses = [part(model, x, label, generator=generator) for part in self._each()]
        ends = zip(self.weights, self.last_weights, strict=True)
        return total(losses, [first + self.progress * (last - first) for first, last in ends])

    def check(self, model: nn.Module) -> None:
        for part in self._each():
            part.check(model)

    def adjust(self, adjustment: Adjustment) -> None:
        for part in self._each():
            part.adjust(adjustment)
        self.level = max(part.level for part in self._each())

    def restart_diverged(self, model: nn.Module, x: Tensor, *, generator: Generator | None = None) -> int:
        """Restart diverged chains of all parts; return their number."""
        return sum(part.restart_diverged(model, x, generator=generator) for part in self._each())

    def _each(self) -> list[Objective[Any]]:
        return cast("list[Objective[Any]]", list(self.parts))


@final
class NoiseContrastiveScoreMatching(Objective):
    r"""Noise-contrastive estimation for the masses and sliced score matching for the shapes of one energy.

    .. math:: L(\theta, c) = L_{\text{NCE}}(\theta, c) + w\, \tau^2 J(\theta), \qquad
              \tau^2 = d \,/\, E\| \nabla \log \hat p(x) \|^2

    Use it for data with islands. Score matching alone leaves their masses to chance, noise contrast alone learns their
    edges slowly. Both parts are least at the truth, so the sum is unbiased at any weight.

    The narrow variance :math:`\tau^2` of the data, see `narrow_variance`, is measured on the first batch and then
    stays. With it :math:`J` has no unit: data in other units have the same loss.

    Args:
        noise: The noise's law, as in `NoiseContrastiveEstimation`.
        ratio: Noise points for each data point; more of them steady the masses and edges.
        spread: Factor on the normal law's standard deviations and on the box's sides.
        weight: :math:`w \ge 0`, of the score's part.
        share: Share of a batch that the score's part, whose second derivatives cost most, looks at: in (0, 1].

    Raises:
        ValueError: If ``noise`` is unknown or a number is out of its range.

    References:
        Noise-contrastive estimation of unnormalized statistical models (Gutmann & Hyvärinen, 2012), section 2.
        https://www.jmlr.org/papers/v13/gutmann12a.html
        Sliced score matching (Song et al., 2019), section 3. https://arxiv.org/abs/1905.07088
    """

    variance: Tensor

    def __init__(
        self,
        *,
        noise: NoiseLaw = "mixture",
        ratio: int = 3,
        spread: float = 1.5,
        weight: float = 1.0,
        share: float = 0.25,
    ) -> None:
        super().__init__()
        if not (0 <= weight < float("inf") and 0 < share <= 1):
            raise ValueError(f"weight ≥ 0 and share in (0, 1]; they were {weight} and {share}")
        self.masses = NoiseContrastiveEstimation(noise=noise, ratio=ratio, spread=spread)
        self.shapes = SlicedScoreMatchingVR()
        self.weight, self.share = weight, share
        self.register_buffer("variance", torch.zeros(()))

    def forward(
        self, model: Energy, x: Tensor, label: Tensor | None = None, *, generator: Generator | None = None
    ) -> Loss:
        if not self.masses.contrast.fitted:
            self.variance.copy_(narrow_variance(x))
        some = x[: max(1, round(self.share * len(x)))]
        parts = [self.masses(model, x, generator=generator), self.shapes(model, some, generator=generator)]
        return total(parts, [1.0, self.weight * self.variance])


def total(losses: Sequence[Loss], weights: Sequence[float | Tensor]) -> Loss:
    """Return the weighted sum of losses, with the facts of all."""
    facts: dict[Any, Tensor] = {f"part_{i}": loss.value.detach() for i, loss in enumerate(losses, 1)}
    for i, loss in enumerate(losses, 1):
        facts |= {f"{name}_{i}" if name in facts else name: fact for name, fact in loss.facts.items()}
    return Loss(torch.stack([w * loss.value for w, loss in zip(weights, losses, strict=True)]).sum(), facts)


def narrow_variance(x: Tensor, *, points: int = 512) -> Tensor:
    r"""Return :math:`d / E\| \nabla \log \hat p(x) \|^2`: about :math:`s^2` of one normal island or of many.

    The density at a point is a kernel estimate from all others, with the bandwidth of highest leave-one-out likelihood.
    """
    x = x.detach()[:points].flatten(1)
    n, d = x.shape
    squares = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    least = torch.finfo(x.dtype).eps * x.var(0, correction=0).mean()  # of copies of the same few points
    low, high = (squares.masked_fill(itself, torch.inf).amin(1).mean() / d).clamp(min=least), squares.mean() / d
    for _ in range(HALVED):
        blur = (low * high).sqrt()
        share = (-squares / (2 * blur)).masked_fill(itself, -torch.inf).softmax(1)
        rises = blur < (share * squares).sum() / (n * d)
        low, high = torch.where(rises, blur, low), torch.where(rises, high, blur)
    slope = (share @ x - x) / blur
    return d / slope.square().sum(1).mean()


HALVED = 24
"""Bisections of the blur's logarithm between the nearest point and all points: to parts in a million."""
