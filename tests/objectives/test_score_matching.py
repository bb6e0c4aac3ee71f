r"""Score matching: one J, exact, sliced and by finite differences.

With :math:`E = p \|x\|^2 / 2` in d dimensions, :math:`J = p^2 \|x\|^2 / 2 - p d` for each point.
"""

import math

import pytest
import torch

import cases
from energyscape.calculus import score
from energyscape.models import MLP, Energy, NeuralEnergy
from energyscape.objectives import (
    FiniteDifferenceScoreMatching,
    ScoreMatching,
    SlicedScoreMatching,
    SlicedScoreMatchingVR,
)
from energyscape.objectives.score_matching import probe

V = 1.3
PROJECTIONS = ("rademacher", "gaussian", "sphere")
SLICED = [
    pytest.param(kind(projections=projections, projection=projection), id=f"{kind.__name__}-{projection}-{projections}")
    for kind in (SlicedScoreMatching, SlicedScoreMatchingVR)
    for projection in PROJECTIONS
    for projections in (1, 3)
]


def facts_of(loss):
    return {"value": float(loss.value.detach())} | {name: float(fact) for name, fact in loss.facts.items()}


def slope(loss, model):
    """Returns the gradient in all parameters as one vector."""
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss.value, list(model.parameters()))])


def by_hessian(model, x):
    """Returns J, the trace and the score's mean square from dense Hessians, a point at a time."""
    traces, squares = [], []
    for each in x:
        hessian = torch.autograd.functional.hessian(lambda point: model(point[None]).squeeze(), each)
        gradient = torch.autograd.functional.jacobian(lambda point: model(point[None]).squeeze(), each)
        traces.append(-hessian.reshape(each.numel(), each.numel()).trace())
        squares.append(gradient.square().sum())
    trace, square = torch.stack(traces).mean(), torch.stack(squares).mean()
    return float(trace + square / 2), float(trace), float(square)


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 1.0, -0.5])
@pytest.mark.parametrize("d", [2, 10])
def test_score_matching_has_its_exact_value_and_gradient(d, p):
    x, model = math.sqrt(V) * cases.normal(4096, d), cases.Quadratic(p)
    r = float(x.square().sum(1).mean())
    loss = ScoreMatching()(model, x)
    facts = facts_of(loss)
    # Given the sample, to rounding; and the sample is of the law whose J is p² d v / 2 - p d.
    assert facts["value"] == pytest.approx(p**2 * r / 2 - p * d, rel=1e-12)
    assert float(slope(loss, model)) == pytest.approx(p * r - d, rel=1e-12)
    assert facts["trace"] == pytest.approx(-p * d, rel=1e-12)
    assert facts["stein"] == pytest.approx(p**2 * r - p * d, rel=1e-12)
    assert facts["score_rms"] == pytest.approx(abs(p) * math.sqrt(r), rel=1e-12)
    assert abs(cases.z_score(p**2 * x.square().sum(1) / 2 - p * d, p**2 * d * V / 2 - p * d)) < 5


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4), (3, 2, 2)], ids=str)
def test_score_matching_agrees_with_dense_hessians(shape):
    model, x = cases.neural(shape, dtype=torch.float64), cases.normal(6, *shape)
    value, trace, square = by_hessian(model, x)
    facts = facts_of(ScoreMatching()(model, x))
    assert facts["value"] == pytest.approx(value, rel=1e-10)
    assert facts["trace"] == pytest.approx(trace, rel=1e-10)
    assert facts["stein"] == pytest.approx(trace + square, rel=1e-9)
    assert facts["score_rms"] == pytest.approx(math.sqrt(square), rel=1e-10)


