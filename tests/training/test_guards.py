"""Guards: numerical trouble is a verdict, and training goes on from the last good snapshot."""

import functools
import itertools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.objectives import ContrastiveDivergence, DataInit, NoiseInit, ReplayBuffer
from energyscape.objectives.base import Adjustment, Loss, Objective
from energyscape.samplers import MALA, GradientDescent, Langevin
from energyscape.samplers.base import with_step_factor
from energyscape.training import (
    CollapsedChains,
    DegenerateData,
    Finite,
    GradientNorm,
    Guard,
    Judgement,
    LostChains,
    Report,
    RunawayChains,
    RunawayEnergies,
    StandingChains,
    StepSize,
    StrongRegulariser,
    Verdict,
    averaged,
    fit,
)
from energyscape.training.guards import Remedies, usual


def report(loss=1.0, grad_norm=1.0, **facts):
    return Report(1, 64, loss, grad_norm, facts)


def verdicts(guard, reports):
    return [guard.look(each).verdict.name for each in reports]


# --- one guard alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [report(loss=math.nan), report(loss=-math.inf), report(grad_norm=math.nan)])
def test_finite_skips_and_then_rolls_back(bad):
    good = report()
    assert verdicts(Finite(patience=3), [bad, bad, good, bad, bad, bad, bad, good]) == [
        "SKIP", "SKIP", "GO", "SKIP", "SKIP", "ROLLBACK", "SKIP", "GO",
    ]  # fmt: skip
    assert verdicts(Finite(patience=1), [bad, bad]) == ["ROLLBACK", "ROLLBACK"]
    assert "not finite" in Finite().look(bad).reason
    assert Finite().look(good).reason == ""


def test_gradient_norm_compares_with_the_median_of_accepted_steps():
    guard = GradientNorm(factor=10, window=8, patience=3)
    # Nothing is judged before half of the window is there: neither small nor huge ones.
    assert verdicts(guard, [report(grad_norm=g) for g in (1, 5000, 1)]) == ["GO"] * 3
    assert verdicts(guard, [report(grad_norm=1)] * 5) == ["GO"] * 5
    assert verdicts(guard, [report(grad_norm=g) for g in (10, 10.1)]) == ["GO", "SKIP"]
    # A skipped norm does not enter the median, a good one ends the count.
    assert verdicts(guard, [report(grad_norm=g) for g in (500, 2, 500, 500, 500, 500)]) == [
        "SKIP", "GO", "SKIP", "SKIP", "ROLLBACK", "SKIP",
    ]  # fmt: skip
    assert list(guard.recent) == [1, 1, 1, 1, 1, 1, 10, 2]
    assert "500 is 500 times the usual" in guard.look(report(grad_norm=500)).reason
    # What is not finite belongs to another guard.
    assert guard.look(report(grad_norm=math.nan)).verdict == Verdict.GO
    assert guard.look(report(grad_norm=math.inf)).verdict == Verdict.GO


def test_chains_that_stand_still_are_told_by_their_mean_acceptance():
    guard = StandingChains(least=0.1, window=4)
    still, moving = report(accept_prob=0.05), report(accept_prob=0.3)
    assert verdicts(guard, [still] * 3) == ["GO"] * 3  # not before the window is full
    assert not guard.calm
    judgement = guard.look(still)
    assert (judgement.verdict, guard.calm) == (Verdict.ROLLBACK, True)
    assert "5.00% of 4 steps" in judgement.reason
    # Then counting restarts; one moving step among four lifts the mean of three still ones to 0.1125.
    assert verdicts(guard, [moving, still, still, still]) == ["GO"] * 4
    assert guard.look(still).verdict == Verdict.ROLLBACK
    # Objectives without chains, and numbers that are none, are not its business.
    assert verdicts(guard, [report(), report(accept_prob=math.nan)] * 9) == ["GO"] * 18


def test_energies_that_run_away_are_told_by_gap_and_spread():
    guard = RunawayEnergies(factor=100, window=3)
    levels = (2, 1, 3, 4, 5)  # the medians of three are 2, 3 and 4
    assert verdicts(guard, [report(gap=-level / 2, spread=level / 2) for level in levels]) == ["GO"] * 5
    assert guard.least == 2
    high = [report(gap=gap, spread=0.0) for gap in (1e9, 4.0, 190.0, -201.0)]  # medians: 5, 5, 190 and 190
    assert verdicts(guard, high) == ["GO"] * 4
    assert not guard.calm  # 190 is within 100 times 2, but not within 10 times
    judgement = guard.look(report(gap=-250.0, spread=0.0))
    assert judgement.verdict == Verdict.ROLLBACK
    assert "are 201, 100 times" in judgement.reason
    assert judgement.adjustment == Adjustment(rate=0.3)
    held = RunawayEnergies(factor=100, window=1)
    judgement = [held.look(report(gap=gap, spread=0.0, penalty=1e-3)) for gap in (1.0, 101.0)][1]
    assert judgement.adjustment == Adjustment(rate=0.3, alpha=3.0)
    assert verdicts(guard, [report(), report(gap=1.0), report(gap=math.nan, spread=1.0)] * 3) == ["GO"] * 9


