"""Tests that need a GPU: CUDA graphs, compiled chains, training, and host syncs."""

import functools
import json
import warnings

import pytest
import torch

import cases
from energyscape import fit
from energyscape.models import MLP, ConvEnergyNet, NetworkDenoiser, NeuralEnergy
from energyscape.models.preconditioning import EDM
from energyscape.models.unet import UNet
from energyscape.objectives import Denoising
from energyscape.objectives.level_weights import EDMWeight
from energyscape.rng import global_seed
from energyscape.samplers import HMC, MALA, Langevin, Steps, UnderdampedLangevin, run, sample
from energyscape.schedules import LogNormal
from energyscape.training import averaged

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

KERNELS = {
    "langevin": functools.partial(Langevin, step_size=0.02, drift_clip=0.5, bounds=(-3.0, 3.0)),
    "mala": functools.partial(MALA, step_size=0.05),
    "hmc": functools.partial(HMC, step_size=0.1, leapfrog_steps=3),
    "long hmc": functools.partial(HMC, step_size=0.05, leapfrog_steps=13, jitter=0.5),
    "underdamped": functools.partial(UnderdampedLangevin, step_size=0.1),
}


def energy(shape=(2,)):
    with global_seed(0):
        network = MLP(2, width=16) if shape == (2,) else ConvEnergyNet(shape, width=8)
    return NeuralEnergy(network, reference_std=2.0).cuda()


def stream(seed=1):
    return torch.Generator("cuda").manual_seed(seed)


def start(*shape):
    return cases.normal(*shape, dtype=torch.float32).cuda()


@pytest.mark.parametrize("compile", ["auto", True])
@pytest.mark.parametrize("name", KERNELS)
def test_fast_chains_are_the_plain_ones(name, compile):
    """In float64, so that no Metropolis test is decided by rounding."""
    e = energy().double()
    kernel, x = KERNELS[name](e), start(64, 2).double()
    plain, fast = (
        sample(kernel, x, steps=125, burn_in=5, thin=40, compile=each, generator=stream()) for each in (False, compile)
    )
    for one, other in zip(plain[:-1], fast[:-1], strict=True):
        assert torch.allclose(one, other, atol=1e-8, rtol=1e-8)
    assert all(each.grad is None and each.requires_grad for each in e.parameters())


def test_images_are_recorded_too():
    kernel, x = KERNELS["langevin"](energy((1, 28, 28))), start(32, 1, 28, 28)
    plain, fast = (run(kernel, x, steps=110, compile=each, generator=stream())[0].x for each in (False, "auto"))
    assert torch.allclose(plain, fast, atol=1e-3)


def test_a_recording_reads_the_weights_as_they_are():
    e, x = energy(), start(16, 2)
    kernel = KERNELS["langevin"](e)
    taken = Steps(kernel, steps=100, compile="auto")
    ends = [list(taken(kernel.init(x), generator=stream()))[-1][0].x]
    with torch.no_grad():
        for each in e.parameters():
            each.mul_(0.5)
    ends.append(list(taken(kernel.init(x), generator=stream()))[-1][0].x)
    assert not torch.allclose(*ends)
    assert torch.allclose(ends[1], run(kernel, x, steps=100, generator=stream())[0].x, atol=1e-4)


def test_what_a_step_told_stays_when_the_next_ones_are_taken():
    kernel, x = KERNELS["mala"](energy()), start(16, 2)
    reports = list(Steps(kernel, steps=100, compile="auto")(kernel.init(x), generator=stream()))
    again = list(Steps(kernel, steps=100, compile=False)(kernel.init(x), generator=stream()))
    assert all(torch.allclose(a.x, b.x, atol=1e-3) for (a, _), (b, _) in zip(reports, again, strict=True))


def test_an_energy_that_waits_goes_on_unrecorded():
    def waiting(x):
        return x.square().sum(1) * (1 if float(x.sum()) < 1e9 else 2)

    kernel, x = Langevin(waiting, step_size=0.1), start(8, 2)
    with pytest.warns(UserWarning, match="go on uncompiled"):
        end, _ = run(kernel, x, steps=100, compile="auto", generator=stream())
    assert torch.equal(end.x, run(kernel, x, steps=100, generator=stream())[0].x)


def denoiser():
    with global_seed(0):
        net = UNet((3, 16, 16), width=32, multipliers=(1, 2), attention=(8,), patch=1, classes=3)
    return NetworkDenoiser(net, EDM(data_std=0.5)).cuda()


def trained(compile, *, steps=30):
    model, x = denoiser(), start(32, 3, 16, 16).clamp(-1, 1)
    objective = Denoising(levels=LogNormal(), weight=EDMWeight(data_std=0.5), label_dropout=0.1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    average = averaged(model, half_life=100.0, batch_size=32)
    batches = [(x, torch.arange(32, device="cuda") % 3)] * steps
    reports = list(fit(model, objective, batches, adam, average=average, clip=1.0, compile=compile))
    return model, average, [each.loss for each in reports]


def test_a_compiled_denoiser_learns_what_a_plain_one_does():
    _, _, plain = trained(False)
    model, average, fast = trained(True)
    assert model.network.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert average.module.network.first.weight.is_contiguous(memory_format=torch.channels_last)
    assert fast[:5] == pytest.approx(plain[:5], rel=1e-2)
    assert sum(fast[-5:]) == pytest.approx(sum(plain[-5:]), rel=0.1)


@pytest.mark.parametrize("recipe", ["digits-pcd", "digits-ncsn", "8gaussians-cd-hmc", "8gaussians-edm"])
def test_recipes_train_resume_and_sample_on_a_gpu(recipe, cli, tmp_path):
    words = "train", recipe, "--train.budget", "20k", "--train.checkpoint_every", "5000", "--train.log_every", "1"
    status, _, result = cli(*words, "--out", "run")
    assert status == 0, result
    assert json.loads((tmp_path / "run" / "run.json").read_text())["device"] == "cuda"
    max((tmp_path / "run" / "checkpoints").glob("*.safetensors")).unlink()
    status, out, result = cli(*words, "--out", "run")
    assert status == 0, result
    assert "going on at sample" in out + result
    for words in (("sample", "run", "--n", "16"), ("evaluate", "run", "--n", "100"), ("doctor", "run")):
        status, _, result = cli(*words)
        assert status in (0, 1), result


@pytest.mark.parametrize("recipe", ["digits-pcd", "digits-ncsn"])
def test_a_step_waits_for_the_gpu_once(recipe):
    from energyscape.recipe import Experiment, Recipe

    run = Experiment(Recipe.named(recipe)).fit()
    for _ in range(5):
        next(run)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            next(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{each.filename}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]
    assert len(waits) == 1, waits