def test_score_matching_sees_correlations():
    target = cases.image()
    x = target.sample(8192, generator=cases.generator())
    facts = facts_of(ScoreMatching()(target.energy, x))
    precision = torch.cholesky_inverse(target.energy.factor)
    # At the truth E |s|² = tr Σ⁻¹, the trace is exactly minus that, and J is half of it.
    assert facts["trace"] == pytest.approx(-float(precision.trace()), rel=1e-10)
    squares = ((x - target.energy.mean).flatten(1) @ precision).square().sum(1)
    assert abs(cases.z_score(squares, float(precision.trace()))) < 5
    assert facts["stein"] == pytest.approx(float(squares.mean() - precision.trace()), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("network", [lambda: MLP((2,), width=8, activation="relu"), lambda: torch.nn.Linear(2, 1)])
def test_a_piecewise_linear_network_has_no_trace(network):
    model = NeuralEnergy(network())
    for objective in (ScoreMatching(), SlicedScoreMatching(), SlicedScoreMatchingVR()):
        loss = objective(model, torch.ones(4, 2))
        s = score(model, torch.ones(4, 2))
        assert float(loss.facts["trace"]) == 0
        if not isinstance(objective, SlicedScoreMatching):
            assert float(loss.value.detach()) == pytest.approx(float(s.square().sum(1).mean() / 2), rel=1e-5)
        loss.value.backward()


# --- sliced -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_probe_is_white_over_the_whole_event(projection, shape):
    d = math.prod(shape)
    v = probe(torch.empty(2**14, *shape, dtype=torch.float64), projection, generator=cases.generator())
    assert v.shape == (2**14, *shape)
    v = v.flatten(1)
    for i in range(d):
        for j in range(i):
            assert abs(cases.z_score(v[:, i] * v[:, j])) < 5
        assert abs(cases.z_score(v[:, i])) < 5
        if projection != "rademacher":
            assert abs(cases.z_score(v[:, i].square(), 1.0)) < 5
    if projection == "rademacher":
        assert bool((v.abs() == 1).all())
    if projection == "sphere":
        assert torch.allclose(v.norm(dim=1), v.new_tensor(math.sqrt(d)), rtol=1e-12)
    # The fourth moment distinguishes the three laws: 1, 3 and 3 d / (d + 2).
    fourth = {"rademacher": 1.0, "gaussian": 3.0, "sphere": 3 * d / (d + 2)}[projection]
    spread = float(v.pow(4).mean(1).std()) / math.sqrt(len(v))
    assert float(v.pow(4).mean()) == pytest.approx(fourth, abs=5 * spread + 1e-12)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)], ids=str)
@pytest.mark.parametrize("objective", SLICED)
def test_sliced_forms_estimate_the_exact_j_and_its_gradient(objective, shape):
    model, x = cases.neural(shape, dtype=torch.float64), cases.normal(32, *shape)
    exact = ScoreMatching()(model, x)
    truth, direction = facts_of(exact), slope(exact, model)
    values, traces, squares, slopes = [], [], [], []
    for i in range(48):
        loss = objective(model, x.repeat(32, *[1] * len(shape)), generator=cases.generator(i))
        facts = facts_of(loss)
        values.append(facts["value"])
        traces.append(facts["trace"])
        squares.append(facts["score_rms"] ** 2)
        slopes.append(slope(loss, model) @ direction)
    assert abs(cases.z_score(cases.tensor(values), truth["value"])) < 5
    assert abs(cases.z_score(cases.tensor(traces), truth["trace"])) < 5
    assert abs(cases.z_score(torch.stack(slopes), float(direction @ direction))) < 5
    if isinstance(objective, SlicedScoreMatchingVR):
        assert squares == pytest.approx([truth["score_rms"] ** 2] * 48, rel=1e-10)
    else:
        assert abs(cases.z_score(cases.tensor(squares), truth["score_rms"] ** 2)) < 5
    # The test could tell J from half of its trace: that is many standard errors away.
    assert abs(cases.z_score(cases.tensor(values), truth["value"] - truth["trace"] / 2)) > 15


