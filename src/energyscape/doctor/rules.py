"""The table of rules, causes before their symptoms, and the diagnosis."""

from typing import Final

from energyscape.doctor import causes, kernels, objectives, symptoms
from energyscape.doctor.finding import Finding, Rule
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record
from energyscape.doctor.settings import BY_SETTINGS

LATE: Final = ("tight_drift_clip", "few_updates", "few_lines", "long_warmup")
"""Rules about settings whose effects other rules can cause; a short run learns little in any case."""

CAUSES: Final = (
    # Root causes: data, and settings that can be judged without the model.
    "spoiled_data",
    *(name for name in BY_SETTINGS if name not in LATE),
    *("strong_regulariser", "degenerate_data", "long_step", "cold_chains", "hot_chains", "short_step"),
    *("tight_drift_clip", "small_batch", "straight_pieces", "stale_chains", "easy_noise", "parted_islands"),
    # Causes that lost weights mimic.
    *("unbounded_drift", "high_rate", "flat_energy", "no_signal", "one_noise_level", "noise_kept"),
    *LATE[1:],
)
"""The rules about causes."""

# The most severe first.
SYMPTOMS: Final = (
    *("nothing_learned", "divergence", "oscillation", "easy_negatives", "contraction", "saturation", "cold_gradient"),
    *("rejecting", "long_run", "unreached_from_noise", "buffer_collapse", "blind_to_weights", "energy_drift"),
    "memorised",
)
"""The rules about symptoms."""

_ALL = BY_SETTINGS | causes.RULES | kernels.RULES | objectives.RULES | symptoms.RULES

RULES: Final[dict[str, Rule]] = {name: _ALL[name] for name in CAUSES + SYMPTOMS}
"""Name to rule. Their order is that of findings: a cause comes before what it produces."""

RESIDUAL: Final = ("unbounded_drift", "high_rate", "flat_energy", "no_signal", "one_noise_level", "noise_kept")
"""Causes that lost weights or chains mimic: omitted if a rule about a single setting explains the loss."""


def diagnose(record: Record, probes: Probes) -> list[Finding]:
    """Return the findings of all rules, the most causal first; none for a healthy run.

    Examples:
        >>> findings = diagnose(Record(step_size=0.02, temperature=0.01), Probes())
        >>> [each.rule for each in findings]
        ['cold_chains']
    """
    found: list[Finding] = []
    for name, rule in RULES.items():
        lost = any(each.severity == "act" and each.rule in CAUSES for each in found)
        finding = None if lost and name in RESIDUAL else rule(record, probes)
        found += [] if finding is None else [finding]
    return found


def merged(*asked: tuple[Record, Probes]) -> list[Finding]:
    """Return the findings of several records, such as of training and of generation, each rule's first."""
    found: dict[str, Finding] = {}
    for record, probes in asked:
        for each in diagnose(record, probes):
            found.setdefault(each.rule, each)
    return [found[name] for name in RULES if name in found]
