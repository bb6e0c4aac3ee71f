"""Train your first landscape: learn an energy from points, then sample new points. Half a minute on one core."""

from functools import partial
from pathlib import Path

import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting
from energyscape.evaluation import kl

BOX = ((-4.5, 4.5), (-4.5, 4.5))


def falling(progress: float, samples: int) -> float:
    return 1 - progress


def main(samples: int = 1_000_000, out: Path = Path("first-landscape.png")) -> float:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    law = es.EightGaussians()

    # An energy is any function from points to one number each. Low is likely: p(x) = exp(-E(x)) / Z.
    energy = es.NeuralEnergy(es.MLP(2, width=128), reference_std=3.0)

    # Z is unknown. Noise-contrastive estimation asks instead: is this point data, or noise of a known density?
    objective = es.NoiseContrastiveEstimation()
    optimiser = Adam([*energy.parameters(), *objective.parameters()], lr=3e-3)
    average = es.averaged(energy, half_life=50_000, batch_size=256)
    data = es.batches(law, 256)
    for report in es.fit(energy, objective, data, optimiser, samples=samples, average=average, schedule=falling):
        if report.step % 500 == 0:
            print(f"{report.samples:9,} samples: separates data from noise in {report.facts['accuracy']:.1%} of cases")
    learned = average.module

    # In the plane you can compute the truth: how many nats the landscape loses to the true density.
    loss = kl(law, learned).value
    print(f"KL(data‖model) = {loss:.4f} nats")

    # A sampler walks downhill with noise. This one accepts or rejects each step, so it samples exp(-E) exactly.
    kernel = partial(es.MALA, step_size=0.1)(learned)
    chain = es.sample(kernel, 8 * torch.rand(1_000, 2) - 4, steps=300, burn_in=299)
    print(f"the sampler accepts {chain.accept_prob.mean():.0%} of its steps")

    axes = [torch.linspace(low, high, 300) for low, high in BOX]
    grid = learned(torch.cartesian_prod(*axes)).reshape(300, 300)
    title = "data, the landscape they became, samples from it"
    row = plotting.Multiple("NCE", f"KL {loss:.3f}", law.sample(1_000), grid, chain.x[0])
    plotting.small_multiples([row], BOX, title=title).savefig(out, dpi=200)
    return loss


if __name__ == "__main__":
    main()
