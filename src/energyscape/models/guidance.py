r"""Guidance: a denoiser pushed away from another one, which is a denoiser again.

For two denoisers of the same points, a good one :math:`D_1` and a poorer one :math:`D_0`,

.. math:: D_w(x, \sigma) = D_0(x, \sigma) + w\, \bigl( D_1(x, \sigma) - D_0(x, \sigma) \bigr)
          \qquad \text{where } \sigma_{\text{lo}} \le \sigma \le \sigma_{\text{hi}}, \text{ and } D_1 \text{ elsewhere.}

:math:`w = 1` is no guidance and :math:`w > 1` sharpens. The literature also writes
:math:`(1 + w') D_1 - w' D_0`, which is the same with :math:`w' = w - 1`.

A guided denoiser is not the posterior mean of any law. Its score is that of :math:`p_{1, \sigma}^w / p_{0, \sigma}^{w -
1}` at every single level, but these are not the noised versions of one law. A solver's samples from it are sharper than
either, and have no known law. Energies composed at each level and sampled with Markov chains do have one; see
`ComposedLevels`.
"""

import math
from typing import final

import torch
from torch import Tensor

from energyscape.models.denoiser import Denoiser, EnergyDenoiser

Interval = tuple[float, float]
"""Lowest and highest noise level, both included."""


@final
class Guided(Denoiser):
    r"""Classifier-free guidance: a conditional denoiser pushed away from itself without a label.

    .. math:: D_w(x, \sigma, c) = D(x, \sigma) + w\, \bigl( D(x, \sigma, c) - D(x, \sigma) \bigr)

    Train the denoiser partly without labels. Both terms come from one call of a longer batch: rows
    outside the interval, or with a label of :math:`-1`, are in it once, all others twice.

    At high levels guidance drops modes, at low ones it does little: use an interval in the middle.

    Args:
        denoiser: Takes labels, and :math:`-1` for none.
        weight: :math:`w`; 0 is unconditional, 1 conditional.
        interval: :math:`(\sigma_{\text{lo}}, \sigma_{\text{hi}})`, in units of ``x``; outside it is conditional.

    Raises:
        ValueError: If the interval is empty or ``weight`` is no number.

    Examples:
        >>> from energyscape.models import GaussianMixture, MixtureDenoiser
        >>> law = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), std=0.5)
        >>> model = Guided(MixtureDenoiser(law), weight=2.0)
        >>> model(torch.zeros(1, 2), torch.ones(1), torch.tensor([1])).detach()  # 0 + 2 (1.6 - 0)
        tensor([[3.2000, 0.0000]])

    References:
        Classifier-free diffusion guidance (Ho & Salimans, 2022), equation 6. https://arxiv.org/abs/2207.12598

        Applying guidance in a limited interval improves sample and distribution quality in diffusion models
        (Kynkäänniemi et al., 2024), equation 5. https://arxiv.org/abs/2404.07724
    """

    def __init__(self, denoiser: Denoiser, *, weight: float, interval: Interval = (0.0, math.inf)) -> None:
        super().__init__()
        _check(weight, interval)
        self.denoiser = denoiser
        self.classes = denoiser.classes
        self.weight = weight
        self.interval = interval
        self.training = denoiser.training

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.denoiser(x, sigma)
        low, high = self.interval
        twice = (low <= sigma) & (sigma <= high) & (label >= 0)
        again = label[twice]
        both = self.denoiser(
            torch.cat([x, x[twice]]), torch.cat([sigma, sigma[twice]]), torch.cat([label, torch.full_like(again, -1)])
        )
        d = both[: len(x)]
        return _pushed(d, d.index_put((twice,), both[len(x) :]), self.weight)


