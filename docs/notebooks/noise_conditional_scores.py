# %% [markdown]
# # Noise-conditional scores
#
# Train one network on the score of the data at a geometric schedule of noise levels, then sample it by annealed
# Langevin dynamics, from the highest level to the lowest. This notebook chooses the levels, trains, shows samples on
# their way down, and repeats it with a network conditional on the class.
#
# This file is a notebook: every `# %%` begins a cell. It also runs as a script, in three minutes on one core, on 8×8
# digits that need no download. `settings = {"images": es.mnist(), "width": 64}` runs it on MNIST.

# %%
import math

import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting

# Set these names before you run this file, to use other images, smaller numbers or another folder.
settings = globals().get("settings", {})
images = settings.get("images") or es.digits()
samples, width, out = settings.get("samples", 300_000), settings.get("width", 256), settings.get("out", ".")
torch.manual_seed(0)
torch.set_num_threads(1)

# %% [markdown]
# ## Which levels
#
# The highest level must hide the data. Make it as large as the largest distance between two images; otherwise chains
# stay near their start. The lowest level should be invisible. Noise of neighbouring levels must overlap. In d
# dimensions the length of N(0, σ²) is σ√d with a deviation of σ/√2, so a ratio of 1 + 1/√(2d) is about one deviation.

# %%
x = images.floats(slice(0, 500)).flatten(1)
farthest, size = float(torch.pdist(x).max()), float(x.square().mean().sqrt())
low, high = 0.05, farthest / 2
rungs = min(40, math.ceil(math.log(high / low) / math.log(1 + 2 / math.sqrt(2 * x.shape[1]))) + 1)
print(f"largest distance {farthest:.1f}, root mean square {size:.2f}: {rungs} levels from {high:.2f} down to {low}")

# %% [markdown]
# ## Training
#
# The network predicts the noise that was added, at a random level. The weight 1/σ² gives every level the same weight.


# %%
def trained(classes: int):
    """Train one denoiser; return it with averaged weights, and the report of each step."""
    network = es.DenoisingMLP(images.shape, width=width, classes=classes)
    model = es.NetworkDenoiser(network, es.EDM(data_std=size))
    objective = es.Denoising(
        levels=es.GeometricSchedule(sigma_min=low, sigma_max=high, rungs=rungs),
        weight=es.NoiseWeight(),
        label_dropout=0.1 if classes else None,
    )
    average = es.averaged(model, half_life=20_000, batch_size=128)
    optimiser = Adam(model.parameters(), lr=1e-3)
    run = es.fit(
        model,
        objective,
        es.batches(images, 128),
        optimiser,
        samples=samples,
        schedule=lambda progress, _: 1 - progress,
        average=average,
    )
    return average.module.eval(), list(run)


model, reports = trained(classes=0)
bands = {
    name: [report.facts[f"relative_{name}"] for report in reports if report.facts[f"relative_{name}"] > 0]
    for name in ("low", "middle", "high")
}
length = min(map(len, bands.values()))
plotting.curves(
    [report.samples for report in reports][-length:],
    {f"{name} third": values[-length:] for name, values in bands.items()},
    title="What is left of the noise, by level",
    ylabel="E|D − x|² / dσ²",
).savefig(f"{out}/levels.png")

# %% [markdown]
# ## Down the levels

# %%
levels = es.Geometric(sigma_min=low, sigma_max=high)(rungs)


def generated(denoise, n: int):
    """Return the states of n samples on their way down."""
    noise = torch.Generator().manual_seed(1)
    solver = es.NoiseAnnealedLangevin(denoise, levels, steps_each=5)
    begin = levels[0] * torch.randn(n, *images.shape, generator=noise)
    return [begin, *(state.x for state in es.solve(solver, begin, generator=noise))]


path = generated(model, 100)
plotting.image_grid(path[-1].clamp(-1, 1), columns=10).savefig(f"{out}/samples.png")
at = [round(k * rungs / 8) for k in range(9)]
plotting.evolution(torch.stack([path[k][:6].clamp(-1, 1) for k in at]), at).savefig(f"{out}/evolution.png")

# %% [markdown]
# ## A class at a time
#
# Train the same network with the class as input in nine cases of ten. Each row shows one class.

# %%
conditional, _ = trained(classes=len(images.classes))
label = torch.arange(len(images.classes)).repeat_interleave(10)
rows = generated(lambda y, sigma: conditional(y, sigma, label), len(label))[-1]
plotting.image_grid(rows.clamp(-1, 1), columns=10).savefig(f"{out}/classes.png")