MOVING = {"noise": 0.2, "drift": 0.08, "move": 0.35, "data_std": 0.6, "temperature": 1.0, "accept_prob": 1.0}


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, None),
        ({"drift": 0.2 / 1.24}, 0.25),  # (1.24 / 2.5)² = 0.246
        ({"drift": 0.2 / 1.26}, None),
        ({"drift": 0.2 / 1.01}, 0.16),
        ({"drift": 0.2 / 1.24, "temperature": 0.01}, None),  # an optimiser with jitter, and meant so
        ({"drift": 0.2 / 1.24, "accept_prob": 0.9}, None),  # the Metropolis test shows it
        ({"move": 0.071, "drift": 0.04}, 4.0),  # R = 5, and 0.118 of the data's standard deviation: (5 / 2.5)²
        ({"move": 0.073, "drift": 0.04}, None),
        ({"move": 0.071}, None),  # R = 2.5: it cannot go farther
        ({"move": 0.06, "drift": 0.002}, 25.0),  # R would allow 1600, but the move needs only (0.5 / 0.1)²
    ],
)
def test_a_step_is_mended_by_the_ratio_of_noise_to_drift(changes, factor):
    guard = StepSize(window=3)
    result = [guard.look(report(**{**MOVING, **changes})) for _ in range(3)]
    assert [each.verdict for each in result[:2]] == [Verdict.GO] * 2
    if factor is None:
        assert result[2].verdict == Verdict.GO
    else:
        assert result[2].verdict == Verdict.REMEDY
        assert result[2].adjustment == Adjustment(step=pytest.approx(factor, rel=0.03))
        # Then it waits for a whole window under the new step.
        assert guard.look(report(**{**MOVING, **changes})).verdict == Verdict.GO


def test_an_unstable_step_is_undone_at_once():
    guard = StepSize()
    unstable = report(noise=0.2, drift=0.21, accept_prob=1.0, temperature=1.0)  # (0.952 / 2.5)² = 0.145
    assert verdicts(guard, [unstable] * 4) == ["GO"] * 4
    judgement = guard.look(unstable)
    assert (judgement.verdict, judgement.adjustment, judgement.purge) == (
        Verdict.ROLLBACK,
        Adjustment(step=pytest.approx(0.15)),
        True,
    )
    assert verdicts(guard, [report(noise=0.2, drift=0.19, accept_prob=1.0, temperature=1.0)] * 9) == ["GO"] * 9
    far = report(noise=0.2, drift=9.0, accept_prob=1.0, temperature=1.0)
    assert [guard.look(far) for _ in range(3)][2].adjustment == Adjustment(step=0.1)  # never by more than ten at once


def test_a_step_that_was_shortened_is_mended_until_it_is_sound():
    def moving(r, **adjustment):
        return report(**{**MOVING, "drift": 0.2 / r})._replace(adjustment=Adjustment(**adjustment))

    guard = StepSize(window=12)
    judgement = [guard.look(moving(1.8, step=0.3)) for _ in range(12)][11]
    assert (judgement.verdict, judgement.adjustment) == (
        Verdict.REMEDY,
        Adjustment(step=pytest.approx(0.52)),
    )  # (1.8 / 2.5)²
    # Once it was sound it may be as long as any other.
    assert verdicts(guard, [moving(2.1, step=0.15)] * 20 + [moving(1.8, step=0.15)] * 20) == ["GO"] * 40
    # A step that was never shortened may do so.
    assert verdicts(StepSize(window=12), [moving(1.8)] * 20) == ["GO"] * 20
    assert verdicts(StepSize(window=12), [moving(1.8, step=18.0, rate=0.3)] * 20) == ["GO"] * 20


def test_a_step_is_not_mended_while_its_ratio_rises_by_itself():
    """As in `mnist-cd`, whose energy begins as a well around grey: R goes from 1.05 to 1.2, and stays there or not."""

    def at(r):
        return report(**{**MOVING, "drift": 0.2 / r})

    rising = [at(1.05)] * 30 + [at(1.05 + 0.0075 * k) for k in range(20)]
    guard = StepSize()
    assert verdicts(guard, rising) == ["GO"] * 50
    assert verdicts(guard, [at(1.2 + 0.02 * k) for k in range(60)]) == ["GO"] * 60
    assert guard.sound
    guard = StepSize()
    assert verdicts(guard, [*rising, *[at(1.2)] * 20]) == ["GO"] * 70
    assert verdicts(guard, [at(1.2)] * 20).count("REMEDY") == 1
    # What fluctuates by less does not rise.
    assert verdicts(StepSize(), [at(1.1)] * 45 + [at(1.13)] * 5)[-1] == "REMEDY"


def test_a_step_that_was_sound_is_not_to_blame():
    guard = StepSize()
    assert verdicts(guard, [report(**MOVING)] * 10) == ["GO"] * 10
    steep = report(**{**MOVING, "drift": 0.25})
    judgement = [guard.look(steep) for _ in range(3)][2]  # R is 0.8 in three of the last five
    assert (judgement.verdict, judgement.adjustment, judgement.purge) == (Verdict.ROLLBACK, Adjustment(rate=0.3), True)
    assert "too steep for its chains: their noise is 0.8 times their drift" in judgement.reason


def test_a_landscape_that_grew_steep_is_no_place_to_go_back_to():
    guard = StepSize()
    assert guard.calm
    guard.look(report(**{**MOVING, "drift": 0.15}))
    assert guard.calm  # it has never been better
    for _ in range(10):
        guard.look(report(**MOVING))
    assert guard.calm
    for _ in range(30):
        assert guard.look(report(**{**MOVING, "drift": 0.2 / 1.4})).verdict == Verdict.GO
    assert not guard.calm
    for _ in range(30):  # a Metropolis test makes long steps right
        guard.look(report(**{**MOVING, "drift": 0.2 / 1.4, "accept_prob": 0.9}))
    assert guard.calm


