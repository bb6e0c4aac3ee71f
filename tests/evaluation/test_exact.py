"""Quadrature in the plane against closed forms."""

import math

import pytest
import torch
from torch import nn

from energyscape.data.distributions import (
    Checkerboard,
    Distribution,
    EightGaussians,
    GaussianGrid,
    TwoMoons,
    mixture_log_prob,
)
from energyscape.errors import UserError
from energyscape.evaluation import kl, log_z, mode_masses, total_variation
from energyscape.models import Gaussian, GaussianMixture, NeuralEnergy

BOX = ((-9.0, 9.0), (-10.0, 8.0))


class Normal(Distribution):
    """A round Gaussian, for divergences in closed form."""

    def __init__(self, mean, std):
        self.mean, self.std = torch.tensor([mean], dtype=torch.float64), std

    def sample(self, n, *, generator=None):
        raise NotImplementedError

    def log_prob(self, x):
        return mixture_log_prob(x, self.mean, self.std)

    entropy = modes = None

    @property
    def box(self):
        (x, y), reach = self.mean[0].tolist(), 7 * self.std
        return ((x - reach, x + reach), (y - reach, y + reach))


def minus_log(law):
    return lambda x: -law.log_prob(x)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_log_z_of_a_gaussian(temperature):
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)
    energy = Gaussian(torch.tensor([0.5, -1.0], dtype=torch.float64), covariance)
    result = log_z(energy, BOX, temperature=temperature, nodes=160)
    # At temperature T the covariance is T times as large, in two dimensions: log Z + log T.
    assert result.value == pytest.approx(energy.log_z + math.log(temperature), abs=1e-6)
    assert result.error < 1e-6
    assert result.edge_mass < 1e-9


def test_log_z_of_a_mixture_and_of_a_constant():
    means = torch.tensor([[2.0, 1.0], [-2.0, 0.0]], dtype=torch.float64)
    mixture = GaussianMixture(means, std=0.7, weights=torch.tensor([1.0, 3.0]))
    assert log_z(lambda x: mixture(x) - 5.0, BOX, nodes=160).value == pytest.approx(5.0, abs=1e-6)
    uniform = log_z(lambda x: 0 * x[:, 0], ((0.0, 2.0), (0.0, 5.0)), nodes=400)
    assert uniform.value == pytest.approx(math.log(10), abs=1e-12)
    # The rim of a uniform law holds 1 - 0.96^2 of it; each of its sides is placed to within a node, 0.1 % of a side.
    assert uniform.edge_mass == pytest.approx(1 - 0.96**2, abs=4e-3)


def test_the_error_estimate_covers_the_error_of_a_coarse_rule():
    energy = Gaussian(torch.zeros(2, dtype=torch.float64), 0.01 * torch.eye(2, dtype=torch.float64))
    result = log_z(energy, BOX, nodes=48)
    actual = abs(result.value - energy.log_z)
    assert 1e-9 < actual <= result.error


def test_a_box_that_is_too_small_shows_in_its_edge():
    def wide(x):
        return x.square().sum(1) / 200

    assert log_z(wide, BOX).edge_mass > 0.05
    assert log_z(wide, ((-70.0, 70.0), (-70.0, 70.0))).edge_mass < 1e-9


@pytest.mark.parametrize(
    "law",
    [EightGaussians(), EightGaussians(radius=1.0, std=0.5), TwoMoons(noise=0.4), Checkerboard()],
    ids=["8gaussians", "overlapping", "moons", "checkerboard"],
)
def test_a_law_is_at_no_distance_from_itself(law):
    result = kl(law, lambda x: 0.5 * (3.0 - law.log_prob(x)), temperature=0.5, nodes=128)
    # The laws' boxes hold all but 1e-9 of their mass.
    assert abs(result.value) <= result.error + 1e-8
    assert result.error < 1e-6


@pytest.mark.parametrize(
    ("mean", "std"), [((1.0, -0.5), 1.0), ((0.0, 0.0), 2.0), ((-2.0, 3.0), 0.8)], ids=["moved", "wider", "both"]
)
def test_divergence_of_two_gaussians(mean, std):
    law, model = Normal((0.0, 0.0), 0.8), Normal(mean, std)
    shift = sum(each**2 for each in mean)
    truth = 2 * math.log(std / 0.8) + (2 * 0.8**2 + shift) / (2 * std**2) - 1
    result = kl(law, minus_log(model), nodes=160)
    # What may lie in the rim and outside the widened box is less than 1e-6.
    assert result.value == pytest.approx(truth, abs=1e-6)
    assert kl(law, minus_log(model), ((-15.0, 15.0), (-15.0, 15.0)), nodes=240).value == pytest.approx(truth, abs=1e-8)
    assert result.edge_mass < 1e-6


