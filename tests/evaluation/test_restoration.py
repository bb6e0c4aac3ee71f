"""Posterior means and completions against the closed form of a Gaussian prior, and PSNR by hand."""

import functools
import math

import numpy as np
import pytest
import torch

from energyscape.calculus import score
from energyscape.evaluation import (
    calibrated_denoiser,
    calibrated_step,
    haze,
    inpaint,
    median_filtered,
    psnr,
    restore,
    ssim,
)
from energyscape.models import Gaussian
from energyscape.noise import tweedie
from energyscape.samplers import HMC, MALA, GradientDescent, ParallelTempering, UnderdampedLangevin

SHAPE = (1, 3, 4)
D = 12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def half_square(x):
    return x.flatten(1).square().sum(1) / 2


def prior():
    """Mean and covariance of clean images: neighbours are correlated, and variances differ eightfold."""
    where = torch.arange(D, dtype=torch.float64)
    deviation = torch.linspace(0.35, 1.0, D, dtype=torch.float64)
    covariance = torch.exp(-(where - where.unsqueeze(1)).abs() / 3) * torch.outer(deviation, deviation)
    return torch.linspace(-0.5, 0.5, D, dtype=torch.float64), covariance


@pytest.mark.parametrize(
    ("sigma", "level", "temperature", "step_size"),
    [(0.6, 0.0, 1.0, None), (0.6, 0.0, 1.0, 0.02), (0.6, 0.3, 1.0, None), (1.0, 0.5, 0.2, None)],
    ids=str,
)
def test_posterior_mean_of_a_gaussian(sigma, level, temperature, step_size):
    mean, covariance = prior()
    noised = Gaussian(mean.view(SHAPE), covariance + level**2 * torch.eye(D, dtype=torch.float64))
    y = mean + torch.randn(2, D, generator=generator(), dtype=torch.float64)
    gain = torch.linalg.solve(covariance + sigma**2 * torch.eye(D, dtype=torch.float64), covariance)
    truth = mean + (y - mean) @ gain
    copies = 64
    found = restore(
        lambda x: temperature * noised(x),
        y.repeat_interleave(copies, 0).view(-1, *SHAPE),
        sigma=sigma,
        level=level,
        temperature=temperature,
        step_size=step_size,
        generator=generator(1),
    ).view(2, copies, D)
    error = found.std(1) / copies**0.5
    # Two images of 12 pixels, each averaged over 64 independent chains; the burn-in's remains are far below one error.
    assert ((found.mean(1) - truth).abs() < 5 * error).all()
    # The test has power: the errors are small beside what the noise did.
    assert error.max() < 0.05 * sigma


def test_no_more_noise_than_the_energys_own_is_a_calibrated_step():
    y = torch.tensor([[[[1.0, -2.0]]]], dtype=torch.float64)
    # E / T = x² / 4: s = -y / 2, its divergence -1, |s|² = 5 / 4; λ = σ² 4 / 5, at most level².
    for sigma, length in [(0.5, 0.2), (0.2, 0.032)]:
        found = restore(half_square, y, sigma=sigma, level=0.5, temperature=2.0, generator=generator())
        torch.testing.assert_close(found, y * (1 - length / 2))
    # |s|² is small beside the divergence: the length stops at level².
    torch.testing.assert_close(calibrated_step(half_square, y / 100, sigma=0.4, level=0.5), y / 100 * (1 - 0.25))
    # A hilltop, where the score falls apart: no step.
    torch.testing.assert_close(calibrated_step(lambda x: -half_square(x), y, sigma=0.4, level=0.5), y)


def test_a_calibrated_step_is_the_best_multiple_of_the_score():
    mean, covariance = prior()
    level, sigma = 0.4, 0.25
    noised = Gaussian(mean.view(SHAPE), covariance + level**2 * torch.eye(D, dtype=torch.float64))
    factor = torch.linalg.cholesky(covariance)
    x = mean + torch.randn(4_000, D, generator=generator(), dtype=torch.float64) @ factor.mT
    y = (x + sigma * torch.randn(4_000, D, generator=generator(1), dtype=torch.float64)).view(-1, *SHAPE)
    for steepness in (1.0, 1.6):  # an energy too steep is put right as well

        def energy(x, steepness=steepness):
            return steepness * noised(x)

        found = calibrated_step(energy, y, sigma=sigma, level=level, generator=generator(2))
        s = score(energy, y).flatten(1)
        length = float(((found - y).flatten(1) * s).sum() / s.square().sum())
        # The error of y + λ s is quadratic in λ: its least value is at -E[s · (y - x)] / E|s|².
        noise = y.flatten(1) - x
        best = -(s * noise).sum(1) / s.square().sum(1).mean()
        assert abs(float(best.mean()) - length) < 5 * float(best.std()) / 4_000**0.5
        assert sigma**2 / steepness < length < level**2