def test_lost_chains_are_told_by_how_often_negatives_lie_above_the_data():
    guard = LostChains(window=3)
    kept_up, lost = report(auc=0.97, gap=5.0, penalty=0.0), report(auc=0.99, gap=40.0, penalty=0.0)
    assert verdicts(guard, [kept_up] * 5 + [lost]) == ["GO"] * 6
    assert not guard.calm  # 0.97 is no state to go back to
    judgement = guard.look(lost)
    assert (judgement.verdict, judgement.adjustment, judgement.purge) == (Verdict.ROLLBACK, Adjustment(rate=0.3), True)
    assert "99.0% of negatives lie above the data, the gap is 40" in judgement.reason
    assert guard.calm
    # Where the regulariser weighs more than a quarter of the gap, it is to blame.
    held = [guard.look(report(auc=1.0, gap=40.0, penalty=penalty)) for penalty in (11.0, 9.0, 11.0)]
    assert held[2].adjustment == Adjustment(alpha=0.1)
    assert verdicts(guard, [report(auc=1.0, gap=40.0)] * 9) == ["GO"] * 9  # no such objective


def test_a_few_chains_far_above_all_others_are_undone():
    guard = RunawayChains(window=3)
    far, near = ({"spread": 2.0, "spread_model": spread, "auc": 0.4, "trimmed": 0.0} for spread in (42.0, 39.0))
    assert verdicts(guard, [report(**near)] * 9) == ["GO"] * 9
    assert not guard.calm  # 19.5 is no state to go back to
    judgement = [guard.look(report(**far)) for _ in range(2)][1]  # two of the last three
    assert (judgement.verdict, judgement.adjustment, judgement.purge) == (Verdict.ROLLBACK, Adjustment(trim=10.0), True)
    assert "negatives' energies spread 21 times as far as the data's" in judgement.reason
    assert guard.calm
    assert guard.look(report(**far)).verdict == Verdict.GO  # it waits for a whole window
    again = [guard.look(report(**far)._replace(adjustment=Adjustment(trim=10.0))) for _ in range(2)][1]
    assert (again.verdict, again.adjustment) == (Verdict.ROLLBACK, Adjustment(rate=0.3))
    del far["trimmed"]  # an objective that cannot
    other = RunawayChains(window=3)
    assert [other.look(report(**far)) for _ in range(3)][2].adjustment == Adjustment(rate=0.3)
    assert verdicts(RunawayChains(window=3), [report(**{**far, "auc": 0.95})] * 9) == ["GO"] * 9  # all are far above


def test_a_regulariser_that_outweighs_the_likelihood_is_weakened():
    guard, energies = StrongRegulariser(window=3), {"energy_data": -99.0, "spread": 1.0}
    assert verdicts(guard, [report(pull=0.99, **energies)] * 9) == ["GO"] * 9
    judgement = [guard.look(report(pull=25.0, **energies)) for _ in range(2)][1]  # two of the last three
    assert (judgement.verdict, judgement.adjustment, judgement.purge) == (
        Verdict.REMEDY,
        Adjustment(alpha=pytest.approx(0.004)),
        True,
    )
    assert "pulls at energies 25 times as hard as the likelihood" in judgement.reason
    assert guard.look(report(pull=25.0, **energies)).verdict == Verdict.GO  # it waits for a whole window
    assert verdicts(guard, [report()] * 9) == ["GO"] * 9  # no such objective


def test_a_regulariser_that_outweighs_the_likelihood_late_is_raised():
    """Energies whose mean is 101 times their spread have drifted: a weaker regulariser would let them go on."""
    drifted = report(pull=25.0, energy_data=-101.0, spread=1.0)
    guard = StrongRegulariser(window=3)
    judgement = [guard.look(drifted) for _ in range(3)][2]
    assert (judgement.verdict, judgement.adjustment, judgement.purge) == (
        Verdict.ROLLBACK,
        Adjustment(alpha=10.0),
        True,
    )
    assert "energies have drifted to -101, and spread by 1" in judgement.reason


@pytest.mark.parametrize("regulariser", ["squared", "mean"])
def test_the_pull_is_the_derivative_of_the_regulariser(regulariser):
    objective = ContrastiveDivergence(
        NoiseInit(), functools.partial(Langevin, step_size=1e-9), steps=1, alpha=0.25, regulariser=regulariser
    )
    e = torch.tensor([1.0, -3.0, 2.0, 4.0], requires_grad=True)
    penalty, pull = objective._penalty(e[:2], e[2:])
    (slope,) = torch.autograd.grad(penalty, e)
    assert pull.item() == pytest.approx(2 * slope.square().mean().sqrt().item())  # each is one of two in its mean


def test_collapsed_chains_were_once_wide():
    guard = CollapsedChains(window=3)
    wide, narrow = report(model_std=0.5, data_std=0.6), report(model_std=0.05, data_std=0.6)
    assert verdicts(guard, [narrow] * 9) == ["GO"] * 9  # as at the beginning, where all start at one place
    assert verdicts(guard, [wide] * 3 + [narrow]) == ["GO"] * 4
    assert guard.calm
    judgement = guard.look(narrow)
    assert (judgement.verdict, judgement.purge) == (Verdict.ROLLBACK, True)
    assert "0.083 times as far as the data, and once 0.83" in judgement.reason
    assert verdicts(guard, [report(model_std=0.062, data_std=0.6)] * 9) == ["GO"] * 9
    assert not guard.calm


def test_data_that_hardly_vary_are_noised():
    guard = DegenerateData(window=3)
    assert verdicts(guard, [report(degenerate=0.01, noise=0.2)] * 9) == ["GO"] * 9
    judgement = [guard.look(report(degenerate=0.3, noise=0.2)) for _ in range(2)][1]
    assert judgement.verdict == Verdict.REMEDY
    assert judgement.adjustment == Adjustment(data_noise=0.283)


@pytest.mark.parametrize(("size", "found"), [(64, 0.25), (8, 0.0)])
def test_few_data_do_not_look_degenerate(size, found):
    """One coordinate in four is black. Eight points may seem to vary less than they do, so they say nothing."""
    x = 0.3 * cases.normal(size, 1, 2, 2, seed=4)
    x[:, :, 0, 0] = -1
    objective = ContrastiveDivergence(DataInit(), functools.partial(Langevin, step_size=0.02), steps=1)
    assert float(objective(cases.Quadratic(1.0), x).facts["degenerate"]) == found


