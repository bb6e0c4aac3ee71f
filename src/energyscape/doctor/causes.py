"""Rules about causes outside the chains' kernel: data, regulariser, batch, network, buffer, learning rate."""

import math
from collections.abc import Iterable

from energyscape.doctor.finding import Finding, Limit, Setting, below, finding, rate, rounded, table
from energyscape.doctor.probes import Probes
from energyscape.doctor.record import Record, autocorrelation, jitter, median, safe_ratio
from energyscape.objectives.facts import Column


def spoiled_data(record: Record, probes: Probes) -> Finding | None:
    """Find data that are not finite, batches that guards skipped, or a calm record that suddenly ends."""
    skipped = record.answered("data points are not finite")
    bad = 0.0 if probes.finite is None else 1 - probes.finite
    if not bad and not skipped and not _ended_suddenly(record):
        return None
    if skipped:
        evidence = f"{len(skipped)} batches held data that are not finite: {skipped[0].get('reason', '')}"
    elif bad:
        evidence = f"{bad:.2%} of the data looked at are not finite"
    else:
        evidence = f"{record.lost()} of {record.lines} lines are not finite, and the lines before them were calm"
    return finding(
        "spoiled_data",
        True,
        "the loss suddenly ceases to be finite",
        [evidence],
        "some data points are not finite (NaN or infinite); a single one is enough",
        advice=[
            "clean the data: drop the points that are not finite (torch.isfinite); until then",
            Setting("guard.enabled", True),
            "skips their batches",
        ],
        numbers={"not_finite": bad, "batches": float(len(skipped)), "lines": float(record.lost())},
    )


def _ended_suddenly(record: Record) -> bool:
    columns = record.column("loss")
    end = next((i for i, value in enumerate(columns) if not math.isfinite(value)), None)
    # Non-finite weights are rolled back at the next snapshot, guards or not, and the numbers become finite again.
    if end is None or end < 5 or any(math.isfinite(value) for value in columns[end : end + 5]):
        return False
    before = Record(columns={name: column[:end] for name, column in record.columns.items()})
    return (before.growth or 1) < 100 and (before.spike or 1) < 10


def strong_regulariser(record: Record, probes: Probes) -> Finding | None:
    r"""Find an energy regulariser that outweighs the data (row 15).

    With :math:`\alpha \overline{E^2}` in the loss, the gradient of a point's energy is :math:`1 + 2 \alpha E` where it
    should be 1. With :math:`\alpha (\bar E^+ + \bar E^-)^2`, the mean alone, it is :math:`1 + 2 \alpha (\bar E^+ + \bar
    E^-)`. Warn if the root mean square of that term exceeds 0.3, act above 1. The mean alone should never matter: warn
    at 0.1, but only if the term began above 0.5. Otherwise energies have diverged and :math:`\alpha` is not to blame.
    With all energies regularised, act on :math:`|\bar{\text{gap}}| / \operatorname{std} > 3` with a spread under 0.3 T.
    """
    alpha, mean = record.alpha or 0.0, record.regulariser == "mean"
    spread = record.now("spread") or probes.spread or _at_first(record, probes)
    if alpha == 0 or spread is None:
        return None
    at_first, later = _sum_of_means(record) if mean else (math.inf, _size(record, spread))
    weight = 2 * alpha * later
    temperature = record.temperature or 1.0
    gaps, flat = record.last("gap"), spread < 0.3 * temperature and not mean
    z = safe_ratio(abs(sum(gaps) / len(gaps)), _deviation(gaps)) if gaps else None
    much = weight > (0.1 if mean else 0.3) and 2 * alpha * at_first > 0.5
    if not much and not (flat and (z or 0) > 3):
        return None
    target = 0.03 / max(weight, 1e-12) * alpha if much else alpha / 10
    outweighs = "the energy stays flat and its gap does not close", "gradients are the regulariser's, not the data's"
    advice: list[Setting | str] = [Setting("objective.alpha", rounded(target, 1))]
    other: list[Setting | str] = [", or --objective.regulariser mean, which holds the free constant alone"]
    return finding(
        "strong_regulariser",
        weight > 1 or flat,
        outweighs[mean],
        [
            f"2 α {'rms(Ē⁺ + Ē⁻)' if mean else 'rms(E)'} = {weight:.3g} beside the likelihood's 1; energies of data "
            f"spread by {spread:.3g} at T = {temperature:g}"
        ],
        f"the energy regulariser (α = {alpha:g}) outweighs the data",
        advice=advice + other * (not mean),
        numbers={"weight": weight, "spread": spread, "alpha": alpha},
    )


def _at_first(record: Record, probes: Probes) -> float | None:
    """Return the energies of data before training, where the reference alone makes them."""
    return None if probes.size is None else safe_ratio(probes.size**2 / 2, (record.reference_std or 0) ** 2)


