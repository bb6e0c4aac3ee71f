"""The doctor: reads a run's record, asks its landscape a few questions, and says what is wrong and what to do."""

from energyscape.doctor.chains import Chains
from energyscape.doctor.finding import Finding
from energyscape.doctor.probes import Probes, probe
from energyscape.doctor.record import Record
from energyscape.doctor.rules import RULES, diagnose, merged

__all__ = ["RULES", "Chains", "Finding", "Probes", "Record", "diagnose", "merged", "probe"]