def test_treatments_add_up():
    first = Adjustment(rate=0.3, step=2.0)
    both = first.then(Adjustment(rate=0.5, alpha=0.1, data_noise=0.2, trim=10.0))
    assert both == Adjustment(rate=0.15, step=2.0, alpha=0.1, data_noise=0.2, trim=10.0)
    assert both.then(Adjustment()) == both
    assert both.then(Adjustment(trim=5.0)).trim == 5
    assert both.since(first) == {"rate": 0.15, "alpha": 0.1, "data_noise": 0.2, "trim": 10.0}
    assert both.words(first) == [
        "learning rate × 0.5 (now × 0.15)",
        "alpha × 0.1 (now × 0.1)",
        "data noised at 0.2",
        "negatives count up to 10 deviations above the data",
    ]
    assert Adjustment().words(first) == ["learning rate × 3.333 (now × 1)", "step size × 0.5 (now × 1)"]
    assert Adjustment().words(Adjustment(trim=4.0)) == ["negatives count without limit"]
    assert both.words(both) == []


def test_treatments_of_older_checkpoints_are_read():
    both = Adjustment(rate=0.15, data_noise=0.2, trim=10.0)
    assert Adjustment.of(both._asdict()) == both
    assert Adjustment.of([0.15, 1.0, 1.0, None, 0.2, 10.0]) == both
    assert Adjustment.of({}) == Adjustment()


STEP, SLOW, HALF = Adjustment(step=0.1), Adjustment(rate=0.3), Adjustment(rate=0.5)


@pytest.mark.parametrize(
    ("proposed", "force"),
    [
        ([STEP, STEP], Adjustment(step=0.01)),
        ([STEP, STEP, STEP], Adjustment(rate=0.3)),  # two cuts of the step in vain: they are undone, the rate falls
        ([STEP, STEP, STEP, STEP], Adjustment(rate=0.03)),
        ([SLOW], Adjustment(rate=0.3)),
        ([SLOW, SLOW, SLOW], Adjustment(rate=0.003)),  # by more where it fell in vain
        ([HALF, SLOW], Adjustment(rate=0.05)),
        ([STEP, SLOW, STEP], Adjustment(rate=0.3, step=0.1)),
        ([STEP, SLOW, STEP, STEP], Adjustment(rate=0.03)),
        ([Adjustment(alpha=0.1), Adjustment(trim=10.0), STEP], Adjustment(rate=0.3)),
        ([Adjustment(rate=0.3, alpha=3.0)] * 2, Adjustment(rate=0.03, alpha=9.0)),
    ],
)
def test_what_did_not_help_is_undone_before_the_next_is_tried(proposed, force):
    remedies = Remedies()
    for each in proposed:
        remedies = remedies.more(each)
    total, base = remedies.on(Adjustment()), Adjustment(rate=0.5, step=2.0, alpha=4.0, data_noise=0.1)
    assert total == Adjustment(*(pytest.approx(each) for each in force))
    assert remedies.on(base) == base.then(total)


def test_only_rollbacks_in_vain_count():
    """A new snapshot between two troubles is progress; steps that guards skip are none."""
    far = Troubled(*range(496, 10_000, 512))
    run = training(snapshot_every=160, samples=496 + 512 * 3, rollbacks=1, guards=[far])
    assert [each.verdict for each in run].count(Verdict.ROLLBACK) == run.rolled_back == 4
    near = Troubled(*range(496, 10_000, 128))
    run = training(snapshot_every=160, samples=496 + 512 * 3, rollbacks=1, guards=[near])
    assert [each.verdict for each in run if each.verdict] == [Verdict.ROLLBACK, Verdict.STOP]


class Uneasy(Guard):
    """Is not calm until its rollback, at 192 samples."""

    calm = False

    def look(self, report):
        self.calm = report.samples >= 192
        return Judgement(Verdict.ROLLBACK, "trouble") if report.samples == 192 else Judgement(Verdict.GO)

    def state(self):
        return {}

    def restore(self, state):
        pass


