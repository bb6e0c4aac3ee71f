"""Get noise, black and white, and noise again from one well-trained network, and ask the doctor for each cause.

The network learns by denoising score matching at one noise level, σ = 0.5, as first attempts do. The doctor sees the
energy, the data and the settings of the chains. Two minutes.
"""

from pathlib import Path

import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting
from energyscape.doctor import Chains, diagnose, probe

SIGMA = 0.5
ATTEMPTS = {
    # As a pair: a step of 10⁻⁴, and noise of 0.1 where √(2 · 10⁻⁴) = 0.014 belongs. T = 0.1² / 2 · 10⁻⁴ = 50.
    "noise": Chains(step_size=1e-4, temperature=50.0),
    "black and white": Chains(step_size=20.0, temperature=0.0, bounds=(-1.0, 1.0)),
    "noise again": Chains(step_size=SIGMA**2 / 4),
}


def main(
    samples: int = 200_000, steps: int = 200, images: es.Images | None = None, out: Path = Path("failure-journey.png")
) -> dict[str, str]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = es.digits() if images is None else images
    energy = es.NeuralEnergy(es.ConvEnergyNet(images.shape, width=16))
    average = es.averaged(energy, half_life=20_000, batch_size=64)
    objective, adam = es.DenoisingScoreMatching(sigma=SIGMA), Adam(energy.parameters(), 1e-3)
    for report in es.fit(energy, objective, es.batches(images, 64), adam, samples=samples, average=average):
        if report.step % 500 == 0:
            print(f"{report.samples:9,} images seen: {report.facts['relative']:.3f} of the noise is left")
    learned = average.module.eval()

    data, named = images.floats(slice(0, 512)), {}
    rows = {"data": data[:10], f"data, σ = {SIGMA}": data[:10] + SIGMA * torch.randn(data[:10].shape)}
    start = 2 * torch.rand(64, *images.shape) - 1
    for name, settings in ATTEMPTS.items():
        chains, draws = settings._replace(sampler_steps=steps), torch.Generator().manual_seed(1)
        rows[name] = es.run(chains.kernel(learned), start[:10], steps=steps, generator=draws)[0].x
        probes = probe(learned, data, chains, level=SIGMA, noise=start, generator=draws)
        finding = diagnose(chains.record(objective="dsm", network="conv", data_noise=SIGMA), probes)[0]
        named[name] = finding.rule
        print(f"\n{name}: {finding.symptom}\n  {finding.evidence}\n  {finding.cause}\n  {finding.advice}")
    plotting.side_by_side({name: row.clamp(-1, 1) for name, row in rows.items()}).savefig(out, dpi=150)
    return named


if __name__ == "__main__":
    main()
