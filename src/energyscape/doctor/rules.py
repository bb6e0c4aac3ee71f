"""The table of rules, causes before what they cause, and what comes of asking them all."""

from typing import Final

from energyscape.doctor import causes, kernels, objectives, symptoms
from energyscape.doctor.finding import Finding, Rule
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record

RULES: Final[dict[str, Rule]] = {
    rule.__name__: rule
    for rule in (
        # What nothing else can cause: data, and settings that can be judged without the model.
        causes.spoiled_data,
        causes.strong_regulariser,
        causes.degenerate_data,
        kernels.long_step,
        kernels.cold_chains,
        kernels.hot_chains,
        kernels.short_step,
        causes.small_batch,
        causes.straight_pieces,
        causes.stale_chains,
        objectives.easy_noise,
        objectives.parted_islands,
        objectives.hybrid_conflict,
        # What lost weights can look like too.
        kernels.unbounded_drift,
        causes.high_rate,
        causes.flat_energy,
        objectives.no_signal,
        objectives.one_noise_level,
        objectives.noise_kept,
        # Symptoms, the gravest first.
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
        symptoms.mode_collapse,
        symptoms.blind_to_weights,
        symptoms.energy_drift,
        symptoms.memorised,
        symptoms.chosen_by_noise,
    )
}
"""Name to rule. Their order is that of findings: a cause comes before what it produces."""


RESIDUAL: Final = ("unbounded_drift", "high_rate", "flat_energy", "no_signal", "one_noise_level", "noise_kept")
"""Causes that lost weights or chains can look like: not named where a setting judged alone has lost them."""


CAUSES: Final = tuple(name for name, rule in RULES.items() if rule.__module__ != symptoms.__name__)
"""The rules about causes."""


def diagnose(record: Record, probes: Probes) -> list[Finding]:
    """Asks every rule.

    Args:
        record: What a run left behind; an empty one for a bare energy.
        probes: What its landscape answered.

    Returns:
        The findings, the most causal one first; none for a healthy run.

    Examples:
        >>> told = diagnose(Record(step_size=0.02, temperature=0.01), Probes())
        >>> [each.rule for each in told]
        ['cold_chains']
    """
    found: list[Finding] = []
    for name, rule in RULES.items():
        lost = any(each.severity == "act" and each.rule in CAUSES for each in found)
        finding = None if lost and name in RESIDUAL else rule(record, probes)
        found += [] if finding is None else [finding]
    return found
