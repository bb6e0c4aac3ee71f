# %% [markdown]
# # What the replay buffer changes
#
# The same energy is trained twice on images by contrastive divergence: once its chains begin at uniform noise in every
# training step and take 20 steps (short-run), once they go on from where they were and take 4 (a replay buffer). We
# look at the two trainings' curves, at what each energy makes of noise, and at what the better one can do: generate
# from data and take noise away.
#
# This file is a notebook: every `# %%` begins a cell. It also runs as a script: a quarter of an hour on one core, five
# minutes with the 8×8 digits that need no download, `settings = {"images": es.data.digits()}`.

# %%
from functools import partial

import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting
from energyscape.data import mnist
from energyscape.evaluation import psnr, restore
from energyscape.noise import tweedie

# Whoever runs this file may set these names before it: smaller ones, other images, other folders.
settings = globals().get("settings", {})
images = settings.get("images") or mnist()
samples, width, out = settings.get("samples", 64_000), settings.get("width", 8), settings.get("out", ".")
few, many = settings.get("steps", (20, 400))
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# Data are noised at σ = 0.3, so that what is learned is smooth. With E = f/σ² + |x|²/2σ² the gradient of the network f
# is itself a denoiser, and the energy is calibrated: chains at temperature 1 are draws of the noised data.

# %%
SIGMA = 0.3
kernel = partial(es.Langevin, step_size=SIGMA**2 / 4)


def trained(start, steps):
    """Trains one energy; returns it and what each step told."""
    energy = es.NeuralEnergy(es.ConvEnergyNet(images.shape, width=width), reference_std=SIGMA, scale=1 / SIGMA**2)
    objective = es.ContrastiveDivergence(start, kernel, steps=steps, data_noise=SIGMA)
    optimiser = Adam(energy.parameters(), lr=5e-4, betas=(0.0, 0.999))
    average = es.averaged(energy, half_life=20_000, batch_size=64)
    data = es.batches(images, 64)
    reports = list(
        es.fit(energy, objective, data, optimiser, samples=samples, clip=400.0, average=average, schedule=rising)
    )
    return average.module.eval(), reports


def rising(progress, seen):
    """The learning rate rises over 16,000 samples and falls to nothing at the end."""
    return min(1.0, seen / 16_000) * (1 - progress)


short_energy, short = trained(es.NoiseInit(), steps=few)
energy, kept = trained(es.ReplayBuffer(1_024, refresh=0.01), steps=4)

# %% [markdown]
# ## The curves
#
# A gap near zero says that chains keep up with the energy, not that the energy is right. Where short chains from noise
# close it too, the energy has learned to carry noise to something like data in exactly that many steps.

# %%
curves = {
    name: [report.facts["gap"] for report in reports] for name, reports in {"short-run": short, "buffer": kept}.items()
}
gaps = plotting.curves([report.samples for report in kept], curves, title="Energy gap", ylabel="negatives − data")
gaps.savefig(f"{out}/gap.png")

# %% [markdown]
# ## From noise
#
# Both energies get the same chains: as many steps as short-run saw in training, and twenty times more. An energy whose
# landscape is right only gets better; short-run's was never asked what lies beyond its own few steps.


# %%
def generated(energy, steps, start=None):
    """Runs 30 chains and takes the noise away that the energy has learned along with the data."""
    noise = torch.rand(30, *images.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    begin = noise if start is None else start
    chain = es.sample(kernel(energy), begin, steps=steps, burn_in=steps - 1, generator=torch.Generator().manual_seed(2))
    return tweedie(energy, chain.x[0], SIGMA).clamp(-1, 1)


rows = {
    f"{name}, {steps} steps": generated(each, steps)[:10]
    for name, each in {"short-run": short_energy, "buffer": energy}.items()
    for steps in (few, many)
}
plotting.side_by_side(rows).savefig(f"{out}/from-noise.png")

# %% [markdown]
# ## From data, and noise taken away

# %%
clean = images.floats(slice(0, 30))
noisy = clean + 0.6 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
draws = torch.Generator().manual_seed(4)
restored = restore(energy, noisy, sigma=0.6, level=SIGMA, steps=many // 2, burn_in=many // 8, generator=draws).clamp(
    -1, 1
)
gain = float((psnr(restored, clean) - psnr(noisy, clean)).mean())
print(f"noise of 0.6 taken away: {gain:+.1f} dB")
rows = {
    "data": clean[:10],
    "chains from data": generated(energy, many // 4, start=clean)[:10],
    "noisy": noisy[:10].clamp(-1, 1),
    f"restored, {gain:+.1f} dB": restored[:10],
}
plotting.side_by_side(rows).savefig(f"{out}/from-data.png")