def _size(record: Record, spread: float) -> float:
    """Return the root mean square of the energies, of data's or of negatives', whichever is larger."""
    return math.hypot(max(abs(record.now("energy_data") or 0), abs(record.now("energy_model") or 0)), spread)


def _sum_of_means(record: Record) -> tuple[float, float]:
    """Return the root mean square of both mean energies' sum, at the beginning and over the record's last half."""
    half = max(record.window, record.lines // 2)
    first, last = (record.first(name) for name in _MEANS), (record.last(name, window=half) for name in _MEANS)
    return _root_mean_square(map(sum, zip(*first, strict=False))), _root_mean_square(map(sum, zip(*last, strict=False)))


_MEANS: tuple[Column, ...] = ("energy_data", "energy_model")


def _root_mean_square(values: Iterable[float]) -> float:
    squares = [value**2 for value in values]
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def _deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def degenerate_data(record: Record, probes: Probes) -> Finding | None:
    r"""Find directions in which the data hardly vary (row 8).

    Measure the share of coordinates whose standard deviation is below one step's noise :math:`\sqrt{2 \eta}` and a
    quarter of the others'. Warn above 2 %, act above 10 %.

    References:
        On the anatomy of MCMC-based maximum likelihood learning of energy-based models (Nijkamp et al., 2020),
        section 3.4. https://arxiv.org/abs/1903.12370
    """
    narrow = probes.degenerate
    if narrow is None and (record.batch_size or 0) >= 64:
        narrow = record.began("degenerate")
    if narrow is None or narrow <= 0.02 or record.step_size is None:
        return None
    noise = math.sqrt(2 * record.step_size)
    level = max(math.sqrt(2) * noise, record.data_noise or 0)
    if record.reference_std is not None and record.reference_std < (probes.data_std or math.inf):
        level = record.reference_std
    return finding(
        "degenerate_data",
        narrow > 0.1,
        "the gap falls without limit, because of a few coordinates",
        [
            f"{narrow:.0%} of the coordinates vary by less than one step's noise of {noise:.3g}",
            "" if probes.narrowest is None else f"the narrowest by {probes.narrowest:.3g}",
            "guards have noised the data" if record.answered("data noised at") else "",
        ],
        "the data have directions in which they hardly vary, such as black borders, and no noise is added to them",
        advice=[Setting("objective.data_noise", rounded(level))],
        numbers={"degenerate": narrow, "noise": noise},
    )


def small_batch(record: Record, _: Probes) -> Finding | None:
    r"""Find a batch so small that its gradient is mostly noise.

    The standard error of the gap of a batch of :math:`B` is :math:`\sqrt{(s_+^2 + s_-^2) / B}`. Warn if the gap's
    jitter over the last half of the record exceeds 0.2 of :math:`\sqrt{s_+^2 + s_-^2}` and :math:`B \le 16`; act if the
    run has diverged.
    """
    b = record.batch_size
    half = max(record.window, record.lines // 2)
    noise = jitter(record.last("gap", window=half))
    plus, minus = (median(record.last(name, window=half)) for name in ("spread", "spread_model"))
    if b is None or b > 16:
        return None
    if noise is None or plus is None:
        share = b**-0.5 * (b <= 4)  # the share that so small a batch explains
    else:
        share = noise / max(math.hypot(plus, plus if minus is None else minus), 1e-12)
    if share <= 0.2:
        return None
    usual = f"a batch of {b} explains {b**-0.5:.2g}, 128 would leave 0.09"
    return finding(
        "small_batch",
        record.diverged,
        "loss and gradients fluctuate, and the energy drifts",
        [f"the gap jitters by {share:.2g} of the energies' own spread", usual],
        f"the batch ({b}) is too small: each gradient is mostly sampling noise",
        advice=[Setting("train.batch_size", max(64, 8 * b))],
        numbers={"jitter": share, "batch_size": float(b)},
    )


def stale_chains(record: Record, probes: Probes) -> Finding | None:
    """Find persistent chains that are restarted too rarely or never (row 14)."""
    ages, samples = record.last("age", window=5), record.last("samples", window=5)
    if not record.capacity or bool(ages) != bool(samples):
        return None
    draws = (samples[-1] if samples else record.budget or 0) / record.capacity
    age = ages[-1] if ages else draws * (record.refresh == 0)
    never = record.refresh == 0 and draws >= 10 and age >= 0.8 * draws
    if not never and age <= 1000:
        return None
    away = "" if probes.fresh is None else f"chains from noise end {probes.fresh:+.2g} s.d. of energy away from them"
    return finding(
        "stale_chains",
        abs(probes.fresh or 0) > 2,
        "chains and energy have co-adapted: chains from noise were never trained on",
        [f"the median chain is {age:.0f} draws old, of {draws:.0f}", away],
        "the buffer is never refreshed" if never else "the buffer is refreshed too seldom",
        advice=[Setting("objective.start.refresh", 0.01)],
        numbers={"age": age, "draws": draws, "fresh": probes.fresh},
    )


def high_rate(record: Record, _: Probes) -> Finding | None:
    """Find a learning rate that chains cannot follow (rows 1 and 2); rules about the chains come first."""
    lowered = record.answered("learning rate ×")
    rho = autocorrelation(record.last("gap"))
    swings = rho is not None and rho < -0.5
    if record.learning_rate is None or not (lowered or swings or record.diverged or record.learning_rate > MOST_RATE):
        return None
    high = record.learning_rate > MOST_RATE
    measured = {"growth": record.growth, "volley": record.spike, "autocorrelation": rho}
    words = [
        *record.stopped,
        f"Adam moves every weight by up to {record.learning_rate:g} a step, and they begin at about 0.1" * high,
        f"energies grew {measured['growth']:.2g}-fold" if (measured["growth"] or 0) > RATE_GROWTH else "",
        f"gradient norms reach {measured['volley']:.2g} times their median" if (measured["volley"] or 0) > 10 else "",
        f"the gap's lag-1 autocorrelation is {rho:.2f}" if rho is not None and (swings or rho > 0.7) else "",
        f"{record.lost()} lines are not finite" if record.lost() else "",
        f"guards lowered the rate {len(lowered)} times: {lowered[0].get('reason', '')}" if lowered else "",
    ]
    act = record.diverged or len(lowered) > 1
    return finding(
        "high_rate",
        act,
        "energies change faster than chains can follow",
        words if any(words) else ["the record ends in trouble"],
        f"the learning rate ({record.learning_rate:g}) is too high for these chains",
        advice=[Setting("train.learning_rate", 0.003) if high else rate(record, 0.1 if act else 0.3)],
        numbers=measured | {"lowered": float(len(lowered))},
    )


def flat_energy(record: Record, probes: Probes) -> Finding | None:
    r"""Find an energy too flat for its data (row 7b).

    Noise over drift at the chains is :math:`R > 30` and more than three times that of any true energy. The mean square
    of a true score is at least :math:`1 / v` in a coordinate of variance :math:`v` (Cramér and Rao), so :math:`R \le
    \sqrt{2 T / \eta}` times the data's deviation. A short step alone also makes :math:`R` large.
    """
    r = record.ratio if record.columns else (probes.ratio_data or probes.ratio)
    eta, width = record.step_size, probes.data_std or record.began("data_std")
    if eta is None or r is None or r <= 30 or record.diverged:
        return None
    t = 1.0 if record.temperature is None else record.temperature
    most = None if width is None else math.sqrt(2 * t / eta) * width
    if most is not None and r <= 3 * most:
        return None
    most_words = f", a true energy has at most {most:.3g}" if most else ""
    spread = f", energies of data spread by {probes.spread:.2g}" if probes.spread is not None else ""
    return finding(
        "flat_energy",
        True,
        "samples are noise",
        [f"a step's noise is {r:.3g} times its drift{most_words}{spread}"],
        "the energy is flat: it has not learned, or the regulariser is too strong",
        advice=[rate(record, 3), Setting("objective.alpha", 0), ", or a larger network"],
        numbers={"ratio": r, "most": most},
    )


MOST_RATE = 0.03
"""Learning rate beyond which Adam's steps are of the size of the weights."""

RATE_GROWTH = 100.0
"""Growth of the energies over their smallest from which on it is reported."""

LIMITS = {
    # A piecewise linear network, such as one of ReLU: the score changes over one step's noise by more than the exact
    # second derivative of E predicts, which is the same at all points.
    "straight_pieces": Limit(
        lambda _, p: None if p.kinks is None or p.bends is None or p.bends < 1e-3 else p.kinks,
        below(1e-4),
        "the score is piecewise constant; objectives that use its derivatives learn nothing",
        "the relative spread of the curvature is {v:.1g}, but over one step's noise the score changes by "
        "{p.bends:.2g} more than the curvature predicts",
        "the network is piecewise linear, as ReLU makes it, without normalisation",
        lambda r, _: [
            Setting("model.network.activation", "silu"),
            *([Setting("model.network.spectral_norm", True)] if r.spectral_norm is False else []),
        ],
        key="kinks",
    ),
}

RULES = table(
    (spoiled_data, strong_regulariser, degenerate_data, small_batch, stale_chains, high_rate, flat_energy), LIMITS
)
"""The rules by name."""