def test_at_the_energys_own_level_a_calibrated_step_is_tweedies():
    mean, covariance = prior()
    total = covariance + 0.3**2 * torch.eye(D, dtype=torch.float64)
    noised = Gaussian(mean.view(SHAPE), total)
    y = mean + torch.randn(20_000, D, generator=generator(), dtype=torch.float64) @ torch.linalg.cholesky(total).mT
    y = y.view(-1, *SHAPE)
    found = calibrated_step(noised, y, sigma=0.3, level=0.30001, generator=generator(1))
    truth = tweedie(noised, y, 0.3)
    # The ratio of two means over 240,000 numbers, of which one is squares: a relative error of some sqrt(2 / 240,000).
    ratio = float(((found - y) * (truth - y)).sum() / (truth - y).square().sum())
    assert ratio == pytest.approx(1, abs=5 * (2 / 240_000) ** 0.5 + 1e-4)


def test_a_calibrated_denoiser_gives_an_exact_posterior_mean_the_spread_of_clean_pixels():
    # Pixels N(0, v) alone: the posterior mean y v / (v + σ²) has the variance v² / (v + σ²).
    v, sigma = 0.25, 0.3
    x = v**0.5 * torch.randn(20_000, *SHAPE, generator=generator(), dtype=torch.float64)
    exact = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), (v + sigma**2) * torch.eye(D, dtype=torch.float64))
    y = (v + sigma**2) ** 0.5 * torch.randn(500, *SHAPE, generator=generator(1), dtype=torch.float64)
    error = calibrated_denoiser(exact, x, level=sigma, generator=generator(2))(y) - y * (v / (v + sigma**2)) ** 0.5
    # Of two sets of N pixels each: a quantile of one errs by some sqrt(2 / N) standard deviations, more in the tails.
    assert float(error.square().mean().sqrt()) < 5 * v**0.5 * (4 / x.numel()) ** 0.5


def test_a_calibrated_denoiser_turns_a_rough_score_s_haze_black():
    # Black images with a bright pixel. The energy is a fifth too steep, and each pixel has its own wrong minimum.
    x = -torch.ones(400, *SHAPE)
    x.view(400, -1)[torch.arange(400), torch.randint(D, (400,), generator=generator())] = 0.9
    wrong = 0.1 * torch.randn(SHAPE, generator=generator(1))

    def energy(y):
        bright = (y > 0).to(y)
        return 0.6 / 0.3**2 * (y - wrong + 1 - 1.9 * bright).square().flatten(1).sum(1)

    y = x + 0.3 * torch.randn(x.shape, generator=generator(2))
    step = tweedie(energy, y, 0.3).clamp(-1, 1)
    found = calibrated_denoiser(energy, x, level=0.3, generator=generator(3))(y)
    assert haze(step) > 0.3
    assert haze(found) < 0.03
    assert float((found - x).square().mean()) < float((step - x).square().mean())
    assert -1 <= float(found.min()) <= float(found.max()) <= 0.9