@pytest.mark.parametrize("kind", [SlicedScoreMatching, SlicedScoreMatchingVR])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_sliced_forms_by_hand(projection, kind):
    """On a correlated normal law v'∇s v is v' times minus the precision times v, whatever x."""
    energy = cases.image().energy
    precision = torch.cholesky_inverse(energy.factor)
    x = cases.normal(32, 1, 4, 4, seed=1)
    s = (energy.mean - x).flatten(1) @ precision
    facts = facts_of(kind(projections=2, projection=projection)(energy, x, generator=cases.generator(3)))
    stream = cases.generator(3)
    first, second = (probe(x, projection, generator=stream).flatten(1) for _ in range(2))
    traces = -sum((v @ precision * v).sum(1) for v in (first, second)) / 2
    sliced = sum((v * s).sum(1).square() for v in (first, second)) / 2
    square = sliced if kind is SlicedScoreMatching else s.square().sum(1)
    assert facts["value"] == pytest.approx(float((traces + square / 2).mean()), rel=1e-10)
    assert facts["trace"] == pytest.approx(float(traces.mean()), rel=1e-10)


@pytest.mark.parametrize("projections", [1, 4])
@pytest.mark.parametrize("d", [2, 10])
def test_variances_are_the_known_ones(d, projections):
    """Plain and variance-reduced, at one point with normal directions; with signs the second has none at all."""
    p, model = 1.2, cases.Quadratic(1.2)
    x = cases.normal(1, d, seed=4)
    r, one = float(x.square().sum()), 2 * p**2 * d
    truth = {SlicedScoreMatching: one + p**4 * r**2 / 2 - 2 * p**3 * r, SlicedScoreMatchingVR: one}
    stream = cases.generator()
    for kind, variance in truth.items():
        objective = kind(projections=projections, projection="gaussian")
        values = torch.stack([objective(model, x, generator=stream).value.detach() for _ in range(2000)])
        squares = (values - (p**2 * r / 2 - p * d)).square()
        assert abs(cases.z_score(squares, variance / projections)) < 5
    signs = [facts_of(SlicedScoreMatchingVR()(model, x, generator=stream))["value"] for _ in range(8)]
    assert signs == pytest.approx([p**2 * r / 2 - p * d] * 8, rel=1e-12)


def test_variances_with_signs_are_the_known_ones():
    """Off the diagonal of the Hessian H: twice the sum of H², or in the plain form of (H - s s' / 2)²."""
    energy, stream = cases.image().energy, cases.generator()
    hessian = torch.cholesky_inverse(energy.factor)
    x = cases.normal(1, 1, 4, 4, seed=7)
    s = ((energy.mean - x).flatten(1) @ hessian)[0]
    value = float(s @ s / 2 - hessian.trace())
    truth = {SlicedScoreMatching: hessian - s.outer(s) / 2, SlicedScoreMatchingVR: hessian}
    for kind, matrix in truth.items():
        values = torch.stack([kind()(energy, x, generator=stream).value.detach() for _ in range(2000)])
        truth[kind] = float(2 * (matrix - matrix.diag().diag()).square().sum())
        assert abs(cases.z_score((values - value).square(), truth[kind])) < 5
    assert truth[SlicedScoreMatchingVR] < truth[SlicedScoreMatching]


# --- finite differences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 2.0])
def test_finite_differences_are_exact_where_the_energy_is_quadratic(epsilon):
    target = cases.image()
    x = cases.normal(64, 1, 4, 4, seed=2)
    sliced = facts_of(SlicedScoreMatching(projection="sphere")(target.energy, x, generator=cases.generator(5)))
    differences = facts_of(
        FiniteDifferenceScoreMatching(epsilon=epsilon)(target.energy, x, generator=cases.generator(5))
    )
    # The second difference of energies of about 100 is rounded by 1e-14, and magnified by d / ε².
    assert differences == pytest.approx(sliced, rel=1e-9, abs=16 / epsilon**2 * 1e-13)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)], ids=str)