@final
class Autoguided(Denoiser):
    r"""Autoguidance: a denoiser pushed away from a poorer one of the same kind.

    .. math:: D_w(x, \sigma, c) = D_0(x, \sigma, c) + w\, \bigl( D(x, \sigma, c) - D_0(x, \sigma, c) \bigr)

    The guide is a smaller network, or an early snapshot, trained on the same data with the same labels. Its errors
    should be of the same sort, only larger. Labels are not needed, and variety suffers less than with `Guided`.

    Args:
        denoiser: :math:`D`.
        guide: :math:`D_0`, evaluated only inside the interval.
        weight: :math:`w`; 1 is no guidance.
        interval: :math:`(\sigma_{\text{lo}}, \sigma_{\text{hi}})`, in units of ``x``; outside it is :math:`D`.

    Raises:
        ValueError: If the interval is empty or ``weight`` is no number.

    References:
        Guiding a diffusion model with a bad version of itself (Karras et al., 2024), equation 3.
        https://arxiv.org/abs/2406.02507
    """

    def __init__(
        self, denoiser: Denoiser, guide: Denoiser, *, weight: float, interval: Interval = (0.0, math.inf)
    ) -> None:
        super().__init__()
        _check(weight, interval)
        self.denoiser = denoiser
        self.classes = denoiser.classes
        self.guide = guide
        self.weight = weight
        self.interval = interval
        self.training = denoiser.training

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        low, high = self.interval
        inside = (low <= sigma) & (sigma <= high)
        d = self.denoiser(x, sigma, label)
        poor = self.guide(x[inside], sigma[inside], None if label is None else label[inside])
        return _pushed(d, d.index_put((inside,), poor), self.weight)


@final
class Conditional(Denoiser):
    r"""A denoiser of one class, or of given classes; it closes over the label, because solvers take none.

    Args:
        denoiser: Takes labels.
        label: One class for all points; or a class for each, ``(B,)``, and then for batches of that many points only.

    Raises:
        ValueError: On a call, if there is another label or not one label for each point.

    Examples:
        >>> from energyscape.models import GaussianMixture, MixtureDenoiser
        >>> law = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), std=0.5)
        >>> Conditional(MixtureDenoiser(law), 1)(torch.zeros(1, 2), torch.ones(1)).detach()
        tensor([[1.6000, 0.0000]])
    """

    label: Tensor

    def __init__(self, denoiser: Denoiser, label: int | Tensor) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("label", torch.as_tensor(label, dtype=torch.int64), persistent=False)
        self.training = denoiser.training

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser(x, sigma, _closed(self.label, x, label))


@final
class ConditionalEnergy(EnergyDenoiser):
    r"""`Conditional` for energies: at each level the energy of one class, to compose and to sample.

    Args:
        denoiser: Takes labels.
        label: One class for all points; or a class for each, ``(B,)``, and then for batches of that many points only.

    Raises:
        ValueError: On a call, if there is another label or not one label for each point.
    """

    label: Tensor

    def __init__(self, denoiser: EnergyDenoiser, label: int | Tensor) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("label", torch.as_tensor(label, dtype=torch.int64), persistent=False)
        self.training = denoiser.training

    def energy(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.denoiser.energy(x, sigma, _closed(self.label, x, label))


def _pushed(d: Tensor, poor: Tensor, weight: float) -> Tensor:
    """Return ``d`` pushed away from ``poor``; exactly ``d`` if they are equal."""
    return d + (weight - 1) * (d - poor)


def _closed(own: Tensor, x: Tensor, given: Tensor | None) -> Tensor:
    """Return the label of each point, ``(B,)``."""
    if given is not None or own.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"the label is closed over: none is given, and {tuple(own.shape)} labels go with as many points; "
            f"there were {len(x)} points and {'another' if given is not None else 'no other'} label"
        )
    return own.expand(len(x))


def _check(weight: float, interval: Interval) -> None:
    low, high = interval
    if not (math.isfinite(weight) and 0 <= low < high):
        raise ValueError(f"weight is a number and 0 ≤ low < high; they were {weight} and {interval}")