def test_mass_far_outside_the_laws_box_is_found_or_reported():
    law = Normal((0.0, 0.0), 0.3)  # box: 2.1 to each side
    near = GaussianMixture(torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64), std=0.3)
    # Beyond an empty rim lies half of the model.
    assert kl(law, near, nodes=200).value == pytest.approx(math.log(2), abs=1e-6)
    # The energy falls without end to the right: no box is wide enough, and the edge says so.
    assert kl(law, lambda x: -x[:, 0], nodes=64).edge_mass > 0.1


def test_a_box_that_is_wide_enough_is_not_widened():
    law, asked = EightGaussians(), []
    kl(law, lambda x: asked.append(len(x)) or -law.log_prob(x), nodes=64)
    # The search over 16 * 16 panels, the inner 4 * 4 with 8 * 8 nodes and the others with 4 * 4, is half of the answer;
    # the other half are the inner panels with 16 * 16.
    assert sum(asked) == 16 * 64 + 240 * 16 + 16 * 256


@pytest.mark.parametrize("std", [0.5, 3.0, 8.0, 40.0])
def test_a_model_much_wider_than_the_law(std):
    law = EightGaussians(radius=1.0, std=0.2)  # its box reaches 2.4 to each side
    # KL = log(2 pi s^2) + E_p |x|^2 / 2 s^2 - entropy.
    truth = math.log(2 * math.pi * std**2) + (1 + 2 * 0.2**2) / (2 * std**2) - law.entropy
    result = kl(law, lambda x: x.square().sum(1) / (2 * std**2))
    # The widest box reaches 39 to each side: beyond lies 1e-6 of a model 8 wide, and a half of one 40 wide.
    if std < 40:
        assert result.value == pytest.approx(truth, abs=2e-6)
        assert result.edge_mass < 1e-4
    else:
        assert result.edge_mass > 1e-2
        assert result.value < truth
    assert result.error < 1e-8


def test_a_far_mode_is_found_wherever_it_is_at_least_as_wide_as_the_nodes_are_apart():
    law = Normal((0.0, 0.0), 0.3)  # box: 2.1 to each side, so panels are 1.05 wide
    for far in (3.0, 6.0, 12.0, 24.0, 40.0):
        for direction in ((1.0, 0.0), (0.6, -0.8)):
            means = torch.tensor([(0.0, 0.0), direction], dtype=torch.float64) * far
            model = GaussianMixture(means, std=0.3, weights=torch.tensor([3.0, 1.0]))
            result = kl(law, model)
            # 50 nodes in a panel about as wide as its distance: 40 away they are 0.7 apart, and it shows in the error.
            assert abs(result.value - math.log(4 / 3)) <= max(1e-6, 2 * result.error)
            assert result.value > math.log(4 / 3) / 2
            if far < 10:
                assert result.error < 1e-6
            assert result.edge_mass < 1e-6


def test_total_variation_of_two_gaussians():
    law = Normal((0.0, 0.0), 0.8)
    # 2 Phi(distance / 2 std) - 1, and the distance is 1.5.
    truth = math.erf(1.5 / (2 * 0.8) / math.sqrt(2))
    result = total_variation(law, minus_log(Normal((0.9, -1.2), 0.8)))
    assert result.value == pytest.approx(truth, abs=1e-4)
    assert abs(result.value - truth) <= 2 * result.error + 1e-9
    # Round ones cross on a circle |x|^2 = r^2, where (1 / a^2 - 1 / b^2) r^2 = 4 log(b / a).
    a, b = 0.8, 2.0
    square = 4 * math.log(b / a) / (1 / a**2 - 1 / b**2)
    truth = math.exp(-square / (2 * b**2)) - math.exp(-square / (2 * a**2))
    assert total_variation(law, minus_log(Normal((0.0, 0.0), b))).value == pytest.approx(truth, abs=1e-4)


