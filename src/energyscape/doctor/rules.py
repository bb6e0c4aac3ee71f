"""The table of rules, causes before their symptoms, and the diagnosis."""

from typing import Final

from energyscape.doctor import causes, kernels, objectives, symptoms
from energyscape.doctor.finding import Finding, Rule
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record
from energyscape.doctor.settings import BY_SETTINGS

LATE: Final = ("tight_drift_clip", "few_updates", "few_lines", "long_warmup")
"""Rules about settings whose effects other rules can cause; a short run learns little in any case."""

RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        # Root causes: data, and settings that can be judged without the model.
        causes.spoiled_data,
        *(rule for name, rule in BY_SETTINGS.items() if name not in LATE),
        causes.strong_regulariser,
        causes.degenerate_data,
        kernels.long_step,
        kernels.cold_chains,
        kernels.hot_chains,
        kernels.short_step,
        BY_SETTINGS["tight_drift_clip"],
        causes.small_batch,
        causes.straight_pieces,
        causes.stale_chains,
        objectives.easy_noise,
        objectives.parted_islands,
        # Causes that lost weights mimic.
        kernels.unbounded_drift,
        causes.high_rate,
        causes.flat_energy,
        objectives.no_signal,
        objectives.one_noise_level,
        objectives.noise_kept,
        *(BY_SETTINGS[name] for name in LATE[1:]),
        # Symptoms, the most severe first.
        symptoms.nothing_learned,
        symptoms.divergence,
        symptoms.oscillation,
        symptoms.easy_negatives,
        symptoms.contraction,
        symptoms.saturation,
        symptoms.cold_gradient,
        symptoms.rejecting,
        symptoms.long_run,
        symptoms.unreached_from_noise,
        symptoms.buffer_collapse,
        symptoms.blind_to_weights,
        symptoms.energy_drift,
        symptoms.memorised,
    )
}
"""Name to rule. Their order is that of findings: a cause comes before what it produces."""


RESIDUAL: Final = ("unbounded_drift", "high_rate", "flat_energy", "no_signal", "one_noise_level", "noise_kept")
"""Causes that lost weights or chains mimic: omitted if a rule about a single setting explains the loss."""


CAUSES: Final = tuple(name for name, rule in RULES.items() if rule.__module__ != symptoms.__name__)
"""The rules about causes."""


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
