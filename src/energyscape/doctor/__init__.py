"""The doctor: diagnose a run from its record and a few probes of its landscape, and advise."""

from energyscape.doctor.chains import Chains
from energyscape.doctor.finding import Finding, Setting
from energyscape.doctor.probes import Probes, probe
from energyscape.doctor.record import Record
from energyscape.doctor.rules import RULES, diagnose, merged

__all__ = ["RULES", "Chains", "Finding", "Probes", "Record", "Setting", "diagnose", "merged", "probe"]
