"""Show three ways in which a chain fails on a right landscape, and the numbers that separate them. Seconds.

Unstable: the step is larger than the valley, and drift dwarfs noise. Frozen: the step is so small that chains stay
near their start. Noise-dominated: the temperature drowns the energy, and the landscape no longer matters.
"""

from pathlib import Path

import torch

import energyscape as es
from energyscape import plotting
from energyscape.evaluation import diagnose

BOX = ((-4.5, 4.5), (-4.5, 4.5))


def main(steps: int = 2_000, out: Path = Path("how-samplers-fail.png")) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    law, draws = es.EightGaussians(), torch.Generator().manual_seed(0)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return -law.log_prob(x)

    # Each Gaussian has the variance .354² = .125: Langevin steps of 2 × .125 = .25 and more leave its valley.
    kernels = {
        "healthy": es.MALA(energy, step_size=0.1),
        "unstable": es.Langevin(energy, step_size=0.4),
        "frozen": es.Langevin(energy, step_size=1e-6),
        "noise-dominated": es.Langevin(energy, step_size=0.01, temperature=100.0),
    }
    axes = [torch.linspace(low, high, 250) for low, high in BOX]
    grid = energy(torch.cartesian_prod(*axes)).reshape(250, 250)
    start = 0.3 * torch.randn(32, 2, generator=draws)  # near the hill in the middle
    rows, numbers = [], {}
    for name, kernel in kernels.items():
        chain = es.sample(kernel, start, steps=steps, burn_in=steps // 2, generator=draws)
        found = {
            "drift / noise": float(chain.drift.mean() / chain.noise.mean()),
            "moved": float((chain.x[-1] - start).norm(dim=1).median()),
            "mean energy": float(chain.energy.mean()),
            "R-hat": float(diagnose(chain).r_hat.max()),
        }
        numbers[name] = found
        print(f"{name:16}", "  ".join(f"{key} {value:10.3g}" for key, value in found.items()))
        rows.append(plotting.Multiple(name, f"energy {found['mean energy']:.3g}", law.sample(600), grid, chain.x[-1]))
    print(f"exact samples have the mean energy {law.entropy:.3g}")
    plotting.small_multiples(rows, BOX, title="one landscape, four samplers").savefig(out, dpi=150)
    return numbers


if __name__ == "__main__":
    main()
