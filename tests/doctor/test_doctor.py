"""The doctor: every rule on either side of its threshold, probes against closed forms, the order, the command."""

import json
import math

import pytest
import torch

from energyscape.cli import main
from energyscape.data import DATASETS, DISTRIBUTIONS
from energyscape.data.dataset import Rows
from energyscape.doctor import RULES, Chains, Probes, Record, diagnose, probe
from energyscape.doctor.probes import energies, parted
from energyscape.doctor.record import autocorrelation, jitter
from energyscape.models import GaussianMixture
from energyscape.recipe import Recipe, overrides_from, recipe_names


def columns(n=100, **more):
    """A quiet record: the gap hovers about a level, with an autocorrelation near 0."""
    z = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    quiet = {
        "samples": [128.0 * 10 * (i + 1) for i in range(n)],
        "loss": [-each for each in z],
        "gap": list(z),
        "spread": [10.0] * n,
        "spread_model": [10.0] * n,
        "grad_norm": [1.0] * n,
        "energy_data": [-50.0] * n,
        "energy_model": [-50.0] * n,
        "auc": [0.5] * n,
        "drift": [0.07] * n,
        "noise": [0.18] * n,
        "move": [0.3] * n,
        "data_std": [0.6] * n,
        "accept_prob": [1.0] * n,
        "saturated": [0.0] * n,
        "brightness": [0.0] * n,
        "lineages": [1024.0] * n,
        "age": [60.0] * n,
    }
    result = {name: value if isinstance(value, list) else [float(value)] * n for name, value in more.items()}
    return quiet | result


SETTINGS = {
    "objective": "cd",
    "kernel": "langevin",
    "step_size": 0.015625,
    "temperature": 1.0,
    "drift_clip": 0.5,
    "steps": 3,
    "sampler_steps": 250,
    "start": "buffer",
    "capacity": 1024,
    "refresh": 0.01,
    "data_noise": 0.25,
    "reference_std": 0.25,
    "alpha": 0.0,
    "regulariser": "squared",
    "batch_size": 128,
    "learning_rate": 3e-3,
    "beta1": 0.0,
    "clip": 100.0,
    "activation": "silu",
    "scale": 16.0,
    "budget": 896_000,
    "warmup": 64_000,
    "decay": "linear",
    "beta2": 0.999,
    "width": 256,
    "spectral_norm": False,
    "log_every": 10,
    "guarded": 20.0,
}
PROBES = Probes(
    finite=1.0,
    sound=1.0,
    data_std=0.6,
    narrowest=0.25,
    degenerate=0.0,
    ratio=2.8,
    ratio_data=2.7,
    accept=0.7,
    clipped=0.0,
    steepest=6.6,
    long=-0.3,
    fresh=0.04,
    arrived=1.0,
    outside=0.0,
    shift=0.0,
    duplicates=0.0,
    diversity=1.0,
    spread=8.0,
    held_out=0.6,
    kinks=0.1,
    bends=0.02,
    near=0.4,
    far=200.0,
    noisy=0.02,
    clean_std=0.55,
    size=5.0,
    cut=0.0,
    away=1.0,
    moved=1.0,
)


def record(**changes):
    settings = {name: changes.pop(name) for name in list(changes) if name in Record.__dataclass_fields__}
    return Record(columns=columns(**changes), **(SETTINGS | settings))


def at(**changes):
    return PROBES._replace(**changes)


def skipped(reason, action="", times=1):
    return [{"step": 5, "samples": 640, "verdict": "SKIP", "reason": reason, "action": action}] * times


def swinging(phi, n=100):
    """A series whose lag-1 autocorrelation is near phi."""
    z = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    values = [z[0]]
    for each in z[1:]:
        values.append(phi * values[-1] + math.sqrt(1 - phi**2) * each)
    return values


def bare(**settings):
    return Record(**({"chains": "sampler", "step_size": 0.015625, "kernel": "langevin"} | settings))


