"""Measure effective samples a second of warm chains: our HMC, blackjax's ChEES-HMC and numpyro's NUTS.

The target is a Gaussian of 100 dimensions with deviations from 0.01 to 1, so its covariance has a condition number of
10⁴. It lies along the axes, or is rotated at random, which a scale for each coordinate cannot undo.

Each sampler warms up as it documents. All draws are judged alike: the smallest bulk effective sample size of the 200
first and second moments along the axes of the ellipsoid, divided by the seconds of the draws. The clock is CPU time on
one thread, without compilation and warm-up. The table shows medians and ranges over the seeds.

    python benchmarks/ess.py [--samplers ours,chees] [--quick]
"""

import argparse
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import energyscape as es
from energyscape.evaluation import diagnose
from energyscape.samplers import warmup

DIMENSIONS, CONDITION, CHAINS = 100, 1e4, 64


class Distribution(NamedTuple):
    """A Gaussian of mean zero.

    Args:
        deviations: Along its own axes.
        axes: Those, in columns.
    """

    deviations: Tensor
    axes: Tensor

    @staticmethod
    def of(*, turned: bool) -> "Distribution":
        """Return the law of the head of this file."""
        random = torch.randn(DIMENSIONS, DIMENSIONS, generator=torch.Generator().manual_seed(1))
        axes = torch.linalg.qr(random).Q if turned else torch.eye(DIMENSIONS)
        return Distribution(torch.logspace(-0.5, 0, DIMENSIONS, base=CONDITION), axes)

    @property
    def precision(self) -> Tensor:
        """Return the inverse covariance."""
        return (self.axes / self.deviations.square()) @ self.axes.T


class Drawn(NamedTuple):
    """The draws of a sampler.

    Args:
        x: Draws, ``(K, C, d)``.
        seconds: Of processor time for them.
        warm: Seconds of warm-up, compilation included where it is one.
        gradients: Of each chain in a draw.
    """

    x: Tensor
    seconds: float
    warm: float
    gradients: float


def ours(law: Distribution, seed: int, draws: int) -> Drawn:
    """Return draws of the `HMC` that `warmup` makes of any."""
    precision, generator = law.precision, torch.Generator().manual_seed(seed)

    def energy(x: Tensor) -> Tensor:
        return ((x @ precision) * x).sum(1) / 2

    begun = time.process_time()
    start = torch.randn(CHAINS, DIMENSIONS, generator=generator)
    found = warmup(es.HMC(energy, step_size=0.01), start, steps=1000, generator=generator)
    es.sample(found.kernel, found.x, steps=20, compile=True, generator=generator)
    warm, begun = time.process_time() - begun, time.process_time()
    chain = es.sample(found.kernel, found.x, steps=draws, compile=True, generator=generator)
    return Drawn(chain.x, time.process_time() - begun, warm, found.leapfrog_steps)


def chees(law: Distribution, seed: int, draws: int) -> Drawn:
    """Return draws of blackjax's ChEES-HMC with a diagonal mass."""
    import blackjax
    import jax
    import jax.numpy as jnp
    import optax

    precision = jnp.asarray(law.precision.numpy())

    def log_density(x):
        return -(x @ precision @ x) / 2

    keys = jax.random.split(jax.random.key(seed), 3)
    begun = time.process_time()
    start = jax.random.normal(keys[0], (CHAINS, DIMENSIONS))
    adaptation = blackjax.chees_adaptation(log_density, CHAINS, mass_matrix_estimation="diagonal")
    (states, found), _ = adaptation.run(keys[1], start, 0.01, optax.adam(0.05), 1500)
    step = blackjax.dhmc(log_density, **found).step

    @jax.jit
    def run(key, states):
        def one(states, key):
            states, info = jax.vmap(step)(jax.random.split(key, CHAINS), states)
            return states, (states.position, info.num_integration_steps.mean())

        return jax.lax.scan(one, states, jax.random.split(key, draws))[1]

    jax.block_until_ready(run(keys[2], states))
    warm, begun = time.process_time() - begun, time.process_time()
    x, lengths = jax.block_until_ready(run(keys[2], states))
    return Drawn(torch.tensor(np.array(x)), time.process_time() - begun, warm, float(lengths.mean()))


def nuts(law: Distribution, seed: int, draws: int, *, dense: bool = False) -> Drawn:
    """Return draws of numpyro's NUTS, 16 chains side by side."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    precision, chains = jnp.asarray(law.precision.numpy()), 16
    kernel = NUTS(potential_fn=lambda x: (x @ precision @ x) / 2, dense_mass=dense)
    settings = {"num_chains": chains, "chain_method": "vectorized", "progress_bar": False}
    sampler = MCMC(kernel, num_warmup=1000, num_samples=draws // 2, **settings)
    key, begun = jax.random.key(seed), time.process_time()
    sampler.warmup(key, init_params=jax.random.normal(key, (chains, DIMENSIONS)))

    @jax.jit  # the sampler's own `run` compiles every time
    def run(state):
        def one(state, _):
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps)

        return jax.lax.scan(one, state, None, length=draws // 2)[1]

    jax.block_until_ready(run(sampler.post_warmup_state))
    warm, begun = time.process_time() - begun, time.process_time()
    x, lengths = jax.block_until_ready(run(sampler.post_warmup_state))
    return Drawn(torch.tensor(np.array(x)), time.process_time() - begun, warm, float(lengths.mean()))


SAMPLERS: dict[str, tuple[str, str, Callable[..., Drawn]]] = {
    "ours": ("torch", "ours", ours),
    "chees": ("blackjax", "blackjax ChEES, diagonal", chees),
    "nuts": ("numpyro", "numpyro NUTS, diagonal", nuts),
    "nuts-dense": ("numpyro", "numpyro NUTS, dense", functools.partial(nuts, dense=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="names, with commas between")
    parser.add_argument("--quick", action="store_true", help="one seed, few draws")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds, draws = (1, 300) if args.quick else (3, 1000)
    print("| law | sampler | smallest ESS a second | a 1,000 gradients | gradients a draw | R̂ | warm-up, s |")
    print("|---|---|---|---|---|---|---|")
    for turned in (False, True):
        law = Distribution.of(turned=turned)
        for needs, name, sampler in (SAMPLERS[key] for key in args.samplers.split(",")):
            if not importlib.util.find_spec(needs):
                continue
            rates, costs, hats = [], [], []
            for seed in range(seeds):
                drawn = sampler(law, seed, draws)
                own = drawn.x @ law.axes / law.deviations
                report = diagnose(torch.cat([own, own.square()], dim=-1))
                rates.append(float(report.ess.min()) / drawn.seconds)
                costs.append(float(report.ess.min()) / (own.shape[0] * own.shape[1] * drawn.gradients) * 1000)
                hats.append(float(report.r_hat.max()))
                off = float((own.square().mean((0, 1)) - 1).abs().max())
                if off > 0.5:
                    print(f"{name}: a variance is off by {off:.0%}")
            rate = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})"
            where = "turned" if turned else "along the axes"
            cells = where, name, rate, f"{statistics.median(costs):.2f}", f"{drawn.gradients:.0f}", f"{max(hats):.3f}"
            print(f"| {' | '.join(cells)} | {drawn.warm:.0f} |", flush=True)


if __name__ == "__main__":
    main()
