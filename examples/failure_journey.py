"""A journey through three failures: a small network, trained well, whose samples are noise, black, and noise again.

It is trained by denoising score matching at one noise level, σ = 0.5, as first attempts are. Each attempt to sample
is asked for its cause by the doctor, which sees only the score, the data and the settings of the chains. One minute.
"""

from pathlib import Path

import torch
from torch.optim import Adam

import energyscape as es
from energyscape import plotting
from energyscape.data import digits
from energyscape.doctor import Chains, Record, diagnose, probe

SIGMA = 0.5


def main(samples: int = 200_000, out: Path = Path("failure-journey.png")) -> dict[str, str]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = digits()
    energy = es.NeuralEnergy(es.ConvEnergyNet(images.shape, width=16))
    objective = es.DenoisingScoreMatching(sigma=SIGMA)
    average = es.averaged(energy, half_life=20_000, batch_size=64)
    for report in es.fit(
        energy, objective, es.batches(images, 64), Adam(energy.parameters(), 1e-3), samples=samples, average=average
    ):
        if report.step % 500 == 0:
            print(f"{report.samples:9,} samples: loss {report.loss:.3f} a pixel; 1 would be a score of zero")
    learned = average.module.eval()

    attempts = {
        # The literature's pair (step 1e-4, noise 0.1) is this temperature: noise² / 2 step = 50.
        "noise": Chains(step_size=1e-4, temperature=50.0, steps=200, sampler_steps=200),
        "black": Chains(step_size=20.0, temperature=0.0, bounds=(-1.0, 1.0), steps=200, sampler_steps=200),
        "noise again": Chains(step_size=SIGMA**2 / 4, steps=200, sampler_steps=200),
    }
    data, named, rows = images.floats(), {}, {"data": images.floats(slice(0, 10))}
    start = 2 * torch.rand(64, *images.shape, generator=torch.Generator().manual_seed(1)) - 1
    for name, chains in attempts.items():
        draws = torch.Generator().manual_seed(2)
        chain = es.sample(chains.kernel(learned), start, steps=200, burn_in=199, generator=draws)
        rows[name] = chain.x[0, :10].clamp(-1, 1)
        probes = probe(learned, data[:400], chains, level=SIGMA, noise=start, generator=draws)
        record = Record(objective="dsm", data_noise=SIGMA, kernel="langevin", chains="sampler")
        finding = diagnose(record, probes)[0]
        named[name] = finding.rule
        print(f"\n{name}: {finding.symptom}\n  {finding.evidence}\n  {finding.cause}\n  {finding.remedy}")
    plotting.side_by_side(rows).savefig(out, dpi=150)
    return named


if __name__ == "__main__":
    main()
