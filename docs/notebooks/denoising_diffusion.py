# %% [markdown]
# # Denoising diffusion on photographs
#
# Train a U-Net to predict the noise at the levels of DDPM, then sample it with four solvers: the ancestral chain, DDIM,
# Heun's method and DPM-Solver++. All of them work on the same network, because a solver only sees a function of a point
# and a noise level.
#
# This file is a notebook: every `# %%` begins a cell. As it stands it runs for a quarter of an hour on two cores and
# makes blots with the colours of photographs. On a GPU it makes photographs in a few hours with `settings =
# {"width": 128, "blocks": 2, "samples": 50_000_000}`.

# %%
import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting
from energyscape.schedules import LinearBeta

# Set these names before you run this file, to use other images, smaller numbers or another folder.
settings = globals().get("settings", {})
images = settings.get("images") or es.cifar10()
samples, width, blocks = settings.get("samples", 20_000), settings.get("width", 32), settings.get("blocks", 1)
out = settings.get("out", ".")
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)

# %% [markdown]
# ## Training
#
# ε-prediction: D(x, σ) = x − σ ε(x / √(1 + σ²), t). The loss is the squared error of ε.

# %%
network = es.UNet(images.shape, width=width, multipliers=(1, 2, 2), blocks=blocks, patch=1)
model = es.NetworkDenoiser(network, es.Epsilon()).to(device)
average = es.averaged(model, half_life=samples / 20, batch_size=64)
run = es.fit(
    model,
    es.Denoising(levels=LinearBeta(), weight=es.NoiseWeight()),
    es.batches(images, 64, device=device, flips=True),
    Adam(model.parameters(), lr=5e-4),
    samples=samples,
    schedule=lambda progress, seen: min(1.0, seen / (samples / 20)) * (1 - progress),
    clip=1.0,
    average=average,
)
reports = list(run)
plotting.curves(
    [report.samples for report in reports],
    {"loss": [report.loss for report in reports]},
    title="Squared error of the predicted noise",
    ylabel="loss",
).savefig(f"{out}/loss.png")

# %% [markdown]
# ## Four ways down from the same noise

# %%
denoiser = average.module.eval()
ways = {
    "DDPM": es.DDPM(denoiser, LinearBeta()(settings.get("ancestral", 100))),
    "DDIM": es.DDIM(denoiser, LinearBeta()(20)),
    "Heun": es.Heun(denoiser, es.Karras(sigma_min=0.02, sigma_max=80.0)(10)),
    "DPM-Solver++": es.DPMSolver(denoiser, es.Karras(sigma_min=0.02, sigma_max=80.0)(20)),
}
rows = {}
for name, solver in ways.items():
    draws = torch.Generator(device).manual_seed(2)
    x = solver.start(torch.randn(8, *images.shape, generator=draws, device=device))
    for state in es.solve(solver, x, generator=draws):
        x = state.x
    rows[f"{name}, {solver.nfe} evaluations"] = x.clamp(-1, 1).cpu()
plotting.side_by_side({"real": images.floats(slice(0, 8)), **rows}).savefig(f"{out}/ways.png")
