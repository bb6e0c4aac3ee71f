"""Scores of given images against an energy whose answers are known."""

import math

import pytest
import torch

from energyscape.data import Images, digits
from energyscape.evaluation import Detection
from energyscape.inference import Generated
from energyscape.inference.scoring import energies, quantiles, slopes
from energyscape.metrics import Evidence
from energyscape.metrics.ood import SIBLINGS, ood_metrics, outlier_sets, survey
from energyscape.models import Energy
from energyscape.recipe import Experiment, Recipe
from energyscape.reports.html import page
from energyscape.reports.run_page import outlier_section

V, LEVEL, T = 0.5, 0.3, 2.0


class Bowl(Energy):
    """|x|² / 2 V on images."""

    def forward(self, x, label=None):
        return x.flatten(1).square().sum(1) / (2 * V)


def learned(level=LEVEL, **settings):
    settings = {"model.network.width": "8", "objective.data_noise": str(level), **settings}
    experiment = Experiment(Recipe.named("digits-pcd", settings))
    experiment.model, experiment.average = Bowl(), None
    return experiment


def test_energies_are_means_over_the_noise_that_was_learned():
    experiment, x = learned(), digits(split="test").floats()
    scores = energies(experiment.trained, x, draws=8)
    square, d = x.flatten(1).square().sum(1).double(), 64
    truth = (square + d * LEVEL**2) / (2 * V)
    # The variance of |x + σ z|² is 2 d σ⁴ + 4 σ² |x|², of which eight draws leave an eighth.
    error = (2 * d * LEVEL**4 + 4 * LEVEL**2 * square).sqrt() / (2 * V) / math.sqrt(8)
    z = (scores - truth) / error
    assert z.abs().max() < 5
    assert z.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * len(x)))
    assert torch.equal(scores, energies(experiment.trained, x, draws=8))
    assert not torch.equal(scores, energies(experiment.trained, x, draws=8, seed=5))


def test_without_learned_noise_nothing_is_random():
    experiment, x = learned(0.0), digits(split="test").floats(slice(0, 9))
    torch.testing.assert_close(energies(experiment.trained, x), Bowl()(x).double())
    torch.testing.assert_close(slopes(experiment.trained, x), x.flatten(1).norm(dim=1).double() / V)


def test_scores_are_over_the_temperature():
    hot = learned(0.0, **{"objective.kernel.temperature": str(T)})
    assert hot.objective.temperature == T
    x = digits(split="test").floats(slice(0, 9))
    torch.testing.assert_close(energies(hot.trained, x), Bowl()(x).double() / T)
    torch.testing.assert_close(slopes(hot.trained, x), x.flatten(1).norm(dim=1).double() / V / T)


def test_sets_are_what_they_are_called():
    sets, missing = outlier_sets(Evidence(learned()), n=50)
    assert missing == []  # 8×8: no published set is of that size
    assert {name: tuple(x.shape) for name, x in sets.items()} == dict.fromkeys(sets, (50, 1, 8, 8))
    assert set(sets) == {"grey", "mid-grey", "noise", "shuffled pixels"}
    assert (sets["grey"].flatten(1).std(1) == 0).all()
    levels = sets["grey"][:, 0, 0, 0]
    assert abs(levels.mean()) < 5 / math.sqrt(3 * 50)  # uniform on [-1, 1]: a variance of a third
    assert levels.std() > 0.4
    assert (sets["mid-grey"] == 0).all()
    assert sets["noise"].flatten().var().item() == pytest.approx(1 / 3, rel=5 / math.sqrt(50 * 64))
    held_out = digits(split="test").floats(slice(0, 50))
    shuffled = sets["shuffled pixels"]
    assert torch.equal(shuffled.flatten(1).sort(1).values, held_out.flatten(1).sort(1).values)
    assert not torch.equal(shuffled, held_out)


