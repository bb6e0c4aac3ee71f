"""Whether chains sample their energy honestly, and whether energies of samples and data are alike."""

from typing import final

import torch

from energyscape.evaluation import acceptance, auc
from energyscape.metrics.evidence import Evidence
from energyscape.metrics.metric import Measure, Metric
from energyscape.noise import noised
from energyscape.recipe.recipe import langevin_step


@final
class EnergiesAlike(Measure):
    """Chance that a sample has a higher energy than a held-out point."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.chains is not None and evidence.source.density is None

    def measure(self, evidence: Evidence) -> list[Metric]:
        trained, stream = evidence.trained, evidence.stream("auc")
        energy, confined = trained.require_energy(), trained.objective.confined
        # The energy is that of noised data: samples that were denoised at the end are noised again.
        again = trained.level if evidence.chains is not None and evidence.chains.tweedie else 0.0
        samples, clean = evidence.generated.x, evidence.held_out.head(min(1_000, evidence.n))
        with torch.no_grad():
            e_model = energy(confined(noised(samples, again, generator=stream)[0]).to(trained.device)).cpu()
            e_data = energy(confined(noised(clean, trained.level, generator=stream)[0]).to(trained.device)).cpu()
        protocol = f"samples above held-out data; 0.5: alike; {evidence.protocol}"
        return [Metric("AUC of energies", auc(e_model, e_data), None, protocol, better="near 0.5")]


@final
class Acceptance(Measure):
    """Acceptance rate of MALA at the sampler's step size: how honest unadjusted chains are."""

    def applies(self, evidence: Evidence) -> bool:
        return evidence.chains is not None

    def measure(self, evidence: Evidence) -> list[Metric]:
        assert evidence.chains is not None
        trained = evidence.trained
        energy = trained.require_energy()
        kernel = evidence.chains.kernel(energy)
        x = evidence.source.draw(256, generator=evidence.stream("probe"))
        x, _ = noised(x, trained.level, generator=evidence.stream("probe noise"))
        step_size = langevin_step(evidence.experiment.recipe.tables["sampler"]["kernel"]) or 0.0
        rate = acceptance(
            energy,
            trained.objective.confined(x).to(trained.device),
            step_size=step_size,
            bounds=kernel.bounds,
            temperature=kernel.temperature or trained.temperature,
            generator=evidence.stream("probe chains", device=trained.device),
        )
        return [Metric("MALA acceptance", rate, None, f"10 steps of η = {step_size:g} from the data", better="higher")]