def test_a_snapshot_that_was_due_before_a_rollback_is_not_taken_after_it():
    """It was due at 160 samples; a step after trouble nothing says that trouble does not return."""
    run = training(snapshot_every=160, samples=400, guards=[Uneasy()])
    kept = [run.good.samples for _ in run]
    assert kept[: 352 // 16] == [0] * 21 + [352]  # 160 samples after the rollback


def test_a_rollback_takes_back_the_samples_of_the_warm_up():
    seen = []
    far = Troubled(96, 224, 240)

    def schedule(progress, samples):
        seen.append(samples)
        return 1.0

    run = training(snapshot_every=160, samples=320, guards=[far], schedule=schedule)
    list(run)
    assert seen == [*range(0, 96, 16), *range(0, 128, 16), 0, *range(0, 80, 16)]
    assert run.age == 80


def test_chains_that_stand_still_are_found_in_training():
    """From noise, steps far too large for a landscape that has become steep: all are refused, and the run says so."""
    model = cases.Quadratic(1e6)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    objective = ContrastiveDivergence(NoiseInit(), functools.partial(MALA, step_size=1.0), steps=1)
    data = (cases.normal(16, 2, seed=i) for i in itertools.count())
    reports = list(fit(model, objective, data, optimiser, samples=16 * 1_000, rollbacks=2))[-1]
    assert reports.verdict == Verdict.STOP
    assert "chains stand still: 0.00%" in reports.reason
    assert "2 rollbacks did not help; stopped at the beginning" in reports.reason


@pytest.mark.parametrize(
    "make",
    [
        Finite,
        lambda: GradientNorm(factor=3, window=6, patience=2),
        lambda: StandingChains(least=0.4, window=3),
        lambda: RunawayEnergies(factor=3, window=3),
        lambda: StepSize(window=3),
        lambda: LostChains(window=2),
        lambda: RunawayChains(window=2),
        lambda: StrongRegulariser(window=2),
        lambda: CollapsedChains(window=2),
        lambda: DegenerateData(window=2),
    ],
)
def test_guards_go_on_from_their_state(make):
    accepts = isinstance(make(), StepSize)  # which looks at chains without a Metropolis test
    fixed = {
        **MOVING,
        "move": 0.01,
        "drift": 0.01,
        "auc": 0.5 if isinstance(make(), RunawayChains) else 1.0,
        "penalty": 1.0,
        "pull": 2.0,
        "energy_data": 1.0,
        "degenerate": 0.5,
        "spread": 1.0,
    }
    stream = [
        report(
            grad_norm=g,
            **{
                **fixed,
                "accept_prob": 1 if accepts else 1 / (1 + g),
                "gap": g,
                "spread_model": g,
                "model_std": 1 / g**2,
            },
        )
        for g in (1, 2, 3, 4, 40, 1, math.nan, 50, 60, 1, 1, 70, math.nan, math.nan)
    ]
    assert set(verdicts(make(), stream)) != {"GO"}
    for cut in range(len(stream)):
        one, two = make(), make()
        verdicts(one, stream[:cut])
        kept = one.state()
        whole = verdicts(one, stream[cut:])
        verdicts(two, stream[3:7])
        two.restore(kept)
        assert verdicts(two, stream[cut:]) == whole


def test_the_usual_guards_are_all_of_them():
    ours = {each for each in Guard.__subclasses__() if each.__module__.startswith("energyscape.")}
    assert {type(guard) for guard in usual()} == ours
    assert len(ours) >= 10


# --- guards at work ---------------------------------------------------------------------------------------------------


def training(*, data=None, seed=0, **settings):
    """A small run with everything that a snapshot holds: weights, averages, Adam, chains, streams."""
    model = cases.neural(seed=seed, dtype=torch.float64)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.5, 0.99))
    start = ReplayBuffer(64, refresh=0.1)
    objective = ContrastiveDivergence(start, functools.partial(Langevin, step_size=0.02), steps=2, alpha=0.01)
    average = averaged(model, half_life=320, batch_size=16)
    if data is None:
        data = (cases.normal(16, 2, seed=i) for i in itertools.count(1000))
    settings = {"samples": 16 * 40, "snapshot_every": 64, **settings}
    return fit(model, objective.to(cases.DEVICE), data, optimiser, average=average, seed=seed, **settings)


def test_a_nan_in_a_batch_is_skipped_and_the_weights_stay():
    batches = [cases.normal(16, 2, seed=i) for i in range(40)]
    batches[5][3, 1] = math.nan
    run = training(data=batches)
    for i in range(40):
        before = run.snapshot()
        result = next(run)
        after = run.snapshot()
        stayed = cases.same(
            cases.learned(before, "model", "average", "optimiser"),
            cases.learned(after, "model", "average", "optimiser"),
        )
        if i == 5:
            assert result.verdict == Verdict.SKIP
            assert "not finite" in result.reason
            assert math.isnan(result.loss)
            assert stayed
        else:
            assert result.verdict == Verdict.GO
            assert not stayed
        assert run.good.broken() == ""
    assert run.snapshot().broken() == ""


def poison_weights(run):
    next(run.model.parameters()).data[0, 0] = math.nan


def poison_optimiser(run):
    first = run.optimiser.param_groups[0]["params"][0]
    run.optimiser.state[first]["exp_avg"][0] = math.nan


def poison_chains(run):
    run.objective.start.chains[7, 0] = math.nan


def poison_average(run):
    next(run.average.parameters()).data[0, 0] = math.inf


@pytest.mark.parametrize("poison", [poison_weights, poison_optimiser, poison_chains, poison_average])
@pytest.mark.parametrize("when", [6, 8, 9, 38])
def test_after_a_nan_in_the_state_training_goes_on_from_the_last_good_snapshot(poison, when):
    run = training()
    results = []
    for i in range(40):
        if i == when:
            poison(run)
        good = run.good
        results.append(next(run))
        assert run.good.broken() == ""
        if results[-1].verdict == Verdict.ROLLBACK:
            # Everything that was learned is that of the snapshot.
            assert cases.same(cases.learned(run.snapshot()), cases.learned(good))
            assert f"back to sample {good.tree['clock']['samples']:,}" in results[-1].outcome
    rollbacks = [i for i, each in enumerate(results) if each.verdict == Verdict.ROLLBACK]
    assert len(rollbacks) == 1
    assert when <= rollbacks[0] < when + 5
    assert run.rolled_back == 1
    assert run.adjustment.rate == 0.3
    if when < 38:
        assert results[-1].verdict == Verdict.GO
        assert run.optimiser.param_groups[0]["lr"] == pytest.approx(0.3e-2)
    assert run.snapshot().broken() == ""
    assert next(run, None) is None
    # Clocks move on.
    assert [each.step for each in results] == list(range(1, 41))
    assert results[-1].samples == 640


def test_random_streams_move_on_after_a_rollback():
    """Else the same trouble would be met again."""
    run = training()
    for _ in range(9):
        next(run)
    poison_weights(run)
    good, before = run.good, run.streams.state()["objective"]
    while next(run).verdict != Verdict.ROLLBACK:
        pass
    assert not torch.equal(run.streams.state()["objective"], before)
    assert not torch.equal(run.streams.state()["objective"], good.tree["streams"]["objective"])