def test_the_error_of_finite_differences_falls_as_the_square_of_epsilon(shape):
    model, x = cases.neural(shape, dtype=torch.float64), cases.normal(64, *shape)
    exact = facts_of(SlicedScoreMatching(projection="sphere")(model, x, generator=cases.generator(5)))
    errors = {name: [] for name in ("value", "trace", "stein")}
    for epsilon in (0.2, 0.1, 0.05):
        near = facts_of(FiniteDifferenceScoreMatching(epsilon=epsilon)(model, x, generator=cases.generator(5)))
        for name, error in errors.items():
            error.append(near[name] - exact[name])
    for error in errors.values():
        # Halving ε leaves a quarter; the next order, ε⁴, moves the ratio by a few parts in a hundred at most.
        assert error[0] / error[1] == pytest.approx(4, abs=0.2)
        assert error[1] / error[2] == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("p", [0.2, 1.0])
@pytest.mark.parametrize("d", [2, 10])
def test_finite_differences_have_the_exact_value_on_a_normal_law(d, p):
    values, slopes = [], []
    for i in range(48):
        model = cases.Quadratic(p)
        x = math.sqrt(V) * cases.normal(512, d, seed=100 + i)
        loss = FiniteDifferenceScoreMatching(epsilon=0.1)(model, x, generator=cases.generator(i))
        values.append(facts_of(loss)["value"])
        slopes.append(slope(loss, model))
    assert abs(cases.z_score(cases.tensor(values), p**2 * d * V / 2 - p * d)) < 5
    assert abs(cases.z_score(torch.cat(slopes), d * (p * V - 1))) < 5


def test_finite_differences_take_one_call_and_no_gradient_in_x():
    class Blind(cases.Quadratic):
        calls = ()

        def forward(self, x, label=None):
            self.calls = (*self.calls, x)
            return super().forward(x)

    model, x = Blind(0.7), cases.normal(8, 1, 4, 4)
    FiniteDifferenceScoreMatching(epsilon=0.3)(model, x.clone().requires_grad_(), generator=cases.generator())
    (points,) = model.calls
    assert not points.requires_grad
    above, below, here = points.split(8)
    assert torch.equal(here, x)
    assert torch.allclose(above + below, 2 * x)
    # The step's length is that of the whole event.
    assert torch.allclose((above - x).flatten(1).norm(dim=1), cases.tensor(0.3))


def test_a_small_epsilon_loses_its_digits_in_float32():
    class Single(Energy):
        """The same energy, computed in float32."""

        def forward(self, x, label=None):
            return copy(x.float()).double()

    model, copy = cases.neural(dtype=torch.float64), cases.neural()
    x = cases.normal(1, 2)
    errors = {}
    for epsilon in (0.05, 0.0005):
        objective = FiniteDifferenceScoreMatching(epsilon=epsilon)
        off = []
        for i in range(64):
            near, truth = (facts_of(objective(e, x, generator=cases.generator(i)))["value"] for e in (Single(), model))
            off.append(abs(near - truth))
        errors[epsilon] = sum(off) / len(off)
        # Energies of size one, rounded by 1e-7 or so, magnified by d / ε²: of 1 that is 1e-4, and 1.
        assert 0.1 < errors[epsilon] / (1e-7 * 2 / epsilon**2) < 10
    assert errors[0.05] < 1e-3
    assert errors[0.0005] > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicedScoreMatching(projections=0), "projections is at least 1"),
        (lambda: SlicedScoreMatching(projection="sphere "), "projection is rademacher, gaussian or sphere"),
        (lambda: SlicedScoreMatchingVR(projections=-1), "projections is at least 1"),
        (lambda: SlicedScoreMatchingVR(projection="unit"), "projection is rademacher, gaussian or sphere"),
        (lambda: FiniteDifferenceScoreMatching(epsilon=0.0), "epsilon is positive"),
        (lambda: FiniteDifferenceScoreMatching(epsilon=math.nan), "epsilon is positive"),
    ],
)
def test_score_matching_refuses_nonsense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
