"""Counts of images that a classifier recognises."""

import pytest
import torch

from energyscape.errors import UserError
from energyscape.evaluation import recognise


class Known:
    """A classifier with given answers."""

    classes = 10

    def __init__(self, label, probability):
        self.answers = label, probability

    def confidence(self, x):
        return self.answers


def test_counting_by_hand():
    label = torch.tensor([0, 0, 2, 1, 2])
    probability = torch.tensor([0.9, 0.8, 1.0, 0.79, 0.1])
    judge = Known(label, probability)
    recognition = recognise(judge, torch.zeros(5, 1, 8, 8), threshold=0.8)
    assert recognition.sure == pytest.approx(3 / 5)
    assert recognition.sure_error == pytest.approx((5 / 9 * 4 / 9 / 9) ** 0.5)  # (3 + 2) / (5 + 4)
    torch.testing.assert_close(recognition.shares, torch.tensor([2, 0, 1, *[0] * 7]).double() / 3)
    assert float(recognition.share_errors[0]) == pytest.approx((4 / 7 * 3 / 7 / 7) ** 0.5)  # (2 + 2) / (3 + 4)
    assert recognition.judged == 5
    probability.zero_()
    assert recognise(judge, torch.zeros(5, 1, 8, 8)).shares.tolist() == [0.0] * 10


def test_a_threshold_out_of_range_is_an_error():
    with pytest.raises(UserError, match="threshold"):
        recognise(Known(torch.zeros(1).long(), torch.ones(1)), torch.zeros(1, 1, 8, 8), threshold=0.0)
