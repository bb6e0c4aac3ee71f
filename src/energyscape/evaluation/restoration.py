r"""Clean images from noised ones, and whole images from parts, with an energy as the prior.

Let :math:`q = e^{-E / T} / Z` be the density of data noised at a level :math:`\ell` (zero if it is that of clean data),
and :math:`y = x_0 + \sigma z` with :math:`\sigma > \ell`. Then :math:`y` is a draw :math:`x \sim q` with noise of
variance :math:`\tau^2 = \sigma^2 - \ell^2` added, whose posterior and the mean of the clean point are

.. math::
    p(x \mid y) \propto e^{-U(x)}, \quad U(x) = \frac{E(x)}{T} + \frac{\|y - x\|^2}{2 \tau^2}, \qquad
    E[x_0 \mid y] = E\bigl[\, x + \ell^2\, \nabla \log q(x) \bigm| y \,\bigr],

the last by Tweedie's formula inside the outer mean: it is exact; only the average over the chain is not. If
:math:`\sigma \le \ell` there is nothing to sample, and one step along the score is taken, with a length estimated from
the noise (`calibrated_step`).

References:
    Stochastic image denoising by sampling from the posterior distribution (Kawar et al., 2021).
    https://arxiv.org/abs/2101.09552
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d

from energyscape.calculus import EnergyFn, score
from energyscape.noise import noised, tweedie, uniform_like
from energyscape.samplers import MALA, Langevin, Point, run
from energyscape.samplers.base import KernelFactory, zero_energy

TARGET = 0.574
"""The acceptance probability at which MALA is most efficient in many dimensions (Roberts & Rosenthal, 1998)."""


def psnr(x: Tensor, reference: Tensor, *, peak: float = 2.0) -> Tensor:
    r"""Return the peak signal-to-noise ratio :math:`10 \log_{10}(\text{peak}^2 / \operatorname{MSE})` of each image.

    The peak is the *width* of the range of pixel values: 2 for images in [-1, 1], not 1.

    Examples:
        >>> psnr(torch.full((1, 1, 2, 2), 0.2), torch.zeros(1, 1, 2, 2))
        tensor([20.0000])
    """
    _check_pair(x, reference, peak)
    error = (x - reference).flatten(1).square().mean(1)
    return 20 * math.log10(peak) - 10 * error.log10()


def ssim(x: Tensor, reference: Tensor, *, peak: float = 2.0) -> Tensor:
    r"""Return the structural similarity of each image to the truth, averaged over windows.

    .. math:: \frac{(2 \mu_x \mu_r + c_1)(2 \sigma_{xr} + c_2)}
              {(\mu_x^2 + \mu_r^2 + c_1)(\sigma_x^2 + \sigma_r^2 + c_2)},
              \qquad c_1 = (0.01\, \text{peak})^2, \quad c_2 = (0.03\, \text{peak})^2

    Pixels are counted from black, :math:`x + \text{peak} / 2`: the means :math:`\mu` are brightnesses, and on a scale
    about zero a mid-grey window would count for nothing. Windows are 11×11, Gaussian with a deviation of 1.5 pixels,
    and lie inside the image. In smaller images they are the largest odd square that fits, deviations in proportion.

    References:
        Image quality assessment: from error visibility to structural similarity (Wang et al., 2004), equation 13.
        https://doi.org/10.1109/TIP.2003.819861
    """
    _check_pair(x, reference, peak)
    if x.ndim != 4:
        raise ValueError(f"images are (B, C, H, W); they were {tuple(x.shape)}")
    side = (min(11, *x.shape[-2:]) - 1) // 2 * 2 + 1
    place = torch.arange(side, dtype=torch.float64, device=x.device) - side // 2
    weight = (-(place * 11 / side / 1.5).square() / 2).softmax(0)

    def averaged(pixels: Tensor) -> Tensor:
        return conv2d(pixels.flatten(0, 1).unsqueeze(1), torch.outer(weight, weight)[None, None])

    a, b = x.double() + peak / 2, reference.double() + peak / 2
    mu, nu, c, d = averaged(a), averaged(b), (0.01 * peak) ** 2, (0.03 * peak) ** 2
    both, squares = averaged(a * b) - mu * nu, averaged(a * a + b * b) - mu * mu - nu * nu
    each = (2 * mu * nu + c) * (2 * both + d) / ((mu * mu + nu * nu + c) * (squares + d))
    return each.reshape(len(x), -1).mean(1).to(x)


def median_filtered(y: Tensor, *, size: int = 3) -> Tensor:
    """Return images filtered by the median of each pixel's neighbourhood, the baseline without learning.

    Examples:
        >>> spike = torch.zeros(1, 1, 3, 3)
        >>> spike[0, 0, 1, 1] = 9.0
        >>> float(median_filtered(spike).max())
        0.0
    """
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(y.cpu().numpy(), size=(1, 1, size, size))).to(y)


def calibrated_step(
    energy: EnergyFn,
    y: Tensor,
    *,
    sigma: float,
    level: float,
    temperature: float = 1.0,
    probes: int = 4,
    generator: Generator | None = None,
) -> Tensor:
    r"""Return :math:`y + \lambda\, s(y)` with the :math:`\lambda` of least estimated squared error.

    The score :math:`s = -\nabla E / T` is that of data noised at ``level``. With less noise in ``y`` neither of
    Tweedie's factors, :math:`\sigma^2` and :math:`\ell^2`, is right. The first one is in directions where the data vary
    much, the second across the set they lie on. Stein's unbiased estimate of the risk needs no clean image,

    .. math:: \overline{\| y + \lambda s - x_0 \|^2} \approx \sigma^2 d + \lambda^2\, \overline{\|s\|^2}
              + 2 \sigma^2 \lambda\, \overline{\nabla \cdot s}
              \quad\Rightarrow\quad \lambda = - \sigma^2\, \overline{\nabla \cdot s} \big/ \overline{\|s\|^2},

    kept between 0 and :math:`\ell^2`. The means are over the batch. For the exact score at :math:`\sigma = \ell` it is
    Tweedie's step again, because then :math:`E[\nabla \cdot s] = -E\|s\|^2`; a score that is too steep is corrected.

    The risk of one image of few pixels is poorly estimated: pass many at once.

    Args:
        level: The noise level :math:`\ell` of the data that the energy describes.

    References:
        Estimation of the mean of a multivariate normal distribution (Stein, 1981), theorem 1.
        https://doi.org/10.1214/aos/1176345632
        Monte-Carlo SURE (Ramani, Blu & Unser, 2008), theorem 2. https://doi.org/10.1109/TIP.2008.2001404
    """
    s, h = score(energy, y) / temperature, 0.01 * sigma
    divergence = torch.zeros((), dtype=y.dtype, device=y.device)
    for _ in range(probes):
        v = (uniform_like(y, generator=generator) < 0.5).to(y.dtype) * 2 - 1
        change = score(energy, y + h * v) - score(energy, y - h * v)
        divergence = divergence + (v * change).sum() / (2 * h * temperature * probes)
    best = -(sigma**2) * divergence / s.square().sum()
    return y + best.nan_to_num(sigma**2).clamp(0, level**2) * s


def calibrated_denoiser(
    energy: EnergyFn,
    x: Tensor,
    *,
    level: float,
    confined: Callable[[Tensor], Tensor] = lambda y: y,
    generator: Generator | None = None,
) -> Callable[[Tensor], Tensor]:
    r"""Return a denoiser of images with noise of the energy's own level, fitted on clean images.

    .. math::
        D(y)_i = F^{-1}\bigl(\hat F(\hat x_i)\bigr), \qquad \hat x = y + \lambda\, s(y), \qquad
        \lambda = \frac{\overline{(x - y) \cdot s}}{\overline{\|s\|^2}},

    with :math:`y` the images ``x`` with noise of :math:`\ell`. :math:`\hat F` and :math:`F` are the distribution
    functions of all pixels of :math:`\hat x` and of ``x``. For the exact score :math:`\lambda = \ell^2`, so that
    :math:`\hat x` is the posterior mean of Tweedie's formula.

    A learned score is too steep by the bias of its chains, and rough: its estimates of black pixels scatter about black
    and look like a grey haze. Posterior means also vary less than images do. The rising map is the optimal transport
    that gives pixels back the law of clean ones.

    Use it for samples. A restoration of least squared error is :math:`\hat x` itself.

    Args:
        energy: Maps ``(B, *)`` to ``(B,)``, at any temperature.
        x: Clean images, ``(B, *)``, a hundred or more.
        level: The noise level :math:`\ell > 0` of the data that the energy describes.
        confined: Brings noised images into the box that the energy knows.
        generator: The stream to draw from.

    Returns:
        A map from ``(C, *)`` to ``(C, *)``, whose values are in the range of ``x``.

    References:
        A theory of the distortion-perception tradeoff in Wasserstein space (Freirich, Michaeli & Meir, 2021), for
        the transport of posterior means. https://arxiv.org/abs/2107.02555
    """
    y = confined(noised(x, level, generator=generator)[0])
    s = score(energy, y)
    factor = float(((x - y) * s).mean() / s.square().mean().clamp(min=torch.finfo(s.dtype).tiny))
    estimates = (y + factor * s).nan_to_num().flatten().sort().values.cpu().numpy()
    pixels = x.flatten().sort().values.cpu().numpy()

    def denoise(y: Tensor) -> Tensor:
        estimate = y + factor * score(energy, y)
        return torch.from_numpy(np.interp(estimate.cpu().numpy(), estimates, pixels)).to(y)

    return denoise


def restore(
    energy: EnergyFn,
    y: Tensor,
    *,
    sigma: float,
    level: float = 0.0,
    temperature: float = 1.0,
    steps: int = 200,
    burn_in: int = 50,
    step_size: float | None = None,
    bounds: tuple[float, float] | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""Return the posterior mean :math:`E[x_0 \mid y]` of images before noise of standard deviation ``sigma``.

    One MALA chain an image runs on :math:`U` from ``y``, and after the burn-in the average of
    :math:`x + \ell^2 \nabla \log q(x)` is taken. Where ``sigma`` is at most ``level`` there is nothing to sample, and
    the answer is `calibrated_step`'s.

    During the burn-in the step size, one for all images, starts at :math:`\eta = \tau^2 / d^{1/3}` and follows
    :math:`\log \eta \leftarrow \log \eta + (\bar a - 0.574) / \sqrt{t}` with :math:`\bar a` the mean acceptance
    probability of step :math:`t`. Then it is frozen, so that the average is of a Markov chain.

    The mean has the least squared error, and is smoother than any clean image: it is no sample.

    Args:
        level: The noise level :math:`\ell \ge 0` of the data that the energy describes.
        steps: Steps of each chain, burn-in included.
        burn_in: Steps before the average begins; for noised data, as many unadjusted steps come first.

    Examples:
        >>> y = torch.tensor([[2.0, -1.0]])
        >>> x = restore(lambda x: (x**2).sum(1) / 2, y, sigma=1.0, steps=2_000)  # clean N(0, 1)
        >>> bool((x - y / 2).abs().max() < 0.2)
        True

    References:
        Optimal scaling of discrete approximations to Langevin diffusions (Roberts & Rosenthal, 1998).
        https://doi.org/10.1111/1467-9868.00123; a tutorial on adaptive MCMC (Andrieu & Thoms, 2008).
    """
    if not (sigma > 0 and level >= 0 and temperature > 0):
        raise ValueError(f"sigma and temperature are positive, level is not negative: {sigma}, {temperature}, {level}")
    if not 0 <= burn_in < steps:
        raise ValueError(f"0 ≤ burn_in < steps; they were {burn_in} and {steps}")
    _check_images(y)
    if sigma <= level:
        return calibrated_step(energy, y, sigma=sigma, level=level, temperature=temperature, generator=generator)
    variance = sigma**2 - level**2

    def posterior(x: Tensor) -> Tensor:
        return energy(x) / temperature + (y - x).flatten(1).square().sum(1) / (2 * variance)

    guess = variance / y[0].numel() ** (1 / 3)
    kernel = MALA(posterior, step_size=guess if step_size is None else step_size, bounds=bounds)
    x = _settled(kernel, y, level=level, variance=variance, steps=burn_in, generator=generator)
    kernel, state = _burnt_in(kernel, kernel.init(x), burn_in, adapt=step_size is None, generator=generator)
    total = torch.zeros_like(y)
    for _ in range(steps - burn_in):
        state, _ = kernel.step(state, generator=generator)
        score = state.score - (y - state.x) / variance  # that of the energy alone
        total += state.x + level**2 * score
    return total / (steps - burn_in)