def closing(ratio, n=100):
    """A gap that is -10 until half of the record and then ratio times that."""
    return [-10.0] * (n // 2) + [-10.0 * ratio] * (n - n // 2)


def ending(n=100):
    return [1.0] * 60 + [math.nan] * (n - 60)


def interrupted(lines, n=100):
    """Numbers that end in the middle of the record and come back."""
    return [1.0] * 50 + [math.nan] * lines + [1.0] * (n - 50 - lines)


def exploding(n=100):
    return [10.0] * 60 + [10.0 * 3.0 ** (i + 1) for i in range(n - 60)]


def spike(height, n=100):
    return [1.0] * (n - 10) + [height] + [1.0] * 9


HALF = columns()["gap"][50:]
UNIT = [each / jitter(HALF) for each in columns()["gap"]]
"""A quiet gap that jitters by exactly 1 over the last half of the record."""

STILL = [(-1) ** i * 2**0.5 / 1.4826 / 2 for i in range(100)]
"""A gap that jumps to and fro, whose noise is 1: the median of its steps over √2 / 1.4826."""

TURNS = [50.0, -50.0] * 50

# Rule: (what provokes it), (its neighbour across the threshold).
CASES = {
    "spoiled_data": ((record(), at(finite=0.999)), (record(), at(finite=1.0))),
    "spoiled_data by guards": (
        (record(interventions=skipped("1 of the batch's 128 data points are not finite: clean the data")), PROBES),
        (record(interventions=skipped("gradient norm 7 is 101 times the usual")), PROBES),
    ),
    "spoiled_data by a sudden end": (
        (record(loss=ending(), grad_norm=ending()), PROBES),
        (record(loss=ending(), grad_norm=[1.0] * 50 + [99.0] * 10 + [math.nan] * 40), PROBES),
    ),
    "spoiled_data until a rollback": (
        (record(loss=interrupted(5)), PROBES),
        (record(loss=interrupted(4)), PROBES),
    ),
    # 2 α rms(E) with rms √(50² + 10²) = 51: 0.31 and 0.29.
    "strong_regulariser": (
        (record(alpha=0.31 / 2 / math.hypot(50, 10)), PROBES),
        (record(alpha=0.29 / 2 / math.hypot(50, 10)), PROBES),
    ),
    # 2 α (Ē⁺ + Ē⁻) with both at ±50 by turns: they hold nothing in the mean, and weigh 100 all the same.
    "strong_regulariser on the mean": (
        (record(alpha=0.51 / 200, regulariser="mean", energy_data=TURNS, energy_model=TURNS), PROBES),
        (record(alpha=0.49 / 200, regulariser="mean", energy_data=TURNS, energy_model=TURNS), PROBES),
    ),
    # 2 α (Ē⁺ + Ē⁻) is 0.6 at first, and a share of that later.
    "strong_regulariser on the mean, later": (
        (record(alpha=0.015, regulariser="mean", energy_data=closing(0.17), energy_model=closing(0.17)), PROBES),
        (record(alpha=0.015, regulariser="mean", energy_data=closing(0.16), energy_model=closing(0.16)), PROBES),
    ),
    "degenerate_data": ((record(), at(degenerate=0.021)), (record(), at(degenerate=0.019))),
    # R = √(2 v / η), v = 1/16: 1.5 at η = 1/18.
    "long_step": ((record(step_size=1.01 / 18), PROBES), (record(step_size=0.99 / 18), PROBES)),
    "long_step of an adjusted kernel": (
        (record(kernel="mala", adjusted=True, accept_prob=0.29), PROBES),
        (record(kernel="mala", adjusted=True, accept_prob=0.31), PROBES),
    ),
    "long_step by drift and noise": ((record(drift=0.18 / 1.24), PROBES), (record(drift=0.18 / 1.26), PROBES)),
    "cold_chains": ((record(temperature=0.63), PROBES), (record(temperature=0.65), PROBES)),
    "cold_chains by noise": (
        (record(temperature=None, noise=0.79 * 0.03125**0.5), PROBES),
        (record(temperature=None, noise=0.81 * 0.03125**0.5), PROBES),
    ),
    # √(2 η 3) / 0.6 = 0.3 at η = 0.0054.
    "short_step": ((record(step_size=0.0053), PROBES), (record(step_size=0.0055), PROBES)),
    "small_batch": (
        (record(batch_size=16, gap=[3.7 * each for each in columns()["gap"]]), PROBES),
        (record(batch_size=17, gap=[3.7 * each for each in columns()["gap"]]), PROBES),
    ),
    "small_batch by jitter": (
        (record(batch_size=8, gap=[21 * scaled for scaled in UNIT], spread_model=0.0, spread=100.0), PROBES),
        (record(batch_size=8, gap=[19 * scaled for scaled in UNIT], spread_model=0.0, spread=100.0), PROBES),
    ),
    "straight_pieces": ((record(), at(kinks=0.9e-4)), (record(), at(kinks=1.1e-4))),
    "stale_chains": (
        (record(refresh=0.0, capacity=1024, age=0.81 * 125), PROBES),
        (record(refresh=0.0, capacity=1024, age=0.79 * 125), PROBES),
    ),
    "stale_chains by age": ((record(age=1001), PROBES), (record(age=999), PROBES)),
    "easy_noise": (
        (record(objective="nce", accuracy=0.991, loss=0.1), PROBES),
        (record(objective="nce", accuracy=0.989, loss=0.1), PROBES),
    ),
    "parted_islands": ((bare(objective="ssm"), at(parted=5.1)), (bare(objective="ssm"), at(parted=4.9))),
    "parted_islands of slopes only": (
        (bare(objective="dsm"), at(parted=9.0)),
        (bare(objective="nce-ssm"), at(parted=9.0)),
    ),
    "one_noise_level": ((bare(), at(far=0.99, arrived=2.1)), (bare(), at(far=0.99, arrived=1.9))),
    "one_noise_level by noise": ((bare(), at(noisy=0.21)), (bare(), at(noisy=0.19))),
    "one_noise_level by noise that stays": (
        (bare(tweedie=False), at(noisy=0.21)),
        (bare(tweedie=True), at(noisy=0.21)),
    ),
    "noise_kept": ((record(), at(noisy=0.041)), (record(), at(noisy=0.039))),
    "noise_kept that stays": ((record(tweedie=False), at(noisy=0.3)), (record(tweedie=True), at(noisy=0.3))),
    "unbounded_drift": ((record(drift_clip=None), at(steepest=2.9)), (record(drift_clip=None), at(steepest=2.7))),
    "high_rate": (
        (record(interventions=skipped("the gradient", "learning rate × 0.3 (now × 0.3)")), PROBES),
        (record(interventions=skipped("the gradient")), PROBES),
    ),
    "high_rate by swings": ((record(gap=swinging(-0.6)), PROBES), (record(gap=swinging(-0.25)), PROBES)),
    "long_step by descent that climbs": ((bare(), at(quenched=1.01)), (bare(), at(quenched=0.99))),
    # ν / √(2η) > 1.25 is T > 1.5625.
    "hot_chains": ((record(temperature=1.57), PROBES), (record(temperature=1.55), PROBES)),
    "hot_chains by noise": (
        (record(temperature=None, noise=1.26 * 0.03125**0.5), PROBES),
        (record(temperature=None, noise=1.24 * 0.03125**0.5), PROBES),
    ),
    "flat_energy": ((record(drift=0.18 / 31), PROBES), (record(drift=0.18 / 29), PROBES)),
    # Three times √(2 / η) · 0.6 is 30 at η = 0.0072, and above it at shorter steps.
    "flat_energy by Cramér and Rao": (
        (record(drift=0.18 / 51, step_size=1.04 * 0.0072 * (30 / 51) ** 2), PROBES),
        (record(drift=0.18 / 51, step_size=0.96 * 0.0072 * (30 / 51) ** 2), PROBES),
    ),
    "no_signal": ((bare(objective="dsm"), at(near=0.99)), (bare(objective="dsm"), at(near=0.97))),
    "divergence": ((record(gap=exploding()), PROBES), (record(gap=[10.0] * 100), PROBES)),
    "divergence beside spoiled data": tuple(
        (
            record(loss=interrupted(lines), interventions=skipped("1 of the batch's 64 data points are not finite")),
            PROBES,
        )
        for lines in (2, 1)  # and one batch was skipped
    ),
    "divergence by gradients": ((record(grad_norm=spike(101.0)), PROBES), (record(grad_norm=spike(99.0)), PROBES)),
    "oscillation": ((record(gap=swinging(-0.45)), PROBES), (record(gap=swinging(-0.1)), PROBES)),
    "easy_negatives": ((record(auc=0.76), PROBES), (record(auc=0.74), PROBES)),
    "contraction": (
        (record(auc=0.04, gap=closing(0.81)), PROBES),
        (record(auc=0.04, gap=closing(0.79)), PROBES),
    ),
    "saturation": ((record(saturated=0.21), PROBES), (record(saturated=0.19), PROBES)),
    "saturation by brightness": ((record(brightness=-0.51), PROBES), (record(brightness=-0.49), PROBES)),
    "saturation by the clip": ((record(), at(clipped=0.51)), (record(), at(clipped=0.49))),
    "cold_gradient": (
        (record(drift=1.0, noise=0.19, temperature=0.7**2), PROBES),
        (record(drift=1.0, noise=0.21, temperature=0.7**2), PROBES),
    ),
    "rejecting": ((record(), at(accept=0.29)), (record(), at(accept=0.31))),
    "long_run": ((record(), at(long=-1.01)), (record(), at(long=-0.99))),
    "long_run of young chains": ((record(age=41), at(long=-2.0)), (record(age=39), at(long=-2.0))),
    "long_run of young chains that fall far": ((record(age=39), at(long=-3.01)), (record(age=39), at(long=-2.99))),
    "unreached_from_noise by young chains": ((record(age=41), at(fresh=3.0)), (record(age=39), at(fresh=3.0))),
    "unreached_from_noise from far": ((record(age=39), at(fresh=5.01)), (record(age=39), at(fresh=4.99))),
    "unreached_from_noise": ((record(), at(fresh=-2.01)), (record(), at(fresh=-1.99))),
    "buffer_collapse": ((record(lineages=0.049 * 1024), PROBES), (record(lineages=0.051 * 1024), PROBES)),
    "buffer_collapse by copies": ((record(), at(duplicates=0.06)), (record(), at(duplicates=0.04))),
    "buffer_collapse by distance": ((record(), at(diversity=0.29)), (record(), at(diversity=0.31))),
    "blind_to_weights": ((record(), at(mode_factor=2.1)), (record(), at(mode_factor=1.9))),
    "energy_drift": (
        (record(energy_data=[-30.0 * i for i in range(100)]), PROBES),
        (record(energy_data=[-10.0 * i for i in range(100)]), PROBES),
    ),
    "energy_drift that nothing holds": (
        (record(energy_data=-1001.0), PROBES),
        (record(energy_data=-999.0), PROBES),
    ),
    "energy_drift of many spreads": (
        (record(energy_data=-2000.0, spread=99.0), PROBES),
        (record(energy_data=-2000.0, spread=101.0), PROBES),
    ),
    "energy_drift without a hold": (
        (record(energy_data=-2000.0, alpha=0.0), PROBES),
        (record(energy_data=-2000.0, alpha=1e-5, regulariser="mean"), PROBES),
    ),
    "memorised": ((record(), at(held_out=2.1)), (record(), at(held_out=1.9))),
    "tight_bounds": ((record(), at(cut=0.021)), (record(), at(cut=0.019))),
    "far_start": ((record(), at(away=5.1)), (record(), at(away=4.9))),
    "mirrored_data": ((record(flips=True), at(mirrored=1.16)), (record(flips=True), at(mirrored=1.14))),
    "mirrored_data that are not": ((record(flips=True), at(mirrored=2.0)), (record(flips=False), at(mirrored=2.0))),
    "strong_noise": ((record(data_noise=0.56), PROBES), (record(data_noise=0.54), PROBES)),
    "tight_reference": ((record(reference_std=0.124), PROBES), (record(reference_std=0.126), PROBES)),
    "wide_reference": ((record(reference_std=6.1), PROBES), (record(reference_std=5.9), PROBES)),
    # 16 times 0.25 squared is 1.
    "output_scale": ((record(scale=16 * 0.019), PROBES), (record(scale=16 * 0.021), PROBES)),
    "output_scale that is large": ((record(scale=16 * 51.0), PROBES), (record(scale=16 * 49.0), PROBES)),
    "bounded_slope": (
        (record(spectral_norm=True, scale=16 * 0.24), PROBES),
        (record(spectral_norm=True, scale=16 * 0.26), PROBES),
    ),
    "small_network": ((record(width=3), PROBES), (record(width=4), PROBES)),
    # One step's noise has a deviation of √(2 / 64).
    "tight_drift_clip": (
        (record(drift_clip=0.34 / 32**0.5), PROBES),
        (record(drift_clip=0.36 / 32**0.5), PROBES),
    ),
    "fresh_chains": ((record(refresh=0.31), PROBES), (record(refresh=0.29), PROBES)),
    "large_buffer": ((record(capacity=300_000), PROBES), (record(capacity=298_000), PROBES)),
    "high_beta1": ((record(beta1=0.98), PROBES), (record(beta1=0.96), PROBES)),
    "odd_beta2": ((record(beta2=0.89), PROBES), (record(beta2=0.91), PROBES)),
    "odd_beta2 that forgets nothing": ((record(beta2=0.99999), PROBES), (record(beta2=0.9999), PROBES)),
    "tight_clip": ((record(clip=0.9e-4), PROBES), (record(clip=1.1e-4), PROBES)),
    # 7,000 steps, on average at half of the rate: 0.02 at 5.7e-6.
    "low_rate": ((record(learning_rate=5.6e-6), PROBES), (record(learning_rate=5.8e-6), PROBES)),
    "low_rate that stays": (
        (record(learning_rate=2.8e-6, decay="none"), PROBES),
        (record(learning_rate=2.9e-6, decay="none"), PROBES),
    ),
    "few_updates": ((record(budget=99 * 128), PROBES), (record(budget=100 * 128), PROBES)),
    "few_lines": ((record(log_every=351), PROBES), (record(log_every=350), PROBES)),
    "tight_guards": ((record(guarded=0.9), PROBES), (record(guarded=1.1), PROBES)),
    "long_warmup": ((record(warmup=896_000), PROBES), (record(warmup=800_000), PROBES)),
    "nothing_learned": ((record(), at(moved=0.009)), (record(), at(moved=0.011))),
    # A gap whose noise is 1 over the whole record, and that has moved by 1.9 and 2.1 of it.
    "nothing_learned by the gap": tuple(
        (record(auc=0.04, gap=[each + moved * (i >= 50) for i, each in enumerate(STILL)]), PROBES)
        for moved in (1.9, 2.1)
    ),
    "nothing_learned below the data": (
        (record(auc=0.96, gap=STILL), PROBES),
        (record(auc=0.94, gap=STILL), PROBES),
    ),
    "small_batch before training": ((bare(batch_size=4), Probes()), (bare(batch_size=5), Probes())),
    "strong_regulariser before training": (
        # |x|² / 2s² is 200.
        (bare(alpha=0.31 / 400, reference_std=0.25), Probes(size=5.0)),
        (bare(alpha=0.29 / 400, reference_std=0.25), Probes(size=5.0)),
    ),
    "stale_chains before training": (
        (bare(refresh=0.0, capacity=100, budget=1_001), Probes()),
        (bare(refresh=0.0, capacity=100, budget=999), Probes()),
    ),
    "noise_kept before training": (
        (bare(data_noise=0.21), Probes(data_std=1.0)),
        (bare(data_noise=0.19), Probes(data_std=1.0)),
    ),
    "high_rate before training": ((bare(learning_rate=0.031), Probes()), (bare(learning_rate=0.029), Probes())),
    # √(2 η K) = 0.7 of the data's deviation of 0.6 at η = 0.00882 for K = 10.
    "short_step of a sampler": (
        (bare(step_size=0.0087, sampler_steps=10), PROBES),
        (bare(step_size=0.0089, sampler_steps=10), PROBES),
    ),
    "divergence that guards stopped": (
        (record(interventions=[{"verdict": "STOP", "reason": "not finite 3 times"}]), PROBES),
        (record(interventions=[{"verdict": "ROLLBACK", "reason": "not finite 3 times"}]), PROBES),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_speaks_on_one_side_of_its_threshold(name):
    rule = name.split()[0]
    ill, well = CASES[name]
    finding = RULES[rule](*ill)
    assert finding is not None
    assert finding.rule == rule
    assert finding.severity in ("warn", "act")
    assert any(each.isdigit() for each in finding.evidence), finding.evidence
    assert finding.symptom
    assert finding.cause
    assert finding.advice
    assert finding.flags in finding.advice or len(finding.remedy) > 1
    assert finding.numbers
    assert RULES[rule](*well) is None


def test_every_rule_has_a_case():
    assert {name.split()[0] for name in CASES} == set(RULES)
    assert len(RULES) >= 21


def test_a_healthy_record_has_no_finding():
    assert diagnose(record(), PROBES) == []
    assert diagnose(Record(), Probes()) == []
    assert diagnose(bare(), Probes()) == []


def test_remedies_are_computed_from_the_present_settings():
    # η = v / 4 makes noise over drift √8; and so it should, whatever the wrong step was.
    for eta in (0.156, 0.0003):
        findings = diagnose(record(step_size=eta), PROBES)
        assert findings[0].flags == "--objective.kernel.step_size 0.016"
    (findings,) = diagnose(record(refresh=0.0, age=125), PROBES)
    assert findings.flags == "--objective.start.refresh 0.01"
    assert RULES["degenerate_data"](record(), at(degenerate=0.2)).flags == "--objective.data_noise 0.25"
    assert RULES["small_batch"](*CASES["small_batch"][0]).flags == "--train.batch_size 128"
    (findings,) = diagnose(record(alpha=0.1), PROBES)
    # 0.03 / (2 rms(E)): the weight it would have.
    assert findings.remedy[0].value == pytest.approx(0.03 / 2 / math.hypot(50, 10), rel=0.05)


LOST = {"gap": exploding(), "auc": 0.99, "saturated": 0.4, "drift": 0.5}
LOST_PROBES = at(
    accept=0.0, clipped=1.0, long=-11.0, fresh=-12.0, steepest=1e6, ratio=1e-6, ratio_data=1e-6, spread=1e8
)

PLANTED = {
    "spoiled_data": ({"loss": ending()}, {"finite": 0.99}),
    "strong_regulariser": ({"alpha": 0.1}, {}),
    "degenerate_data": ({"data_noise": 0.0}, {"degenerate": 0.25, "narrowest": 0.0}),
    "long_step": ({"step_size": 0.156}, {}),
    "short_step": ({"step_size": 0.0003}, {}),
    "cold_chains": ({"temperature": 0.01}, {}),
    "small_batch": ({"batch_size": 8}, {}),
    "straight_pieces": ({}, {"kinks": 1e-7}),
    "stale_chains": ({"refresh": 0.0, "age": 125}, {}),
    "unbounded_drift": ({"drift_clip": None, "clip": None}, {}),
    "high_rate": ({"learning_rate": 0.09}, {}),
}


@pytest.mark.parametrize("rule", PLANTED)
def test_the_planted_cause_comes_before_what_it_causes(rule):
    changes, probed = PLANTED[rule]
    findings = diagnose(record(**(LOST | changes)), LOST_PROBES._replace(**probed))
    assert findings[0].rule == rule
    assert {"divergence", "easy_negatives", "saturation", "long_run"} <= {each.rule for each in findings}
    order = list(RULES)
    assert [each.rule for each in findings] == sorted((each.rule for each in findings), key=order.index)


def test_autocorrelation_and_jitter_of_known_series():
    assert autocorrelation([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.25)  # (0.75 - 0.25 + 0.75) / 5
    assert autocorrelation([2.0] * 10) is None
    z = torch.randn(4000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    trend = torch.linspace(0, 50, 4000).double()
    # The median of |N(0, 2)| over its quantile; its relative error is about 1.2 / √n for correlated differences.
    assert jitter((3 * z + trend).tolist()) == pytest.approx(3.0, rel=5 * 1.6 / 4000**0.5)


def test_growth_is_counted_from_the_calmest_five_lines():
    gap = [100.0] * 50 + [1.0] * 5 + [100.0] * 44 + [500.0]
    result = record(gap=gap, spread=0.0)
    assert result.growth == 500.0
    assert record(gap=[*gap[:50], 100.0, 100.0, 100.0, *gap[53:]], spread=0.0).growth == 5.0  # two lines are no calm
    assert record(gap=[100.0] * 99 + [500.0], spread=0.0).growth == 5.0


# Probes against closed forms.

D = 16


def gaussian(v):
    return lambda x: x.flatten(1).square().sum(1) / (2 * v)


def normal(n, std, seed=0):
    return std * torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def probed(v, eta, *, std=None, n=512, steps=5, generator=3, **more):
    how = Chains(step_size=eta, steps=steps, sampler_steps=20, temperature=more.pop("temperature", 1.0))
    draws = torch.Generator().manual_seed(generator)
    return probe(gaussian(v), normal(n, std or math.sqrt(v)), how, generator=draws, **more)


@pytest.mark.parametrize("v", [0.25, 4.0])
def test_noise_over_drift_is_one_where_the_step_becomes_unstable(v):
    # R = √(2 v / η): the mean square of n D normal numbers is known to √(2 / n D), R to half of it.
    for eta, truth in ((2 * v, 1.0), (v / 2, 2.0), (v / 4, math.sqrt(8))):
        probes = probed(v, eta)
        assert probes.ratio_data == pytest.approx(truth, rel=5 * 0.5 * (2 / (512 * D)) ** 0.5)


def test_acceptance_rises_to_one_as_steps_get_short():
    probes = [probed(1.0, eta).accept for eta in (1.5, 0.3, 1e-4)]
    assert probes[0] < 0.1 < probes[1] < probes[2]
    # The log ratio has a standard deviation of order √(D η³): at 1e-4 that is 4e-6.
    assert probes[2] == pytest.approx(1.0, abs=1e-4)


def test_chains_that_begin_too_hot_cool_by_the_exact_amount():
    # x' = (1 - η/v) x + √(2η) z from x ~ N(0, h v): after k steps the variance is a + (h v - a) (1 - η/v)^2k, with
    # a = v / (1 - η/2v); the energy is D/2 of it over v, and s_E = √(D/2) of data.
    v, eta, h, steps = 1.0, 0.1, 3.0, 5
    probes = probed(v, eta, steps=steps, n=4000, chains=normal(64, math.sqrt(h * v), seed=1))
    a = v / (1 - eta / (2 * v))
    # Of few steps: chains and ends share their start, so the error is at most that of the start's own energy.
    error = math.sqrt(D / 2) * h * v / math.sqrt(64) / math.sqrt(D / 2)
    for steps, found in ((5, probes.few), (55, probes.long)):
        variance = a + (h * v - a) * (1 - eta / v) ** (2 * steps)
        truth = (variance - h * v) / v * (D / 2) / math.sqrt(D / 2)
        assert found == pytest.approx(truth, abs=5 * error)
    # Without noise each step shrinks x by 1 - η/v exactly, so that E falls by that square.
    start = gaussian(v)(normal(64, math.sqrt(h * v), seed=1)).mean()
    truth = float(start) * ((1 - eta / v) ** 10 - 1) / probes.spread
    assert probes.quenched == pytest.approx(truth, rel=1e-4)


def test_spread_and_widths_of_data():
    data = normal(4000, 1.0)
    data[:, 3] *= 0.1
    how = Chains(step_size=0.02)
    probes = probe(None, data, how)
    varied = data.double().std(0, correction=0)
    assert probes.narrowest == pytest.approx(float(varied.min()))
    assert probes.data_std == pytest.approx(float(varied.square().mean().sqrt()))
    assert probes.degenerate == 1 / D  # 0.1 is below the step's noise of 0.2 and a quarter of the others'
    noised = probe(None, data, how, level=0.5)
    assert noised.narrowest == pytest.approx(math.hypot(probes.narrowest, 0.5), rel=1e-6)
    assert noised.degenerate == 0
    data[7, 2] = math.nan
    assert probe(None, data, how).finite == pytest.approx(1 - 1 / 4000)


def test_the_true_score_of_noised_data_and_one_of_zero():
    # Data N(0, 1) noised at σ: E‖σ s + z‖² / d = 1 / (1 + σ²) with the true score, and 1 with none.
    sigma, n = 0.5, 128
    data = normal(512, 1.0)
    draws = torch.Generator().manual_seed(0)
    how = Chains(step_size=0.05, sampler_steps=5)
    probes = probe(gaussian(1 + sigma**2), data, how, level=sigma, noise=normal(64, 2.0, 9), generator=draws)
    error = (2 / (n * D)) ** 0.5
    assert probes.near == pytest.approx(1 / (1 + sigma**2), rel=5 * error)
    flat = probe(lambda x: 0 * gaussian(1.0)(x), data, how, level=sigma, generator=draws)
    assert flat.near == pytest.approx(1.0, rel=5 * error)
    assert flat.ratio_data is None
    # Far away, at τ² = E n² + E x² = 5: s = -(x + τ z) / v gives τ² (1 / v)² + (1 - τ² / v)².
    assert probes.far == pytest.approx(5 / 1.25**2 + (1 - 5 / 1.25) ** 2, rel=0.1)


def test_a_bare_score_is_asked_what_needs_no_energy():
    v, eta = 1.0, 0.25
    how = Chains(step_size=eta, steps=5, sampler_steps=20)
    seeds = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    score = probe(None, normal(256, 1.0), how, slope=lambda x: -x / v, noise=normal(64, 2.0, 5), generator=seeds[0])
    energy = probe(gaussian(v), normal(256, 1.0), how, noise=normal(64, 2.0, 5), generator=seeds[1])
    for name in ("ratio", "ratio_data", "diversity", "data_std"):
        assert getattr(score, name) == pytest.approx(getattr(energy, name), rel=1e-5)
    assert score.arrived == pytest.approx(energy.arrived, rel=0.2)
    assert score.long is score.spread is score.fresh is score.accept is None


def test_how_much_of_the_samples_is_noise():
    # A linear score takes the same share of any variance: σ⁴ / (T v)² of N(0, 1 + σ²), but for the mean of 64 chains.
    sigma, t = 0.5, 2.0
    v = (1 + sigma**2) / t
    how = Chains(step_size=0.25, temperature=t, steps=5, sampler_steps=50)
    for noise in (None, normal(64, 2.0, 9)):
        probes = probe(gaussian(v), normal(512, 1.0), how, level=sigma, temperature=t, noise=noise)
        assert probes.noisy == pytest.approx(sigma**4 / (t * v) ** 2, rel=5 / 64)
        assert probes.clean_std**2 + sigma**2 == pytest.approx(probes.data_std**2)
        # N(0, 1) in 16 dimensions: the mean square norm of 512 points is 16 but for √(2 · 16 / 512).
        assert probes.size**2 == pytest.approx(D, abs=5 * math.sqrt(2 * D / 512))
    assert probe(gaussian(v), normal(512, 1.0), how).noisy is None


def test_what_lies_at_the_bounds_is_counted_there():
    data, start = normal(256, 1.0), 5 * normal(64, 1.0, 5).sign()
    still = Chains(step_size=0.1, temperature=0.0, sampler_steps=1)
    probes = probe(lambda x: 0 * gaussian(1.0)(x), data, still._replace(bounds=(-1.0, 1.0)), noise=start)
    assert probes.outside == pytest.approx(1 - float((data.abs() >= 1).double().mean()))
    assert probe(lambda x: 0 * gaussian(1.0)(x), data, still, noise=start / 5).outside == pytest.approx(
        -2 / data.numel()
    )


# Bare landscapes.

MODES = 4 * torch.tensor([[math.cos(a), math.sin(a)] for a in (0.3, 1.2, 2.5, 3.9, 5.4)])
WIDTH = 0.35


@pytest.mark.parametrize(
    ("law", "sigma"), [(name, 0.0) for name in DISTRIBUTIONS] + [("squares", 0.2), ("25gaussians", 0.5)]
)
def test_islands_are_parted_where_score_matching_fails(law, sigma):
    """Of plain score matching these lose the masses (tens of nats), and all others keep them, eight Gaussians too."""
    if law in ("points", "rescaled"):
        return
    for seed in range(3):
        draws = torch.Generator().manual_seed(seed)
        x = DISTRIBUTIONS[law]().sample(512, generator=draws)
        gap = parted(x + sigma * torch.randn(x.shape, generator=draws)) or 0.0
        assert (gap > 5) == (law in ("squares", "25gaussians") and sigma < 0.5), gap


def test_islands_are_parted_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    assert parted(line) == pytest.approx(8.0)
    assert parted(torch.cat([line, 3 - line], 1)) == pytest.approx(8.0)
    # Fewer than 2 % of the points are an outlier, not an island.
    assert parted(torch.cat([torch.arange(99.0)[:, None], torch.tensor([[500.0]])])) is None
    assert parted(torch.zeros(50, 2)) is None


def attempt(sigma, step, **more):
    """Five Gaussians noised at σ, exactly, sampled with a step that is some part of the landscape's width squared."""
    draws = torch.Generator().manual_seed(4)
    clean, v = GaussianMixture(MODES, std=WIDTH), WIDTH**2 + sigma**2
    how = Chains(step_size=step * v, sampler_steps=400, **more)
    start = 6 * (2 * torch.rand(64, 2, generator=draws) - 1)
    data = clean.sample(512, generator=draws)
    probes = probe(GaussianMixture(MODES, std=math.sqrt(v)), data, how, level=sigma, noise=start, generator=draws)
    return [each.rule for each in diagnose(how.record(objective="dsm", data_noise=sigma), probes)]


def test_three_ways_to_fail_on_a_landscape_that_is_right():
    # The landscape is right, and no training by slopes would have made it so: of that alone it is warned.
    assert attempt(0.2, 1 / 4) == ["parted_islands"]
    for step in (1e-3, 1 / 4):
        assert attempt(0.2, step, temperature=50.0)[0] == "hot_chains"
    for bounds in (None, (-6.0, 6.0)):
        assert attempt(0.2, 80.0, temperature=0.0, bounds=bounds)[0] == "long_step"
    assert attempt(0.2, 1 / 4, temperature=0.0)[0] == "cold_chains"
    # The noise is a part of the landscape's law: first hardly, then visibly, then more than half of it.
    assert attempt(1.2, 1 / 4) == ["noise_kept"]
    assert attempt(2.5, 1 / 4) == ["one_noise_level"]
    remedy = RULES["one_noise_level"](bare(network="conv"), at(noisy=0.3, clean_std=0.5, size=20.0)).flags
    proposed = Recipe.named("digits-pcd", overrides_from(remedy.split())).resolved().tables
    assert proposed["model"]["network"]["name"] == "unet"
    assert proposed["objective"]["levels"]["sigma_min"] == proposed["sampler"]["grid"]["sigma_min"] == 0.01
    assert proposed["objective"]["levels"]["sigma_max"] == proposed["sampler"]["grid"]["sigma_max"] == 60.0
    # What a hot or a thrown chain shows is no sign of what was learned.
    for more in ({"temperature": 50.0}, {"temperature": 0.0, "bounds": (-6.0, 6.0)}):
        assert "one_noise_level" not in attempt(2.5, 40.0 if "bounds" in more else 0.25, **more)


def test_straight_pieces_are_told_from_smooth_networks_and_from_a_gaussian():
    results = {}
    for name, unit in (("relu", torch.nn.ReLU()), ("silu", torch.nn.SiLU())):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(D, 64), unit, torch.nn.Linear(64, 1))
        energy = lambda x, net=net: net(x).squeeze(1) * 4 + gaussian(1.0)(x)  # noqa: E731
        results[name] = probe(energy, normal(256, 1.0), Chains(step_size=0.1, sampler_steps=5))
    assert results["relu"].kinks < 1e-5 < 1e-2 < results["silu"].kinks
    assert results["relu"].bends > 1e-2
    smooth = probed(1.0, 0.1)
    assert smooth.kinks < 1e-5
    assert smooth.bends < 1e-5
    names = [[each.rule for each in diagnose(bare(), each)] for each in (results["relu"], results["silu"], smooth)]
    assert names == [["straight_pieces"], [], []]


def test_copies_among_chains_and_chains_from_noise():
    data = normal(256, 1.0)
    chains = normal(64, 1.0, seed=2)
    chains[32:48] = chains[0] + 1e-3 * normal(16, 1.0, seed=4)
    draws = torch.Generator().manual_seed(0)
    how = Chains(step_size=0.1, sampler_steps=100)
    probes = probe(gaussian(1.0), data, how, chains=chains, noise=normal(64, 5.0, 5), generator=draws)
    assert probes.duplicates == 17 / 64
    # From noise to the same law: the mean of 64 energies of variance D/2 v², v = 1 / (1 - η / 2), less 64 others.
    assert abs(probes.fresh) < 5 * 1.06 * (2 / 64) ** 0.5 + 0.06 * math.sqrt(D / 2)
    assert probes.arrived == pytest.approx(1.0, abs=0.2)
    # The same, were it asked after one step, is nowhere near.
    early = probe(gaussian(1.0), data, how._replace(sampler_steps=1), noise=normal(64, 5.0, 5), generator=draws)
    assert early.arrived > 2


def test_probes_repeat_themselves_and_leave_torchs_generator_alone():
    before = torch.get_rng_state()
    first, second = (probed(1.0, 0.1, noise=normal(64, 2.0), held_out=normal(64, 1.0, 8)) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(energies(gaussian(1.0), normal(600, 1.0)), gaussian(1.0)(normal(600, 1.0)))


# The command.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "run"
    tiny = ["--train.budget", "15k", "--train.checkpoint_every", "10000", "--model.network.width", "32"]
    short = ["--sampler.steps", "20", "--train.log_every", "2", "--objective.start.capacity", "256"]
    short += ["--train.warmup", "1000"]
    with pytest.raises(SystemExit) as exit_:
        main(["train", "digits-pcd", *tiny, *short, "--objective.kernel.temperature", "0.01", "--out", str(path)])
    assert not exit_.value.code
    return path


def call(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_command_names_a_planted_cause_and_exits_with_one(run, capsys):
    status, out, _ = call(capsys, "doctor", run)
    assert status == 1
    assert "[cold_chains, act]" in out.split("\n2.")[0]
    assert "--objective.kernel.temperature 1" in out
    status, out, _ = call(capsys, "doctor", run, "--json")
    findings = json.loads(out)
    assert status == 1
    assert findings["status"] == "findings"
    assert findings["findings"][0]["rule"] == "cold_chains"
    assert findings["findings"][0]["numbers"]["temperature"] == pytest.approx(0.01)
    assert findings["probes"]["finite"] == 1.0


def test_what_guards_have_mended_is_still_named(tmp_path, capsys):
    path = tmp_path / "run"
    tiny = ["--train.budget", "5120", "--train.checkpoint_every", "2560", "--model.network.width", "32"]
    words = ["train", "digits-pcd", *tiny, "--sampler.steps", "20", "--objective.start.capacity", "256"]
    assert call(capsys, *words, "--objective.data_noise", "0.0", "--out", path)[0] == 0
    assert "data noised at" in (path / "interventions.jsonl").read_text()
    status, out, _ = call(capsys, "doctor", path, "--json")
    finding = json.loads(out)["findings"][0]
    assert status == 1
    assert finding["rule"] == "degenerate_data"
    assert "guards have noised" in finding["evidence"]
    assert finding["flags"] == "--objective.data_noise 0.25"
    assert finding["remedy"] == [{"setting": "objective.data_noise", "value": 0.25}]


def test_a_run_that_died_early_is_judged_from_its_record(run, tmp_path, capsys):
    import shutil

    dead = tmp_path / "dead"
    shutil.copytree(run, dead, ignore=shutil.ignore_patterns("checkpoints"))
    status, out, _ = call(capsys, "doctor", dead)
    assert status == 1
    assert "cold_chains" in out
    text = (dead / "recipe.toml").read_text().replace("temperature = 0.01", "temperature = 1.0")
    (dead / "recipe.toml").write_text(text)
    (dead / "metrics.jsonl").write_text("")
    status, out, err = call(capsys, "doctor", dead)
    assert (status, out) == (2, "")
    assert "cannot tell" in err
    assert json.loads(call(capsys, "doctor", dead, "--json")[1])["status"] == "unclear"


def test_a_bare_energy(run, tmp_path, capsys):
    from safetensors.torch import save_file

    from energyscape.runs import Run

    weights = tmp_path / "energy.safetensors"
    save_file(Run.open(run).experiment().trained.model.state_dict(), weights)
    asked = ["doctor", "--model", weights, "--recipe", run / "recipe.toml"]
    status, out, _ = call(capsys, *asked)
    assert status == 1
    assert "[cold_chains, act]" in out.split("\n2.")[0]
    status, out, err = call(capsys, *asked, "--model.network.width", "8")
    assert status == 2
    assert "expected the weights" in err
    assert call(capsys, *asked, "--objective.kernel.temperature", "1.0")[0] in (0, 1)
    # The same weights as the score of noised data that a sampler of its own follows.
    scored = [*asked, "--objective.name", "dsm", "--objective.sigma", "0.5", "--sampler.steps", "20", "--json"]
    for settings, rule in (
        (("--sampler.kernel.temperature", "50.0"), "hot_chains"),
        (("--sampler.kernel.temperature", "0.0", "--sampler.kernel.step_size", "20.0"), "long_step"),
    ):
        status, out, _ = call(capsys, *scored, *settings)
        findings = json.loads(out)["findings"][0]
        assert (status, findings["rule"]) == (1, rule)
        assert "--sampler.kernel.temperature 1" in findings["flags"]
    weights.write_bytes(b"no")
    assert call(capsys, *asked)[0] == 2


def test_lengths_of_conditional_chains_are_those_of_the_lowest_level():
    from energyscape.doctor.from_run import chains_of
    from energyscape.recipe import Experiment

    recipe = Recipe.named("8gaussians-drl", {"objective.kernel.step_size": "0.5"})
    ratio = (6.4 / 0.1) ** (1 / 10)  # ten levels from 0.1 to 6.4
    # A leapfrog step of ε is a Langevin step of ε² / 2, and s₀² = σ₀² (1 - (σ₀ / σ₁)²).
    assert chains_of(Experiment(recipe)).step_size == pytest.approx(0.5**2 / 2 * 0.1**2 * (1 - ratio**-2))


def test_mistakes_are_one_line(run, tmp_path, capsys):
    for words in (["doctor"], ["doctor", tmp_path / "none"], ["doctor", run, "--recipe", "digits-pcd"]):
        status, out, err = call(capsys, *words)
        assert (status, out) == (2, "")
        assert len(err.splitlines()) == 1


def test_the_report_has_the_doctors_section(run):
    from energyscape.reports.run_page import examined
    from energyscape.runs import Run

    section = examined(Run.open(run))
    assert section.title == "The doctor"
    assert len(section.figures) >= 1
    assert section.table[1][3].startswith("--objective.kernel.temperature 1")


# What rules read, and what runs write.

HOSTILE = {
    "low_rate": ["--train.learning_rate", "1e-9"],
    "high_rate": ["--train.learning_rate", "0.3"],
    "long_warmup": ["--train.warmup", "1000000000000"],
    "tight_clip": ["--train.clip", "1e-9"],
    "high_beta1": ["--train.beta1", "0.999"],
    "odd_beta2": ["--train.beta2", "0.0"],
    "small_batch": ["--train.batch_size", "1"],
    "few_updates": ["--train.batch_size", "1000"],
    "few_lines": ["--train.log_every", "1000"],
    "cold_chains": ["--objective.kernel.temperature", "0.01"],
    "cold_chains of the sampler": ["--sampler.kernel.temperature", "0.0001"],
    "hot_chains": ["--objective.kernel.temperature", "50.0"],
    "hot_chains of the sampler": ["--sampler.kernel.temperature", "50.0"],
    "long_step": ["--objective.kernel.step_size", "1.0"],
    "long_step of the sampler": ["--sampler.kernel.step_size", "1.0"],
    "short_step": ["--objective.kernel.step_size", "1e-7"],
    "short_step of the sampler": ["--sampler.kernel.step_size", "1e-7"],
    "short_step that is one": ["--objective.steps", "1"],
    "short_step that is one in generation": ["--sampler.steps", "1"],
    "tight_drift_clip": ["--objective.kernel.drift_clip", "1e-6"],
    "tight_bounds": ["--objective.kernel.bounds", "[0.0, 1.0]"],
    "tight_bounds of the sampler": ["--sampler.kernel.bounds", "[-0.1, 0.1]"],
    "far_start": ["--objective.start.fresh.low", "50.0", "--objective.start.fresh.high", "51.0"],
    "far_start of the sampler": ["--sampler.start.low", "50.0", "--sampler.start.high", "51.0"],
    "fresh_chains": ["--objective.start.refresh", "1.0"],
    "stale_chains": ["--objective.start.refresh", "0.0"],
    "large_buffer": ["--objective.start.capacity", "1000000"],
    "strong_regulariser": ["--objective.alpha", "1.0"],
    "degenerate_data": ["--objective.data_noise", "0.0"],
    "mirrored_data": ["--train.flips", "true"],
    "strong_noise": ["--objective.data_noise", "5.0"],
    "noise_kept": ["--sampler.tweedie", "false"],
    "tight_reference": ["--model.reference_std", "0.01"],
    "wide_reference": ["--model.reference_std", "100.0"],
    "output_scale": ["--model.scale", "1e-6"],
    "output_scale that is large": ["--model.scale", "1e6"],
    "bounded_slope": [
        "--model.network",
        '{ name = "conv", width = 8, spectral_norm = true }',
        "--model.scale",
        "1.0",
    ],
    "small_network": ["--model.network.width", "1"],
    "tight_guards": ["--guard.gradient_factor", "1.01"],
}
"""Settings of digits-pcd that spoil it, by the rule that names them."""


def planned(recipe, *settings):
    from energyscape.doctor.from_run import forewarned
    from energyscape.recipe import Experiment

    return [each.rule for each in forewarned(Experiment(Recipe.named(recipe, overrides_from(settings))))]


@pytest.mark.parametrize("name", HOSTILE)
def test_settings_that_spoil_a_run_are_named_before_it(name):
    budget = [] if "--train.batch_size" in HOSTILE[name] else ["--train.warmup", "3000"]
    assert planned("digits-pcd", "--train.budget", "30k", *budget, *HOSTILE[name])[0] == name.split()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_settings_that_spoil_a_run_are_named_first_after_it(name, tmp_path, capsys):
    """Twenty seconds each; the budget ends within the warm-up, which comes last of all causes."""
    status, _, err = call(
        capsys, "train", "digits-pcd", "--train.budget", "30k", *HOSTILE[name], "--out", tmp_path / "run"
    )
    assert "warning" in err
    assert status in (0, 1)
    status, out, _ = call(capsys, "doctor", tmp_path / "run", "--json")
    assert status == 1
    assert json.loads(out)["findings"][0]["rule"] == name.split()[0]


HARMLESS = {
    "batch of 64": ["--train.batch_size", "64"],
    "batch of 256": ["--train.batch_size", "256"],
    "half the rate": ["--train.learning_rate", "1.5e-3"],
    "twice the rate": ["--train.learning_rate", "6e-3"],
    "narrow": ["--model.network.width", "64"],
    "wide": ["--model.network.width", "512"],
    "shallow": ["--model.network.depth", "2"],
    "longer steps": ["--objective.kernel.step_size", "0.0203"],
    "shorter steps": ["--objective.kernel.step_size", "0.0109"],
    "longer steps of the sampler": ["--sampler.kernel.step_size", "0.0203"],
    "bounded slope": ["--model.network", '{ name = "conv", width = 8, spectral_norm = true }'],
    "box of the data": ["--objective.kernel.bounds", "[-1.0, 1.0]"],
    "no average": ["--train.ema_half_life", "none"],
    "no clip": ["--train.clip", "none"],
    "cosine": ["--train.decay", "cosine"],
    "ten steps": ["--objective.steps", "10"],
    "more noise": ["--objective.data_noise", "0.3"],
    "large buffer": ["--objective.start.capacity", "10000"],
    "momentum": ["--train.beta1", "0.9"],
    "mala": ["--objective.kernel", '{ name = "mala", step_size = 0.01 }'],
    "tempering": ["--sampler.kernel", '{ name = "tempering", kernel = { name = "mala", step_size = 0.02 } }'],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_settings_are_not_warned_of(name):
    assert planned("digits-pcd", *HARMLESS[name]) == []


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_not_warned_of(name):
    from pathlib import Path

    data = Recipe.named(name).tables["data"]["name"]
    root = Path(__file__).parents[3] / "shared" / "data" / data
    if data not in ("digits", "8gaussians") and not (data == "mnist" and root.is_dir()):
        pytest.skip(f"{data} is not here")
    assert planned(name, *(["--data.root", str(root)] if data == "mnist" else [])) == []


def test_a_budget_within_the_warm_up_is_warned_of_with_one_that_would_do(tmp_path, capsys):
    tiny = [
        "--train.budget",
        "2560",
        "--train.warmup",
        "64000",
        "--model.network.width",
        "32",
        "--sampler.steps",
        "100",
    ]
    words = ["train", "digits-pcd", *tiny, "--objective.start.capacity", "256", "--train.log_every", "1"]
    status, _, err = call(capsys, *words, "--out", tmp_path / "run")
    warned = [line for line in err.splitlines() if "warning" in line]
    assert status == 0
    assert len(warned) == 2  # few updates too
    assert "--train.warmup 256, or --train.budget 640000" in warned[1]
    # 20 steps of Adam, at the rate times 1/1000 on average, cannot move weights of 0.1 by a hundredth of them.
    status, out, _ = call(capsys, "doctor", tmp_path / "run", "--json")
    result = {each["rule"]: each for each in json.loads(out)["findings"]}
    assert status == 1
    assert list(result)[:2] == ["few_updates", "long_warmup"]
    assert result["nothing_learned"]["numbers"]["moved"] < 0.01
    assert "weights have moved" in result["long_warmup"]["evidence"]
    assert "warning" not in call(capsys, *words, "--out", tmp_path / "run")[2]  # it is finished


def test_a_run_that_guards_stopped_names_the_rate(tmp_path, capsys):
    tiny = ["--train.budget", "30k", "--train.warmup", "0", "--model.network.width", "32", "--sampler.steps", "100"]
    words = ["train", "digits-pcd", *tiny, "--objective.start.capacity", "256", "--guard.rollbacks", "0"]
    status, _, err = call(capsys, *words, "--train.learning_rate", "3.0", "--out", tmp_path / "run")
    assert status == 1
    assert "--train.learning_rate 0.003" in err.splitlines()[0]
    status, out, _ = call(capsys, "doctor", tmp_path / "run", "--json")
    findings = json.loads(out)["findings"]
    assert status == 1
    assert findings[0]["rule"] == "high_rate"
    assert "divergence" in {each["rule"] for each in findings}


def test_components_that_rules_name_are_registered():
    import re
    from pathlib import Path

    import energyscape.doctor
    from energyscape.objectives import OBJECTIVES
    from energyscape.samplers import KERNELS

    source = "".join(path.read_text() for path in Path(energyscape.doctor.__file__).parent.glob("*.py"))
    assert set(re.findall(r'objective (?:==|in|not in) \(?(?:None, )?"([\w-]+)"', source)) <= set(OBJECTIVES)
    assert set(re.findall(r'kernel (?:==|!=|in|not in) \(?"([\w-]+)"', source)) <= set(KERNELS)


BOUNDED = [
    *("--objective.kernel.bounds", "[-2.0, 2.0]"),
    *("--model.network", '{ name = "conv", width = 8, spectral_norm = false }'),
]


def test_settings_that_rules_read_are_set_by_some_recipe():
    from dataclasses import fields

    from energyscape.doctor.from_run import settings_of
    from energyscape.recipe import Experiment

    records = [
        settings_of(Experiment(Recipe.named(name, overrides_from(more))))
        for name, more in (("digits-pcd", BOUNDED), ("8gaussians-pcd-hmc", []))
    ]
    nothing = Record()
    unset = {
        each.name
        for each in fields(Record)
        if all(getattr(record, each.name) == getattr(nothing, each.name) for record in records)
    }
    assert unset == {"columns", "interventions", "chains", "inner"}
    # A leapfrog step of ε is η = ε² / 2: a quarter of η is half of ε.
    hmc = records[1]
    assert hmc.adjusted
    assert hmc.step_size == pytest.approx(hmc.typed[0] ** 2 / 2)
    result = RULES["long_step"](hmc, Probes(accept=0.2))
    assert result.remedy[0].value == pytest.approx(hmc.typed[0] / 2, rel=0.05)


# Every rule can fire: each is provoked by a short run.


class Few(Rows):
    """Four points on a circle to train on, and four between them; one is not finite if asked for."""

    def __init__(self, split: str = "train", finite: bool = True):
        angle = (torch.arange(4) + 0.5 * (split == "test")) * math.tau / 4
        self.points = 3 * torch.stack([angle.cos(), angle.sin()], 1)
        self.points[0] += 0 if finite else math.nan

    shape = (2,)

    def __len__(self):
        return len(self.points)

    def floats(self, index=None):
        return self.points if index is None else self.points[index]


TINY = ["--train.budget", "8k", "--train.log_every", "1", "--train.warmup", "0", "--sampler.steps", "60"]
STEEP = [
    *("--model.reference_std", "0.2", "--objective.kernel.step_size", "0.1", "--objective.steps", "1"),
    *("--guard.enabled", "false", "--train.learning_rate", "1e-4"),
]
SLOW_CHAINS = ["--objective.kernel.step_size", "1e-4", "--guard.enabled", "false"]
CENTRE = '{ name = "noise", low = -0.1, high = 0.1 }'

PROVOKED = {
    ("nothing_learned", "easy_negatives", "saturation", "cold_gradient", "rejecting"): [
        "8gaussians-cd-langevin",
        *STEEP,
    ],
    ("divergence", "unreached_from_noise"): ["8gaussians-pcd-langevin", "--model.reference_std", "0.1"],
    ("straight_pieces", "blind_to_weights"): ["8gaussians-pcd-langevin", "--model.network.activation", "relu"],
    ("spoiled_data",): ["8gaussians-nce", "--data.name", "few", "--data.finite", "false"],
    ("easy_noise",): [
        *("8gaussians-nce", "--objective.noise", "uniform", "--objective.spread", "50"),
        *("--train.learning_rate", "0.01", "--train.budget", "13k"),
    ],
    ("parted_islands",): ["8gaussians-ssm", "--data.name", "squares"],
    ("unbounded_drift",): [
        *("8gaussians-pcd-langevin", "--sampler.start.low", "-30.0", "--sampler.start.high", "30.0"),
        *("--model.reference_std", "1.0"),
    ],
    ("flat_energy",): [
        *("8gaussians-pcd-langevin", "--model.reference_std", "60.0", "--model.scale", "0.0003"),
        *("--train.learning_rate", "0.0005"),
    ],
    ("no_signal",): ["8gaussians-dsm", "--objective.sigma", "0.001"],
    ("one_noise_level",): ["8gaussians-dsm", "--objective.sigma", "2.5", "--train.budget", "50k"],
    ("contraction",): [
        *("8gaussians-shortrun-langevin", "--train.learning_rate", "0.0002", "--objective.steps", "2"),
        *("--objective.start", CENTRE, *SLOW_CHAINS, "--model.scale", "0.2"),
    ],
    ("buffer_collapse",): [
        *("8gaussians-pcd-langevin", "--objective.start.refresh", "0.0", "--objective.start.fresh", CENTRE),
        *SLOW_CHAINS,
    ],
    ("long_run",): [
        *("8gaussians-shortrun-langevin", "--objective.steps", "2", "--guard.enabled", "false"),
        *("--train.budget", "30k", "--train.warmup", "10000", "--sampler.steps", "500"),
    ],
    ("energy_drift",): [
        *("8gaussians-cd-langevin", "--data.name", "rescaled", "--data.law", '{ name = "8gaussians" }'),
        *("--data.std", "0.01", "--objective.alpha", "0", "--model.scale", "1e5", "--model.reference_std", "0.01"),
        *("--objective.kernel.step_size", "1e-6"),
    ],
    ("oscillation",): [
        *("8gaussians-shortrun-langevin", "--train.learning_rate", "0.2", "--train.beta2", "0.0"),
        *("--train.budget", "12k", "--objective.steps", "20", "--model.network.width", "16"),
        *("--guard.enabled", "false"),
    ],
    ("memorised",): [
        *("8gaussians-nce", "--data.name", "few", "--train.learning_rate", "0.01", "--train.budget", "60k"),
        *("--sampler.kernel", '{ name = "langevin", step_size = 0.001 }'),
    ],
}
"""Rules that settings alone do not show, by the run in the plane that provokes them."""


def test_every_rule_is_provoked():
    assert {name for names in PROVOKED for name in names} | {name.split()[0] for name in HOSTILE} == set(RULES)


FAST = ("nothing_learned", "straight_pieces")


@pytest.mark.parametrize(
    "names", [pytest.param(names, id=names[0], marks=[pytest.mark.slow] * (names[0] not in FAST)) for names in PROVOKED]
)
def test_a_short_run_provokes_a_rule(names, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DATASETS._entries, "few", Few)
    recipe, *settings = PROVOKED[names]
    call(capsys, "train", recipe, *TINY, *settings, "--out", tmp_path / "run")
    status, out, _ = call(capsys, "doctor", tmp_path / "run", "--json")
    assert status == 1
    assert set(names) <= {each["rule"] for each in json.loads(out)["findings"]}