def test_total_variation_of_a_law_to_itself_to_another_and_at_a_temperature():
    board = Checkerboard()
    itself = total_variation(board, lambda x: 0.5 * (3.0 - board.log_prob(x)), temperature=0.5, nodes=64)
    assert itself.value == pytest.approx(0, abs=1e-12)
    # A third of the mass is moved from the right to the left: 3/4 against 1/2.
    tilted = total_variation(board, lambda x: -board.log_prob(x) - (x[:, 0] < 0).double() * math.log(3), nodes=64)
    assert tilted.value == pytest.approx(0.25, abs=1e-12)
    apart = Normal((0.0, 0.0), 0.3)
    assert total_variation(apart, minus_log(Normal((4.0, 0.0), 0.3))).value == pytest.approx(1, abs=1e-9)
    assert total_variation(apart, lambda x: -x[:, 0], nodes=64).edge_mass > 0.1


def test_masses_relative_to_the_laws_own():
    law = GaussianGrid(side=3)
    own = mode_masses(law, minus_log(law))
    wide = mode_masses(law, lambda x: x.square().sum(1) / 200)
    assert own.sum() == pytest.approx(1)
    torch.testing.assert_close(mode_masses(law, minus_log(law)) / own, torch.ones(9, dtype=torch.float64))
    # Of a law much wider than the grid nearly all is nearest to an outer mode, the corners' cells being the largest.
    angle = wide.view(3, 3)
    assert float(angle[1, 1]) < 0.02
    # The cells jump between nodes that are a fiftieth of a panel apart, and the four corners are alike.
    torch.testing.assert_close(angle[0, 0], angle[2, 2], atol=1e-6, rtol=0)
    assert float(angle[0, 0]) > 0.2


def test_not_a_number_is_a_result():
    law = EightGaussians()
    for measure in (kl, total_variation):
        result = measure(law, lambda x: x.sum(1) * math.nan, nodes=32)
        assert math.isnan(result.value)
        assert math.isnan(result.edge_mass)


def test_checkerboard_against_a_tilted_board():
    board = Checkerboard()
    tilt = 0.3
    # KL = E_p[tilt x] + log E_p[exp(-tilt x)], and x is uniform on [-4, 4) under the board.
    truth = math.log(math.sinh(4 * tilt) / (4 * tilt))
    result = kl(board, lambda x: -board.log_prob(x) + tilt * x[:, 0], nodes=64)
    assert result.value == pytest.approx(truth, abs=1e-10)
    assert result.error < 1e-10


def test_a_float32_network_is_asked_in_float32():
    seen = set()

    class Net(nn.Linear):
        def forward(self, x):
            seen.add(x.dtype)
            return super().forward(x)

    energy = NeuralEnergy(Net(2, 1), reference_std=1.0)
    slope, shift = energy.network.weight.detach().double(), float(energy.network.bias.detach())
    # A Gaussian of unit covariance, moved by the slope.
    truth = math.log(2 * math.pi) + float(slope.square().sum()) / 2 - shift
    assert log_z(energy, BOX, nodes=160).value == pytest.approx(truth, abs=1e-6)
    assert seen == {torch.float32}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in energy.parameters())


def test_masses_of_unequal_modes():
    law = EightGaussians()
    weights = torch.arange(1.0, 9.0, dtype=torch.float64) / 36
    model = GaussianMixture(law.modes.double(), std=0.15, weights=weights)
    masses = mode_masses(law, model, nodes=320)
    # 0.15 wide Gaussians lie 7 of their deviations from the border of their cells.
    torch.testing.assert_close(masses, weights, atol=1e-8, rtol=0)


def test_masses_of_a_board_that_is_overhung_on_one_side():
    board = Checkerboard()
    masses = mode_masses(board, lambda x: -board.log_prob(x) + (x[:, 0] < 0).double() * math.log(3), nodes=64)
    left = board.modes[:, 0] < 0
    # Every square is nearest to its own centre.
    torch.testing.assert_close(masses, torch.where(left, 1 / 16, 3 / 16).double(), atol=1e-12, rtol=0)


def test_a_mistake_is_an_error():
    def energy(x):
        return x.square().sum(1)

    with pytest.raises(UserError, match="temperature"):
        log_z(energy, BOX, temperature=0.0)
    with pytest.raises(UserError, match="nodes"):
        kl(EightGaussians(), energy, nodes=8)
    with pytest.raises(UserError, match="TwoMoons"):
        mode_masses(TwoMoons(), energy)