def _settled(
    fine: MALA, y: Tensor, *, level: float, variance: float, steps: int, generator: Generator | None
) -> Tensor:
    """Return the end of unadjusted chains from ``y``: far from the data, Metropolis tests can trap chains.

    Their step is a quarter of the posterior's own width in narrow directions: noise of variance l² and that of ``y``.
    """
    if not (level > 0 and steps > 0):
        return y
    step_size = 0.25 / (1 / level**2 + 1 / variance)
    kernel = Langevin(fine.energy, step_size=step_size, drift_clip=2 * level, bounds=fine.bounds)
    x: Tensor = run(kernel, y, steps=steps, generator=generator)[0].x
    return x


def _burnt_in(
    kernel: MALA, state: Point, steps: int, *, adapt: bool, generator: Generator | None
) -> tuple[MALA, Point]:
    """Return the kernel with the adapted step size, and its chains."""
    for t in range(1, steps + 1):
        state, info = kernel.step(state, generator=generator)
        if adapt:
            gain = (float(info.accept_prob.mean()) - TARGET) / math.sqrt(t)
            kernel = replace(kernel, step_size=kernel.step_size * math.exp(gain))
    return kernel, state


def inpaint(
    energy: EnergyFn,
    y: Tensor,
    missing: Tensor,
    *,
    level: float = 0.0,
    temperature: float = 1.0,
    steps: int = 500,
    kernel: KernelFactory | None = None,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    r"""Return images completed where pixels are missing: one draw for each image, not a mean.

    The energy is that of data noised at :math:`\ell`, so the known pixels are noised as well, once a chain,
    :math:`x_K = y_K + \ell z`. A chain then moves the missing ones with the conditional score
    :math:`-\nabla_{x_U} E(x_U, x_K) / T`, and Tweedie's step takes the noise away. An exact kernel samples

    .. math:: x_U \sim \int q(x_U \mid x_K)\, N(x_K; y_K, \ell^2 I)\, dx_K, \qquad
              \hat x_U = \bigl( x + \ell^2\, \nabla \log q(x) \bigr)_U = E[x_{0, U} \mid x].

    At :math:`\ell = 0` that is the law of the missing pixels given the known ones. Otherwise the known ones count only
    as noised pixels, and the completions are a little freer than necessary. The noise is not redrawn at each step: the
    chain would then follow an average of forces, which has no known law.

    Args:
        y: Images without noise, ``(B, *)``; values at missing pixels are ignored. Repeat one for many draws.
        missing: Missing pixels, as truth values of the shape of ``y`` or one that broadcasts to it.
        level: The noise level :math:`\ell \ge 0` of the data that the energy describes.
        kernel: Constructor of the transition from an energy; none is MALA, whose step size adapts in the first half. A
            kernel with a temperature above 0 gets :math:`E` in its units: the law stays that of ``temperature``.
        start: Starting values of the missing pixels, ``(B, *)``; uniform on [-1, 1] by default.

    Examples:
        >>> y, missing = torch.tensor([[3.0, 0.0]]), torch.tensor([False, True])
        >>> inpaint(lambda x: (x[:, 0] - x[:, 1]) ** 2 * 1e4, y, missing).round(decimals=1)
        tensor([[3., 3.]])

    References:
        RePaint (Lugmayr et al., 2022), equation 8, for known pixels at the noise level of the others.
        https://arxiv.org/abs/2201.09865
    """
    if not (level >= 0 and temperature > 0 and steps >= 2):
        raise ValueError(f"level ≥ 0, temperature > 0, steps ≥ 2; they were {level}, {temperature}, {steps}")
    if missing.dtype != torch.bool:
        raise ValueError(f"missing holds truth values; it was {missing.dtype}: compare it with something")
    _check_images(y)
    if start is not None and start.shape != y.shape:
        raise ValueError(f"start is of the images' shape {tuple(y.shape)}; it was {tuple(start.shape)}")
    missing = missing.broadcast_to(y.shape)
    known, _ = noised(y, level, generator=generator)
    known = kernel(zero_energy).confined(known) if kernel else known
    x = 2 * uniform_like(y, generator=generator) - 1 if start is None else start

    own = (
        kernel(zero_energy).temperature if kernel else 0
    ) or temperature  # a descent's is 0: it has no law to correct

    def conditional(x: Tensor) -> Tensor:
        replicas = x.unflatten(0, (-1, len(known)))  # of all temperatures, if a kernel has several
        return own / temperature * energy(torch.where(missing, replicas, known).flatten(0, 1))

    if kernel is not None:
        x = run(kernel(conditional), x, steps=steps, generator=generator)[0].x
    else:
        free = max(1, int(missing.flatten(1).sum(1).max()))
        guess = max(level, 0.1) ** 2 / free ** (1 / 3)
        first = MALA(conditional, step_size=guess, temperature=temperature)
        found, point = _burnt_in(first, first.init(x), steps // 2, adapt=True, generator=generator)
        x = _continued(found, point, steps - steps // 2, generator=generator).x
    x = torch.where(missing, x, known)
    if level > 0:
        x = tweedie(energy, x, level, temperature=temperature)
    return torch.where(missing, x, y)


def _continued(kernel: MALA, state: Point, steps: int, *, generator: Generator | None) -> Point:
    for _ in range(steps):
        state, _ = kernel.step(state, generator=generator)
    return state


def _check_images(y: Tensor) -> None:
    if y.ndim < 2 or not y.is_floating_point():
        raise ValueError(f"images are (B, *), floating point; they were {tuple(y.shape)}, {y.dtype}: convert them")


def _check_pair(x: Tensor, reference: Tensor, peak: float) -> None:
    if x.shape != reference.shape:
        raise ValueError(f"images and truth are of one shape; they were {tuple(x.shape)} and {tuple(reference.shape)}")
    _check_images(x)
    _check_images(reference)
    if not peak > 0:
        raise ValueError(f"peak is positive; it was {peak}")