class Sick(Objective):
    """Fine for some steps, then never finite again."""

    def __init__(self, healthy, where):
        super().__init__()
        self.healthy, self.where = healthy, where
        self.register_buffer("memory", torch.zeros(2, dtype=torch.float64))
        self.count = 0

    def forward(self, model, x, label=None, *, generator=None):
        self.count += 1
        value = model(x).mean()
        if self.count > self.healthy:
            if self.where == "loss":
                value = value * math.nan
            else:
                self.memory[0] = math.nan
        return Loss(value, {})


@pytest.mark.parametrize("where", ["loss", "memory"])
@pytest.mark.parametrize("rollbacks", [0, 2])
def test_repeated_failure_stops_the_run_at_the_last_good_snapshot(where, rollbacks):
    model = cases.neural(dtype=torch.float64)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    data = (cases.normal(8, 2, seed=i) for i in itertools.count())
    run = fit(model, Sick(10, where), data, optimiser, snapshot_every=16, rollbacks=rollbacks)
    reports = list(itertools.islice(run, 200))
    assert [each.verdict for each in reports].count(Verdict.ROLLBACK) == rollbacks
    assert reports[-1].verdict == Verdict.STOP
    assert f"{rollbacks} rollbacks did not help; stopped at " in reports[-1].reason
    assert [each.verdict for each in reports].count(Verdict.STOP) == 1
    assert run.stopped
    assert next(run, None) is None
    assert run.snapshot().broken() == run.good.broken() == ""
    assert cases.same(cases.learned(run.snapshot()), cases.learned(run.good))
    # A run that goes on from there has the settings of its snapshot. The next to try: × 0.3, then × 0.1 each time.
    assert run.adjustment == Adjustment()
    assert reports[-1].after.rate == pytest.approx(0.3 * 0.1**rollbacks)
    assert reports[-1].reason.endswith(f"the learning rate 0.1 is too high, try {0.03 * 0.1**rollbacks:.1g}")


def test_a_quiet_run_has_the_same_bits_with_and_without_guards():
    ends, results = [], []
    for guards in ((), None, [Finite(), GradientNorm(window=4)]):
        run = training(guards=guards)
        results.append(list(run))
        assert {each.verdict for each in results[-1]} == {Verdict.GO}
        ends.append(cases.learned(run.snapshot(), "clock", "model", "average", "objective", "optimiser", "streams"))
    assert results[0] == results[1] == results[2]
    assert cases.same(ends[0], ends[1])
    assert cases.same(ends[0], ends[2])


def test_training_refuses_to_begin_without_numbers():
    model = cases.neural(seed=0, dtype=torch.float64)
    with torch.no_grad():
        next(model.parameters())[0] = math.nan
    with pytest.raises(UserError, match="begins with numbers that are not finite, in model"):
        fit(model, cases.OBJECTIVES["dsm"](), [], torch.optim.Adam(model.parameters()))


def test_without_guards_nothing_is_skipped():
    run = training(guards=(), snapshot_every=10**9)
    next(run)
    poison_weights(run)
    assert next(run).verdict == Verdict.GO
    assert math.isnan(next(run).loss)


def test_a_spike_is_skipped():
    batches = [cases.normal(16, 2, seed=i) for i in range(60)]
    batches[55] *= 1000  # and so the gradient
    run = training(data=batches, samples=16 * 60, guards=[GradientNorm(window=20, patience=3)])
    results = []
    for i in range(60):
        before = cases.learned(run.snapshot(), "model", "average", "optimiser")
        results.append(next(run))
        assert cases.same(before, cases.learned(run.snapshot(), "model", "average", "optimiser")) == (i == 55)
    assert [each.verdict.name for each in results] == ["GO"] * 55 + ["SKIP"] + ["GO"] * 4
    assert "times the usual" in results[55].reason


def test_no_snapshot_is_taken_between_spikes():
    """A run that explodes in volleys goes back to before the first of them, not to a pause between two."""
    batches = [cases.normal(16, 2, seed=i) for i in range(60)]
    for i in (33, 36, 39):
        batches[i] *= 1000
    run = training(data=batches, samples=16 * 60, snapshot_every=16, guards=[GradientNorm(window=20, patience=5)])
    good = []
    for _ in range(60):
        next(run)
        good.append(run.good.tree["clock"]["step"])
    # Steps count from 1, so the spikes are steps 34, 37 and 40; five quiet ones follow the last.
    assert good[32:46] == [33] * 12 + [45, 46]


def test_training_that_ends_in_an_explosion_ends_at_the_last_good_state():
    batches = [cases.normal(16, 2, seed=i) for i in range(60)]
    batches[58] *= 1000
    run = training(data=batches, samples=16 * 60, snapshot_every=16 * 50, guards=[GradientNorm(window=20, patience=5)])
    reports = [next(run) for _ in range(50)]
    kept = cases.learned(run.snapshot(), "model", "average", "optimiser", "objective")
    reports += list(run)
    assert reports[-1].verdict == Verdict.ROLLBACK
    assert "ended while a guard was not calm" in reports[-1].reason
    assert cases.same(cases.learned(run.good, "model", "average", "optimiser", "objective"), kept)
    assert run.good.tree["clock"]["samples"] == 16 * 60


class Troubled(Guard):
    """Asks for a rollback after so many samples."""

    calm = True

    def __init__(self, *samples):
        self.samples = samples

    def look(self, report):
        return Judgement(Verdict.ROLLBACK, "trouble") if report.samples in self.samples else Judgement(Verdict.GO)

    def state(self):
        return {}

    def restore(self, state):
        pass


