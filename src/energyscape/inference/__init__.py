"""Trained models in use: samples, restorations, completions, scores."""

from energyscape.inference.chains import Chains
from energyscape.inference.descent import Descent
from energyscape.inference.sampler import Generated, Sampler, StartName, joined
from energyscape.inference.trained import Trained

__all__ = ["Chains", "Descent", "Generated", "Sampler", "StartName", "Trained", "joined"]
