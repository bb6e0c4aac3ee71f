r"""Exponential moving averages of weights, with a half-life in samples.

.. math:: \bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta, \qquad
          d = \min\Bigl(2^{-B / h}, \frac{1 + n}{10 + n}\Bigr)

after :math:`n \ge 1` updates of :math:`B` samples each; the first update copies. Without the warm-up the average would
still be at the initial weights after a hundred steps.
"""

from typing import final

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, *, half_life: float, batch_size: int) -> AveragedModel:
    """Return an average of a model's weights, which ``update_parameters`` keeps current.

    Args:
        model: The model to train.
        half_life: Samples after which the weight of the past has halved.
        batch_size: Samples an update.

    Raises:
        ValueError: If ``half_life`` is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"half_life is a positive number of samples; it was {half_life}")
    average = _Warming(model)
    average.decay = 0.5 ** (batch_size / half_life)
    return average.requires_grad_(False)


@final
class _Warming(AveragedModel):
    """An average without a host sync: PyTorch's own reads the number of updates back at every step."""

    decay = 0.0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        n, averages, currents = int(self.n_averaged), [*self.module.parameters()], [*model.parameters()]
        get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)) if n else 0.0)(averages, currents, n)
        for mine, its in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(its)
        self.n_averaged += 1