@pytest.mark.parametrize(
    ("trouble", "back"),
    [
        # A snapshot each 160 samples that the weights have learned from, the first of all at 0: trouble that comes
        # once more goes to the one before.
        ([496], [480]),
        ([496, 512], [480, 320]),
        ([496, 512, 528, 544], [480, 320, 320, 320]),
        ([496, 512, 688, 704, 720], [480, 320, 672, 320, 320]),
        ([496, 672, 688], [480, 656, 480]),
        ([16, 32], [0, 0]),
        ([176, 192, 208], [160, 0, 0]),
    ],
)
def test_a_snapshot_from_which_trouble_comes_again_is_given_up_for_the_one_before(trouble, back):
    run = training(snapshot_every=160, samples=800, rollbacks=9, guards=[Troubled(*trouble)])
    kept, went = {0: cases.learned(run.snapshot())}, []
    for report in run:
        if report.verdict == Verdict.ROLLBACK:
            went.append(run.good.samples)
            assert report.outcome == f"back to sample {went[-1]:,}"
            assert cases.same(cases.learned(run.snapshot()), kept[went[-1]])
        elif run.good.samples == report.samples:
            kept[report.samples] = cases.learned(run.good)
    assert went == back
    assert (run.samples, run.good.samples) == (800, 800)


class Says(Guard):
    calm = True

    def __init__(self, verdict, reason=""):
        self.verdict, self.reason = verdict, reason

    def look(self, report):
        return Judgement(self.verdict, self.reason)

    def state(self):
        return {}

    def restore(self, state):
        pass


def test_the_highest_verdict_counts():
    run = training(guards=[Says(Verdict.GO), Says(Verdict.SKIP, "tired"), Says(Verdict.GO)])
    result = next(run)
    assert (result.verdict, result.reason) == (Verdict.SKIP, "tired")
    stopping = training(guards=[Says(Verdict.SKIP, "tired"), Says(Verdict.STOP, "done")])
    result = next(stopping)
    assert (result.verdict, result.reason) == (Verdict.STOP, "done")
    assert next(stopping, None) is None
    assert Verdict.GO < Verdict.REMEDY < Verdict.SKIP < Verdict.ROLLBACK < Verdict.STOP


# --- remedies at work -------------------------------------------------------------------------------------------------


class Once(Guard):
    """Gives one judgement at one step."""

    calm = True

    def __init__(self, step, judgement):
        self.step, self.judgement = step, judgement

    def look(self, report):
        return self.judgement if report.step == self.step else Judgement(Verdict.GO)

    def state(self):
        return {}

    def restore(self, state):
        pass


@pytest.mark.parametrize("verdict", [Verdict.REMEDY, Verdict.ROLLBACK])
def test_a_remedy_is_told_stays_and_is_resumed(verdict):
    remedy = Judgement(verdict, "because", Adjustment(rate=0.5, step=0.25, data_noise=0.3), purge=True)

    def guarded():
        return training(guards=[Once(11, remedy)])

    run = guarded()
    list(itertools.islice(run, 10))
    before, good = cases.learned(run.snapshot(), "model"), cases.learned(run.good, "model")
    result = next(run)
    # A remedy takes its step, a rollback goes back.
    assert not cases.same(cases.learned(run.snapshot(), "model"), before)
    assert cases.same(cases.learned(run.snapshot(), "model"), good) == (verdict == Verdict.ROLLBACK)
    assert (result.verdict, result.reason) == (verdict, "because")
    assert result.action.startswith(
        "learning rate × 0.5 (now × 0.5), step size × 0.25 (now × 0.25), data noised at 0.3"
    )
    assert result.outcome == ("" if verdict == Verdict.REMEDY else "back to sample 128")
    assert (result.guard, result.after) == ("Once", remedy.adjustment)
    after = next(run)
    assert (result.adjustment, after.adjustment) == (Adjustment(), remedy.adjustment)
    assert run.optimiser.param_groups[0]["lr"] == pytest.approx(0.5e-2)
    # Noise has variance 2 η, so a quarter of the step is half of the noise; the mean of an RMS of two is 0.89 of it.
    assert after.facts["noise"] == pytest.approx(0.89 * math.sqrt(2 * 0.02 / 4), rel=0.2)
    assert run.objective.level == 0.3
    kept = run.snapshot()
    rest = [each._replace(facts={}) for each in run]
    other = guarded()
    other.restore(kept)
    other.data = run.data
    other._batches = (cases.normal(16, 2, seed=i) for i in itertools.count(1012))
    assert [each._replace(facts={}) for each in other] == rest
    assert cases.same(cases.learned(run.snapshot()), cases.learned(other.snapshot()))


def test_a_purge_restarts_the_chains_that_ran_away_and_no_others():
    run = training()
    list(itertools.islice(run, 10))
    start, model = run.objective.start, run.model
    start.chains[[3, 50]] = 1e4
    start.chains[20] = math.nan
    before, born = start.chains.clone(), int(start.born)
    assert run.objective.restart_diverged(model, cases.normal(64, 2, seed=5)) == 3
    lost = torch.zeros(64, dtype=torch.bool)
    lost[[3, 20, 50]] = True
    assert torch.equal(start.chains[~lost], before[~lost])
    assert start.chains[lost].abs().max() <= 1  # fresh ones begin at uniform noise
    assert start.age[lost].tolist() == [1, 1, 1]
    assert sorted(start.lineage[lost].tolist()) == [born, born + 1, born + 2]
    assert int(start.born) == born + 3


def test_data_that_are_not_finite_are_skipped_and_told_from_trouble():
    bad = cases.normal(16, 2, seed=0)
    bad[[2, 7]] = math.nan
    batches = [bad if i % 3 == 1 else cases.normal(16, 2, seed=i) for i in range(90)]
    reports = list(training(data=batches, samples=16 * 90))
    assert [each.verdict.name for each in reports] == ["GO", "SKIP", "GO"] * 30
    assert reports[1].reason == "2 of the batch's 16 data points are not finite: clean the data"


