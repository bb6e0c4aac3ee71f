# %% [markdown]
# # What the replay buffer changes
#
# Train the same energy twice on images by contrastive divergence. Short-run chains start at uniform noise in every
# training step and take 20 steps. Chains of a replay buffer continue from their last positions and take 4. This
# notebook compares the curves of both trainings and their samples from noise. Then it uses the better energy to
# generate from data and to remove noise.
#
# This file is a notebook: every `# %%` begins a cell. It also runs as a script, in a quarter of an hour on one core.
# On 8×8 digits, which need no download, it takes five minutes: `settings = {"images": es.data.digits()}`.

# %%
from functools import partial

import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting
from energyscape.data import mnist
from energyscape.evaluation import psnr, restore
from energyscape.noise import tweedie

# Set these names before you run this file, to use other images, smaller numbers or another folder.
settings = globals().get("settings", {})
images = settings.get("images") or mnist()
samples, width, out = settings.get("samples", 64_000), settings.get("width", 8), settings.get("out", ".")
few, many = settings.get("steps", (20, 400))
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# Noise the data at σ = 0.3, so that the energy is smooth. With E = f/σ² + |x|²/2σ², the gradient of the network f is a
# denoiser. The energy is calibrated: chains at temperature 1 sample the noised data.

# %%
SIGMA = 0.3
kernel = partial(es.Langevin, step_size=SIGMA**2 / 4)


def trained(start, steps):
    """Train one energy; return it and the report of each step."""
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
    """Raise the learning rate over 16,000 samples and let it fall to 0 at the end."""
    return min(1.0, seen / 16_000) * (1 - progress)


short_energy, short = trained(es.NoiseInit(), steps=few)
energy, kept = trained(es.ReplayBuffer(1_024, refresh=0.01), steps=4)

# %% [markdown]
# ## The curves
#
# A gap near zero means that chains keep up with the energy, not that the energy is right. If short chains from noise
# close it, the energy has learned to carry noise to something like data in exactly that many steps.

# %%
curves = {
    name: [report.facts["gap"] for report in reports] for name, reports in {"short-run": short, "buffer": kept}.items()
}
gaps = plotting.curves([report.samples for report in kept], curves, title="Energy gap", ylabel="negatives − data")
gaps.savefig(f"{out}/gap.png")

# %% [markdown]
# ## From noise
#
# Both energies get the same chains: as many steps as short-run training used, and twenty times more. Samples of a
# right landscape improve with more steps. Short-run training never saw chains beyond its own few steps.


# %%
def generated(energy, steps, start=None):
    """Run 30 chains and remove the noise that the energy has learned with the data."""
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
# ## From data, and noise removed

# %%
clean = images.floats(slice(0, 30))
noisy = clean + 0.6 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
draws = torch.Generator().manual_seed(4)
restored = restore(energy, noisy, sigma=0.6, level=SIGMA, steps=many // 2, burn_in=many // 8, generator=draws).clamp(
    -1, 1
)
gain = float((psnr(restored, clean) - psnr(noisy, clean)).mean())
print(f"noise of 0.6 removed: {gain:+.1f} dB")
rows = {
    "data": clean[:10],
    "chains from data": generated(energy, many // 4, start=clean)[:10],
    "noisy": noisy[:10].clamp(-1, 1),
    f"restored, {gain:+.1f} dB": restored[:10],
}
plotting.side_by_side(rows).savefig(f"{out}/from-data.png")