def test_published_sets_are_there_or_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ENERGYSCAPE_DATA", str(tmp_path))
    experiment = learned()
    experiment.__dict__["unseen"] = Images(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), name="mnist")
    sets, missing = outlier_sets(Evidence(experiment), n=3)
    assert missing == [name for name in SIBLINGS if name != "mnist"]
    assert "mnist" not in sets


def judged(experiment, x):
    """The evidence of a run whose samples are given."""
    evidence = Evidence(experiment, n=len(x))
    evidence.__dict__["generated"] = Generated(x, x[None, :0], [0], 0)
    return evidence


def test_a_survey_by_hand(monkeypatch):
    n = 60
    monkeypatch.setattr("energyscape.metrics.ood.OUTLIERS", n)
    surveyed = survey(judged(learned(0.0), digits(split="test").floats(slice(0, n))))
    inside = Bowl()(digits(split="test").floats(slice(0, n))).double()
    assert torch.equal(surveyed.energies["held-out"], inside)
    assert torch.equal(surveyed.energies["samples"], inside)
    found = surveyed.detections["mid-grey"]
    assert found["energy"] == Detection.of(torch.zeros(n), inside)
    assert found["energy"].auroc == 0  # the bowl's bottom is grey
    assert found["slope"].auroc == 0
    assert found["pixel variance"].auroc == 0
    assert found["typicality"].auroc == 1  # and that is as rare as a high energy
    # Shuffling moves no pixel's value.
    for name in ("pixel mean", "pixel variance", "energy"):
        assert surveyed.detections["shuffled pixels"][name].auroc == pytest.approx(0.5, abs=1e-3)
    assert surveyed.detections["shuffled pixels"]["nearest neighbour"].auroc > 0.99
    learned_ones = {"energy", "slope", "typicality"}
    trivial = {"compressed size", "pixel mean", "pixel variance", "nearest neighbour", "trivial typicality"}
    assert set(found) == learned_ones | trivial
    figures = {each.name: each for each in ood_metrics(surveyed)}
    assert figures["AUROC mid-grey, energy"].value == 0
    assert "60 held-out images" in figures["AUROC mid-grey, energy"].protocol
    assert figures["energy overlap, samples"].value == pytest.approx(1)
    assert figures["energy overlap, train"].value > 0.7
    assert len(figures) == 4 * 8 + len(set(surveyed.energies) - set(surveyed.detections) - {"held-out"})


def test_the_noise_is_the_same_on_both_sides():
    # An image scored as its own outlier is indistinguishable, however much noise there is.
    experiment = learned()
    x = digits(split="test").floats()
    detection = Detection.of(energies(experiment.trained, x.flip(0), seed=1), energies(experiment.trained, x, seed=2))
    assert abs(detection.auroc - 0.5) < 5 * detection.error


def test_the_section_has_the_table_and_the_picture():
    section = outlier_section(judged(learned(), digits().floats(slice(0, 40))))
    head, *rows = section.table
    assert head[1] == "energy"
    assert [row[0] for row in rows] == ["grey", "mid-grey", "noise", "shuffled pixels"]
    assert all(len(row) == len(head) for row in rows)
    ((picture, _),) = section.figures
    (axes,) = picture.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[:2] == ["train", "held-out"]
    assert "samples" in names
    assert {name.split(" (")[0] for name in names} == {"train", "held-out", "samples", "grey", "noise"}
    assert "N(0, 0.3²)" in section.text
    assert "AUROC of" in page("x", [section])


def test_quantiles_among_held_out_images():
    experiment = learned(0.0)
    held_out = digits(split="test").floats()
    result = quantiles(experiment.trained, experiment.held_out, held_out, among="held-out")
    assert result.among == "299 held-out points"
    ranks = result.quantile.sort().values
    torch.testing.assert_close(ranks[-1], torch.tensor(1.0, dtype=torch.float64))
    assert ranks[0] > 0  # itself is no higher than itself
    x = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 9.0)])
    extreme = quantiles(experiment.trained, experiment.held_out, x, among="held-out")
    assert extreme.quantile.tolist() == [0, 1]
    assert learned(0.0, **{"data.split": "all"}).unseen is None
