"""Guards: numerical trouble is a verdict, and training goes on from the last good snapshot."""

import functools
import itertools
import math

import pytest
import torch

import cases
from energyscape.errors import UserError
from energyscape.objectives import ContrastiveDivergence, Noise, ReplayBuffer
from energyscape.objectives.base import Loss, Objective
from energyscape.samplers import MALA, Langevin
from energyscape.training import (
    Finite,
    GradientNorm,
    Guard,
    Judgement,
    Report,
    RunawayEnergies,
    StandingChains,
    Verdict,
    averaged,
    fit,
)


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
    told = guard.look(still)
    assert (told.verdict, guard.calm) == (Verdict.ROLLBACK, True)
    assert "5.00% of 4 steps" in told.reason
    # Then it counts anew; one moving step among four lifts the mean of three still ones to 0.1125.
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
    told = guard.look(report(gap=-250.0, spread=0.0))
    assert told.verdict == Verdict.ROLLBACK
    assert "are 201, 100 times" in told.reason
    assert verdicts(guard, [report(), report(gap=1.0), report(gap=math.nan, spread=1.0)] * 3) == ["GO"] * 9


def test_chains_that_stand_still_are_found_in_training():
    """From noise, steps far too large for a landscape that has become steep: all are refused, and the run says so."""
    model = cases.Quadratic(1e6)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    objective = ContrastiveDivergence(Noise(), functools.partial(MALA, step_size=1.0), steps=1)
    data = (cases.normal(16, 2, seed=i) for i in itertools.count())
    told = list(fit(model, objective, data, optimiser, samples=16 * 1_000, rollbacks=2))[-1]
    assert told.verdict == Verdict.STOP
    assert "chains stand still: 0.00%" in told.reason
    assert "stopped after 2 rollbacks" in told.reason


@pytest.mark.parametrize(
    "make",
    [
        Finite,
        lambda: GradientNorm(factor=3, window=6, patience=2),
        lambda: StandingChains(least=0.4, window=3),
        lambda: RunawayEnergies(factor=3, window=3),
    ],
)
def test_guards_go_on_from_their_state(make):
    stream = [
        report(grad_norm=g, accept_prob=1 / (1 + g), gap=g, spread=1.0)
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


def same(left, right):
    """Whether two trees have the same structure, types and bits."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def learned(snapshot, *keys):
    keys = keys or ("model", "average", "objective", "optimiser", "guards")
    return {key: snapshot.tree[key] for key in keys}


def test_a_nan_in_a_batch_is_skipped_and_the_weights_stay():
    batches = [cases.normal(16, 2, seed=i) for i in range(40)]
    batches[5][3, 1] = math.nan
    run = training(data=batches)
    for i in range(40):
        before = run.snapshot()
        told = next(run)
        after = run.snapshot()
        stayed = same(learned(before, "model", "average", "optimiser"), learned(after, "model", "average", "optimiser"))
        if i == 5:
            assert told.verdict == Verdict.SKIP
            assert "not finite" in told.reason
            assert math.isnan(told.loss)
            assert stayed
        else:
            assert told.verdict == Verdict.GO
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
    told = []
    for i in range(40):
        if i == when:
            poison(run)
        good = run.good
        told.append(next(run))
        assert run.good.broken() == ""
        if told[-1].verdict == Verdict.ROLLBACK:
            # Everything that was learned is that of the snapshot.
            assert same(learned(run.snapshot()), learned(good))
            assert f"back to sample {good.tree['clock']['samples']:,}" in told[-1].outcome
    rollbacks = [i for i, each in enumerate(told) if each.verdict == Verdict.ROLLBACK]
    assert len(rollbacks) == 1
    assert when <= rollbacks[0] < when + 5
    assert run.rolled_back == 1
    assert run.treatment.rate == 0.3
    if when < 38:
        assert told[-1].verdict == Verdict.GO
        assert run.optimiser.param_groups[0]["lr"] == pytest.approx(0.3e-2)
    assert run.snapshot().broken() == ""
    assert next(run, None) is None
    # Clocks move on.
    assert [each.step for each in told] == list(range(1, 41))
    assert told[-1].samples == 640


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
    told = list(itertools.islice(run, 200))
    assert [each.verdict for each in told].count(Verdict.ROLLBACK) == rollbacks
    assert told[-1].verdict == Verdict.STOP
    assert f"after {rollbacks} rollbacks" in told[-1].reason
    assert [each.verdict for each in told].count(Verdict.STOP) == 1
    assert run.stopped
    assert next(run, None) is None
    assert run.snapshot().broken() == run.good.broken() == ""
    assert same(learned(run.snapshot()), learned(run.good))
    assert run.treatment.rate == pytest.approx(0.3**rollbacks)


def test_a_quiet_run_has_the_same_bits_with_and_without_guards():
    ends, told = [], []
    for guards in ((), None, [Finite(), GradientNorm(window=4)]):
        run = training(guards=guards)
        told.append(list(run))
        assert {each.verdict for each in told[-1]} == {Verdict.GO}
        ends.append(learned(run.snapshot(), "clock", "model", "average", "objective", "optimiser", "streams"))
    assert told[0] == told[1] == told[2]
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


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
    told = []
    for i in range(60):
        before = learned(run.snapshot(), "model", "average", "optimiser")
        told.append(next(run))
        assert same(before, learned(run.snapshot(), "model", "average", "optimiser")) == (i == 55)
    assert [each.verdict.name for each in told] == ["GO"] * 55 + ["SKIP"] + ["GO"] * 4
    assert "times the usual" in told[55].reason


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
    told = [next(run) for _ in range(50)]
    kept = learned(run.snapshot(), "model", "average", "optimiser", "objective")
    told += list(run)
    assert told[-1].verdict == Verdict.ROLLBACK
    assert "ended in trouble" in told[-1].reason
    assert same(learned(run.good, "model", "average", "optimiser", "objective"), kept)
    assert run.good.tree["clock"]["samples"] == 16 * 60


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
    told = next(run)
    assert (told.verdict, told.reason) == (Verdict.SKIP, "tired")
    stopping = training(guards=[Says(Verdict.SKIP, "tired"), Says(Verdict.STOP, "done")])
    told = next(stopping)
    assert (told.verdict, told.reason) == (Verdict.STOP, "done")
    assert next(stopping, None) is None
    assert Verdict.GO < Verdict.SKIP < Verdict.ROLLBACK < Verdict.STOP
