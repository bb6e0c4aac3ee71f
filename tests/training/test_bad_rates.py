"""Learning rates far too high: training recovers, or stops with the rate named and a checkpoint that samples."""

import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from energyscape.recipe import Experiment, Recipe
from energyscape.runs import Run, Session


def trained(path, *, times, budget, seed=0, **changes):
    settings = {"train.learning_rate": str(3e-3 * times), "train.budget": budget, "train.seed": str(seed)}
    experiment = Experiment(Recipe.named("digits-pcd", settings | changes))
    run = Run.create(path, experiment)
    with Session(run, experiment) as session:
        for _ in session:
            pass
    return run, session.fit


def test_a_rate_that_is_a_hundred_times_too_high_falls(tmp_path):
    run, fit = trained(tmp_path, times=100, budget="15k")
    interventions = run.interventions()
    assert not run.stopped()
    assert {each["verdict"] for each in interventions} == {"ROLLBACK"}
    assert list(interventions[0]["remedy"]) == ["step"]
    # What did not help is undone: the chains' step is the recipe's again.
    assert (fit.adjustment.step, fit.adjustment.rate) == (1.0, pytest.approx(0.03))
    assert fit.age > 8_000  # samples that the weights have learned from since


def test_a_run_that_stops_names_the_rate_and_keeps_a_checkpoint(tmp_path):
    run, fit = trained(tmp_path, times=100, budget="15k", **{"guard.rollbacks": "1"})
    stop = run.interventions()[-1]
    assert stop["verdict"] == "STOP"
    assert "1 rollbacks did not help; stopped at the beginning" in stop["reason"]
    assert "the learning rate 0.3 is too high, try 0.09" in stop["reason"]
    assert stop["remedy"] == {"rate": 0.3, "step": 1.0}
    assert f"energyscape train {run.path / 'recipe.toml'} --train.learning_rate 0.09 --out" in run.stopped()
    assert [int(each.stem) for each in run.checkpoints()] == [fit.samples]
    assert run.experiment().trained.sample(8, steps=10, seed=0).x.isfinite().all()


@pytest.fixture(scope="module")
def judge():
    images, labels = load_digits(return_X_y=True)
    return SVC(C=10.0, probability=True, random_state=0).fit(images / 8 - 1, labels)


@pytest.mark.slow
@pytest.mark.parametrize("times", [3, 10, 33, 100, 300])
def test_bad_rates_end_in_digits_or_name_the_rate(tmp_path, judge, times):
    stopped = 0
    for seed in (0, 1, 2):
        run, _ = trained(tmp_path / str(seed), times=times, budget="200k", seed=seed)
        x = run.experiment().trained.sample(500, seed=1).x
        if why := run.stopped():
            stopped += 1
            assert f"the learning rate {3e-3 * times:g} is too high, try " in why
        else:
            # Three standard errors of a share of .6 of 500 are .066.
            assert (judge.predict_proba(x.flatten(1).cpu().numpy()).max(1) >= 0.8).mean() > 0.6 - 0.066
    assert stopped <= 1
