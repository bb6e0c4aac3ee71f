"""The facts: numbers that objectives write at each step, and that guards, the doctor and reports read by name.

They are the columns of a run's ``metrics.jsonl``. mypy rejects a name that is not in this list.
"""

from typing import Literal, TypeVar

Fact = Literal[
    # Energies of a batch, in units of energy
    "energy_data",  # mean energy of data
    "energy_model",  # mean energy of negatives
    "gap",  # mean energy of negatives less that of data; of energy discrepancy: of the guesses
    "spread",  # standard deviation of the energies of data
    "spread_model",  # standard deviation of the energies of negatives
    "auc",  # share of pairs in which the negative's energy is above that of data, 0 to 1
    "penalty",  # value of the energy regulariser, part of the loss
    "pull",  # gradient of the regulariser by an energy; the likelihood's is 1
    "trimmed",  # share of negatives that lie too high to count, 0 to 1
    # Chains, over the steps of one update
    "drift",  # RMS drift of a step and coordinate, in units of x
    "noise",  # RMS noise of a step and coordinate, in units of x
    "move",  # RMS distance from start to end for each coordinate, in units of x
    "accept_prob",  # mean acceptance probability, 0 to 1; 1 without a Metropolis test
    "accept_least",  # the same at the noise level where it is lowest
    "diverged",  # number of steps that ended at a point that is not finite
    "temperature",  # temperature of the chains, in units of energy
    "age",  # median number of draws since a persistent chain began
    "lineages",  # number of starting points from which persistent chains descend
    # Points
    "data_std",  # RMS standard deviation of the coordinates of data, in units of x
    "model_std",  # the same of negatives, in units of x
    "degenerate",  # share of coordinates that surely vary less than a step's noise, 0 to 1
    "saturated",  # share of coordinates at the data's extremes, negatives less data, -1 to 1
    "brightness",  # mean coordinate, negatives less data, in units of x
    # Scores and denoising
    "relative",  # squared error over that of a score of zero: 1 if nothing was learned
    "relative_low",  # the same in the lowest third of the noise levels
    "relative_middle",  # in the middle third
    "relative_high",  # in the highest third
    "score_norm",  # mean norm of the score, in units of 1 / x
    "score_rms",  # root mean square norm of the score, in units of 1 / x
    "trace",  # mean trace of the score's derivative, in units of 1 / x²
    "stein",  # trace plus squared norm, in units of 1 / x²; 0 at the truth
    "loss",  # the weighted error alone, where the loss has a learned offset
    # Contrast with noise
    "accuracy",  # share of points, or groups, classified correctly, 0 to 1
    "log_z",  # estimate of log Z, in nats
    # Weighted sums: the loss of each part, ``part_1`` and so on, and a later part's facts, such as ``accuracy_2``
    "part_1",
    "part_2",
]
"""Name of a fact, with its meaning, unit and range."""

Column = Fact | Literal["samples", "grad_norm"]
"""Name of a column of ``metrics.jsonl``: a fact, or a number that training adds."""

V = TypeVar("V")

Facts = dict[Fact, V]
"""Facts by name: of tensors in a `Loss`, of numbers in a `Report`."""