def test_a_run_whose_data_are_never_finite_stops_with_the_reason():
    bad = cases.normal(16, 2, seed=0)
    bad[0, 0] = math.inf
    reports = list(training(data=itertools.repeat(bad), samples=16 * 90))
    assert [each.verdict for each in reports] == [Verdict.SKIP] * 20 + [Verdict.STOP]
    assert reports[-1].reason.endswith("21 of 21 steps had such points")


def test_a_step_far_too_long_is_mended_in_training():
    """On a normal law of unit variance Langevin is unstable at η ≥ 2; at 1.6 its law is five times too wide."""
    ends = []
    for guards in ([], None):
        model = cases.Quadratic(1.0)
        objective = ContrastiveDivergence(ReplayBuffer(64), functools.partial(Langevin, step_size=1.6), steps=3)
        data = (cases.normal(64, 4, seed=i) for i in itertools.count(70_000))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        reports = list(fit(model, objective, data, optimiser, samples=64 * 600, guards=guards))
        ends.append((float(model.p.detach()), [each for each in reports if each.verdict]))
    (_, lost), (guarded, reports) = ends
    assert lost[-1].reason.startswith("not finite: model.p; 0 rollbacks did not help; stopped at the beginning")
    assert reports[0].verdict == Verdict.ROLLBACK
    assert "the chains' step is unstable" in reports[0].reason
    # Then η = 0.16, and the law's variance 1 / p (1 − η p / 2) is that of the data at p = 1.09.
    assert reports[0].action.startswith("step size × 0.1 ")
    assert guarded == pytest.approx(1.09, abs=0.15)


@pytest.mark.parametrize("guards", [[], [{}] * 8])
def test_a_snapshot_of_another_version_s_guards_is_refused(guards):
    run = training()
    snapshot = run.snapshot()
    snapshot.tree["guards"][:] = guards
    with pytest.raises(UserError, match="not those of this version: begin again"):
        run.restore(snapshot)


# --- the facts that guards look at ------------------------------------------------------------------------------------


def test_negatives_far_above_the_data_have_no_part_in_the_gradient():
    """Of p |x|² / 2 at p = 2: two of forty chains are far away."""
    x, y = cases.normal(40, 3, seed=1), cases.normal(40, 3, seed=2)
    y[:2] *= 50
    start = ReplayBuffer(40, refresh=0.0)
    start.chains = y.clone()
    objective = ContrastiveDivergence(start, functools.partial(GradientDescent, step_size=1e-12), steps=1)
    model, near = cases.Quadratic(2.0), y[2:].square().sum(1) / 2
    gradients = []
    for adjustment in (Adjustment(), Adjustment(trim=10.0)):
        objective.adjust(adjustment)
        loss = objective(model, x, generator=cases.generator(3))
        gradients.append(float(torch.autograd.grad(loss.value, model.p)[0]))
    drawn = float(x.square().sum(1).mean() / 2)
    assert gradients[1] == pytest.approx(drawn - float(near.sum()) / 40, rel=1e-5)
    assert gradients[0] == pytest.approx(drawn - float(y.square().sum(1).mean()) / 2, rel=1e-5)
    energies = x.square().sum(1)
    limit = float(energies.median() + 10 * energies.std(correction=0))
    spread = torch.cat([2 * near, torch.full((2,), limit)]).std(correction=0)
    assert float(loss.facts["spread_model"]) == pytest.approx(float(spread), rel=1e-5)
    assert float(loss.facts["trimmed"]) == pytest.approx(2 / 40)


@pytest.mark.parametrize(("regulariser", "factor"), [("squared", 1.0), ("mean", 1.0), ("mean", 0.5)])
def test_contrastive_divergence_tells_the_facts(regulariser, factor):
    """Gradient descent on p |x|² / 2 shrinks every chain by 1 - η p, so that each fact is known."""
    x, y0 = cases.normal(40, 3, seed=1), 2 * cases.normal(40, 3, seed=2)
    start = ReplayBuffer(40, refresh=0.0)
    start.chains = y0.clone()
    kernel = functools.partial(GradientDescent, step_size=0.1)
    objective = ContrastiveDivergence(start, kernel, steps=1, alpha=0.3, regulariser=regulariser)
    objective.adjust(Adjustment(alpha=factor))
    loss = objective(cases.Quadratic(2.0), x, generator=cases.generator(3))
    facts = {name: float(value) for name, value in loss.facts.items()}
    y = 0.8 * y0
    of_data, of_model = x.square().sum(1), y.square().sum(1)  # p = 2
    if regulariser == "mean":
        penalty = 0.3 * factor * float(of_data.mean() + of_model.mean()) ** 2
    else:
        penalty = 0.3 * float(of_data.square().mean() + of_model.square().mean())
    beyond = ((y <= x.min()) | (y >= x.max())).float().mean() - 2 / x.numel()
    expected = {
        "gap": of_model.mean() - of_data.mean(),
        "spread_model": of_model.std(correction=0),
        "auc": (of_model.unsqueeze(1) > of_data).float().mean(),
        "move": (0.2 * y0).square().mean().sqrt(),
        "saturated": beyond,
        "brightness": y.mean() - x.mean(),
        "data_std": x.std(0, correction=0).square().mean().sqrt(),
        "model_std": y.std(0, correction=0).square().mean().sqrt(),
        "penalty": penalty,
        "temperature": 0.0,
    }
    assert {name: facts[name] for name in expected} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-5
    )
    assert float(loss.value.detach()) == pytest.approx(penalty - facts["gap"], rel=1e-5)
    assert facts["auc"] > 0.55  # so that the other way round would differ


def test_a_treated_kernel_has_a_shorter_step():
    kernel = Langevin(lambda x: x.sum(1), step_size=0.02, temperature=2.0, drift_clip=0.7)
    new = with_step_factor(kernel, step=0.5)
    assert (new.step_size, new.temperature, new.drift_clip) == (0.01, 2.0, 0.7)
    assert with_step_factor(kernel) is kernel