def test_the_same_generator_gives_the_same_bits():
    y = torch.ones(2, 1, 2, 2)
    first, again, other = (
        restore(half_square, y, sigma=1.0, steps=20, burn_in=10, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_adaptation_finds_a_stiff_energys_scale():
    # A precision of 10^4 in 100 dimensions: the first step size, 1 / 100^(1/3), is a thousand times too large, and a
    # chain that never moves would answer y.

    def energy(x):
        return 5e3 * (x - 0.5).square().sum(1)

    y = torch.zeros(8, 100, dtype=torch.float64) + 0.55
    found = restore(energy, y, sigma=1.0, steps=600, burn_in=300, generator=generator())
    truth = (5e3 * 2 * 0.5 + 0.55) / (1e4 + 1)
    error = found.std(correction=0) / found.numel() ** 0.5
    assert abs(found.mean() - truth) < 5 * error
    assert error < 1e-4


def test_psnr_by_hand():
    x = torch.zeros(3, 1, 1, 2)
    y = torch.tensor([[0.2, -0.2], [2.0, 0.0], [0.0, 0.0]]).view(3, 1, 1, 2)
    # 10 log10(4 / 0.04) = 20; 10 log10(4 / 2); nothing differs.
    torch.testing.assert_close(psnr(x, y), torch.tensor([20.0, 10 * math.log10(2), math.inf]))
    # A peak of 1 is a quarter in power.
    torch.testing.assert_close(psnr(x, y, peak=1.0)[:1], torch.tensor([20 - 10 * math.log10(4)]))


def test_a_mistake_is_an_error():
    energy, y = half_square, torch.zeros(1, 2)
    with pytest.raises(ValueError, match="burn_in"):
        restore(energy, y, sigma=1.0, steps=10, burn_in=10)
    with pytest.raises(ValueError, match="positive"):
        restore(energy, y, sigma=0.0)
    with pytest.raises(ValueError, match="one shape"):
        psnr(y, y[:, :1])


# Completions


MISSING = torch.tensor([False, True, True, False, True, False, True, True, False, True, False, False])


def completion_law(y, level):
    """Mean and covariance of what `inpaint` returns at missing pixels, from its definition, for the Gaussian prior."""
    mean, covariance = prior()
    u, k = MISSING, ~MISSING
    eye = torch.eye(D, dtype=torch.float64)
    total = covariance + level**2 * eye
    gain = torch.linalg.solve(total[k][:, k], total[k][:, u]).mT
    conditional = total[u][:, u] - gain @ total[k][:, u]
    # All pixels of x: known ones N(y, level²), missing ones mean + gain (x_K - mean) and what is left.
    spread = torch.zeros(D, D, dtype=torch.float64)
    spread[k.nonzero(), k.nonzero().mT] = level**2 * eye[k][:, k]
    spread[u.nonzero(), k.nonzero().mT] = level**2 * gain
    spread[k.nonzero(), u.nonzero().mT] = level**2 * gain.mT
    spread[u.nonzero(), u.nonzero().mT] = conditional + level**2 * gain @ gain.mT
    centre = mean.clone()
    centre[k] = y[k]
    centre[u] = mean[u] + gain @ (y[k] - mean[k])
    clean = covariance @ torch.linalg.inv(total)  # Tweedie: mean + clean (x - mean)
    return (mean + clean @ (centre - mean))[u], (clean @ spread @ clean.mT)[u][:, u]


@pytest.mark.parametrize(
    ("level", "temperature", "step_size"), [(0.0, 1.0, None), (0.4, 0.3, None), (0.4, 1.0, 0.05)], ids=str
)
def test_completions_of_a_gaussian_have_its_conditional_law(level, temperature, step_size):
    mean, covariance = prior()
    noised = Gaussian(mean.view(SHAPE), covariance + level**2 * torch.eye(D, dtype=torch.float64))
    n = 2_000
    y = torch.linspace(1, -1, D, dtype=torch.float64)
    given = functools.partial(MALA, step_size=step_size, temperature=temperature)
    x = inpaint(
        lambda x: temperature * noised(x),
        y.masked_fill(MISSING, math.nan).expand(n, D).reshape(n, *SHAPE),
        MISSING.view(SHAPE),
        level=level,
        temperature=temperature,
        steps=300,
        kernel=given if step_size else None,
        generator=generator(3),
    ).view(n, D)
    assert torch.equal(x[:, ~MISSING], y[~MISSING].expand(n, -1))
    truth, spread = completion_law(y, level)
    x = x[:, MISSING]
    assert ((x.mean(0) - truth).abs() < 5 * (spread.diagonal() / n).sqrt()).all()
    # Of a normal law the covariance's standard error is sqrt((c_ii c_jj + c_ij²) / n).
    error = ((torch.outer(spread.diagonal(), spread.diagonal()) + spread.square()) / n).sqrt()
    assert ((x.mT.cov() - spread).abs() < 5 * error).all()


@pytest.mark.parametrize("kind", ["mala", "hmc", "tempering", "underdamped"])
@pytest.mark.parametrize("own", [None, 1.0, 4.0, 0.5])
def test_completions_have_the_temperature_asked_for_whatever_the_kernels_own_is(kind, own):
    rest = {} if own is None else {"temperature": own}
    kernel = {
        "mala": functools.partial(MALA, step_size=1.5, **rest),
        "hmc": functools.partial(HMC, step_size=0.9, leapfrog_steps=2, **rest),
        "tempering": functools.partial(
            ParallelTempering, kernel=functools.partial(MALA, step_size=1.5, **rest), temperatures=(1.0, 1.5)
        ),
        # Exact on a normal law.
        "underdamped": functools.partial(UnderdampedLangevin, step_size=0.8, **rest),
    }[kind]
    y = torch.zeros(4_000, 2, dtype=torch.float64)
    x = inpaint(
        lambda x: (x - 0.5).square().sum(1) / 2,
        y,
        torch.tensor([True, False]),
        temperature=4.0,
        steps=60,
        kernel=kernel,
        generator=generator(5),
    )
    assert torch.equal(x[:, 1], y[:, 1])
    # A variance of n normal numbers has the standard error v sqrt(2 / n), their mean sqrt(v / n).
    assert float(x[:, 0].var()) == pytest.approx(4, abs=5 * 4 * (2 / 4_000) ** 0.5)
    assert float(x[:, 0].mean()) == pytest.approx(0.5, abs=5 * (4 / 4_000) ** 0.5)


def test_a_kernel_without_noise_completes_by_descent():
    # Its temperature is 0, and the energy's plays no role for where it ends.
    y, missing = torch.tensor([[3.0, 7.0]], dtype=torch.float64), torch.tensor([False, True])
    energy = lambda x: 2 * (x[:, 0] - x[:, 1]).square()  # noqa: E731
    kernel = functools.partial(GradientDescent, step_size=0.1)
    found = inpaint(energy, y, missing, temperature=5.0, steps=100, kernel=kernel, generator=generator())
    torch.testing.assert_close(found, torch.tensor([[3.0, 3.0]], dtype=torch.float64))


def test_without_noise_completions_are_drawn_given_the_known_pixels():
    mean, covariance = prior()
    y = torch.linspace(1, -1, D, dtype=torch.float64)
    truth, spread = completion_law(y, 0.0)
    law = torch.distributions.MultivariateNormal(mean, covariance)
    # p(u | k) = p(u, k) / p(k): the quotient's logarithm is quadratic in u with the conditional's precision.
    full = law.precision_matrix[MISSING][:, MISSING]
    assert torch.allclose(torch.linalg.inv(full), spread, rtol=1e-8)
    offset = law.precision_matrix[MISSING][:, ~MISSING] @ (y - mean)[~MISSING]
    assert torch.allclose(mean[MISSING] - torch.linalg.solve(full, offset), truth, rtol=1e-8)


def test_completions_are_reproducible_and_differ_from_each_other():
    y, missing = torch.zeros(3, 1, 2, 2), torch.tensor([[True, False], [True, True]])
    first, again, other = (
        inpaint(half_square, y, missing, level=0.3, steps=10, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[:, 0, 0, 0].unique().numel() == 3


# Measures


def test_structural_similarity_by_hand():
    # Constant images: no variance, so that what counts is brightness, from black: (2 m r + c) / (m² + r² + c).
    x, r = (torch.full((1, 1, 16, 16), each, dtype=torch.float64) for each in (-0.5, 0.5))
    c = 0.02**2
    torch.testing.assert_close(ssim(x, r), torch.tensor([(2 * 0.5 * 1.5 + c) / (0.25 + 2.25 + c)]).double())
    y = torch.rand(3, 1, 16, 16, generator=generator()) * 2 - 1
    torch.testing.assert_close(ssim(y, y), torch.ones(3))
    # An image and its negative about the same brightness: anticorrelated.
    assert float(ssim(y, -y).max()) < 0
    small = torch.rand(2, 1, 8, 8, generator=generator()) * 2 - 1
    torch.testing.assert_close(ssim(small, small), torch.ones(2))
    with pytest.raises(ValueError, match="one shape"):
        ssim(y, small)


def ssim_by_loops(x, r, peak, side, deviation):
    """Wang et al. (2004), equations 13 to 16: every window inside the image, its pixels counted from black."""
    place = np.arange(side) - side // 2
    weight = np.exp(-(place[:, None] ** 2 + place**2) / (2 * deviation**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for channel in range(x.shape[0]):
        for i in range(x.shape[1] - side + 1):
            for j in range(x.shape[2] - side + 1):
                a, b = (y[channel, i : i + side, j : j + side] + peak / 2 for y in (x, r))
                mu, nu = (weight * a).sum(), (weight * b).sum()
                va, vb = (weight * (a - mu) ** 2).sum(), (weight * (b - nu) ** 2).sum()
                both = (weight * (a - mu) * (b - nu)).sum()
                values.append((2 * mu * nu + c1) * (2 * both + c2) / ((mu**2 + nu**2 + c1) * (va + vb + c2)))
    return np.mean(values)


@pytest.mark.parametrize(
    ("shape", "side"), [((1, 24, 24), 11), ((3, 13, 17), 11), ((1, 11, 12), 11), ((2, 8, 8), 7), ((1, 5, 1), 1)]
)
@pytest.mark.parametrize("peak", [2.0, 255.0])
def test_structural_similarity_by_brute_force(shape, side, peak):
    x = peak * (torch.rand(2, *shape, generator=generator(), dtype=torch.float64) - 0.5)
    r = (x + 0.2 * peak * torch.randn(2, *shape, generator=generator(1), dtype=torch.float64)).clamp(
        -peak / 2, peak / 2
    )
    truth = [
        ssim_by_loops(*(each.numpy() for each in pair), peak, side, 1.5 * side / 11) for pair in zip(x, r, strict=True)
    ]
    torch.testing.assert_close(ssim(x, r, peak=peak), torch.tensor(truth, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ssim(x.float(), r.float(), peak=peak).double(), ssim(x, r, peak=peak), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [24, 16])
def test_windows_beyond_the_edge_do_not_count(side):
    # Grey images whose first three rows differ: with windows that reach beyond the edge it was 0.74 and 0.62.
    x, r = torch.zeros(2, 1, 1, side, side, dtype=torch.float64)
    r[:, :, :3] = torch.rand(1, 1, 3, side, generator=generator(1), dtype=torch.float64) * 2 - 1
    loops = ssim_by_loops(x[0].numpy(), r[0].numpy(), 2.0, 11, 1.5)
    assert float(ssim(x, r)) == pytest.approx(loops, rel=1e-9)
    # Windows inside the image whose centres are below row 7 do not reach the three rows, and are equal there.
    assert loops > 1 - 3 / (side - 10)


def test_bytes_are_refused():
    x = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match=r"floating point; they were \(1, 1, 2, 2\), torch\.uint8"):
            measure(x, x + 1, peak=255.0)  # bytes would wrap around
    with pytest.raises(ValueError, match=r"\(B, C, H, W\); they were \(1, 2, 2\)"):
        ssim(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("size", [3, 5])
def test_medians_are_of_each_image_and_channel_alone(size):
    y = torch.rand(2, 3, 9, 9, generator=generator())
    found, half = median_filtered(y, size=size), size // 2
    for image, channel, row, column in [(0, 0, 4, 4), (1, 2, 3, 5), (1, 0, 2, 2)]:
        window = y[image, channel, row - half : row + half + 1, column - half : column + half + 1]
        assert float(found[image, channel, row, column]) == float(window.median())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"level": -0.1}, "level"), ({"temperature": 0.0}, "temperature"), ({"steps": 1}, "steps")],
)
def test_completions_refuse_nonsense(settings, message):
    with pytest.raises(ValueError, match=message):
        inpaint(half_square, torch.zeros(1, 2), torch.tensor([True, False]), **settings)
    for call in (
        lambda y: inpaint(half_square, y, torch.tensor([True, False])),
        lambda y: restore(half_square, y, sigma=1.0),
        lambda y: psnr(y, y),
    ):
        for y in (torch.zeros(2), torch.zeros(1, 2, dtype=torch.long)):
            with pytest.raises(ValueError, match=r"images are \(B, \*\), floating point; they were"):
                call(y)
    with pytest.raises(ValueError, match=r"start is of the images' shape \(3, 2\); it was \(1, 2\)"):
        inpaint(half_square, torch.zeros(3, 2), torch.tensor([True, False]), start=torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"truth values; it was torch\.float32"):
        inpaint(half_square, torch.zeros(1, 2), torch.ones(2))
