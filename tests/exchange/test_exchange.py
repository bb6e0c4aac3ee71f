"""Exported models are the same functions after import, and other files are refused in one line."""

import json
import math
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import cases
from energyscape.errors import UserError
from energyscape.exchange import Chain, DiffusersUNet, from_diffusers, from_pretrained, save_pretrained, to_diffusers
from energyscape.exchange.onnx import _back_through, to_onnx
from energyscape.models import (
    EDM,
    MODELS,
    Clean,
    DenoisingMLP,
    Epsilon,
    NetworkDenoiser,
    NeuralEnergy,
    ScalarEnergyDenoiser,
    Velocity,
)
from energyscape.registry import build
from energyscape.rng import global_seed

SETTINGS = {
    "neural": {"name": "neural", "network": {"name": "conv", "width": 4, "spectral_norm": True}, "reference_std": 2.0},
    "energy-denoiser": {"name": "energy-denoiser", "network": {"name": "noise-mlp", "width": 8}, "data_std": 0.7},
    "denoiser": {
        "name": "denoiser",
        "network": {"name": "unet", "width": 8, "classes": 3, "attention": [4]},
        "preconditioning": {"name": "edm", "data_std": 0.6},
    },
}
GREY = (1, 8, 8)


def model_of(name, dtype=torch.float32):
    settings = dict(SETTINGS[name])
    with global_seed(1):
        model = build(MODELS, settings.pop("name"), settings, shape=GREY).to(dtype)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def values(model, dtype=torch.float32):
    x = cases.normal(4, *GREY).to(dtype)
    with torch.no_grad():
        if isinstance(model, NeuralEnergy):
            return model(x)
        sigma = torch.linspace(0.1, 3, 4, dtype=dtype)
        return model(x, sigma, None if isinstance(model, ScalarEnergyDenoiser) else torch.tensor([0, -1, 2, 1]))


def written(folder, name="denoiser", dtype=torch.float32):
    model = model_of(name, dtype)
    save_pretrained(model, folder, settings=SETTINGS[name], shape=GREY)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_saved_is_what_is_read(tmp_path, name, dtype):
    model = written(tmp_path / "model", name, dtype)
    before = torch.get_rng_state()
    again = from_pretrained(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())
    assert type(again) is type(model)
    assert not any(each.training for each in again.modules())
    result = values(again, dtype)
    assert result.dtype == dtype
    assert torch.equal(result, values(model, dtype))
    assert sorted(each.name for each in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model"] == SETTINGS[name]
    assert config["shape"] == list(GREY)


def test_settings_that_make_another_model_are_not_saved(tmp_path):
    other = SETTINGS["denoiser"] | {"network": SETTINGS["denoiser"]["network"] | {"width": 16}}
    with pytest.raises(UserError, match=r"the settings do not make this model: .*size mismatch"):
        save_pretrained(model_of("denoiser"), tmp_path / "model", settings=other, shape=GREY)
    with pytest.raises(UserError, match="there is no model named 'denoisr'; did you mean 'denoiser'"):
        save_pretrained(model_of("denoiser"), tmp_path / "model", settings={"name": "denoisr"}, shape=GREY)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    def fails(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(UserError, match=r"cannot write .*model: No space left on device"):
        written(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "model").mkdir()  # an empty folder may be there
    written(tmp_path / "model")
    kept = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="exists and is not overwritten"):
        written(tmp_path / "model", "neural")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == kept


def broken(folder, change):
    written(folder)
    change(folder)
    return folder


def reconfigured(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def reweighed(change_of):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        change_of(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


LAST = "network.last.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, r"there is no such file; expected the config\.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[1]"), "it holds a list and no table"),
        (reconfigured(format="energyscape-model-2"), "its format is 'energyscape-model-2'"),
        (reconfigured(shape=[1, 8, -8]), "a shape is a list of positive whole numbers"),
        (reconfigured(shape=[]), "a shape is a list of positive whole numbers"),
        (reconfigured(shape=[2, 8, 8]), "do not fit together: .*size mismatch"),
        (reconfigured(model={"name": "unet"}), "there is no model named 'unet'"),
        (lambda f: (f / "model.safetensors").unlink(), "there is no such file; expected a whole safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x02hello, I am a pickle"), "never loaded"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-4]),
            "expected a whole safetensors file, it cannot be read",
        ),
        (reweighed(lambda t: t.pop(LAST)), "do not fit together: .*network.last.weight"),
        (reweighed(lambda t: t.update(more=torch.zeros(2))), "do not fit together: .*more"),
        (reweighed(lambda t: t[LAST][0, 0, 0].fill_(math.nan)), f"{LAST}: holds numbers that are not finite"),
        (reconfigured(shape=[10**12]), "network .unet.: "),
        (reconfigured(shape=[1, 10**5, 10**5]), "images are from"),
        (reconfigured(shape=[[[1]]], model=[1]), "do not fit together"),
        (reconfigured(model={"name": ["denoiser"]}), "do not fit together|no model named"),
    ],
)
def test_what_is_no_saved_model_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as raised:
        from_pretrained(broken(tmp_path / "model", change))
    assert "\n" not in str(raised.value)


# Diffusers.


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def theirs(diffusers, **settings):
    with global_seed(2):
        return diffusers.UNet2DModel(
            **{
                "sample_size": (8, 10),
                "in_channels": 1,
                "out_channels": 1,
                "block_out_channels": (4, 8),
                "layers_per_block": 1,
                "norm_num_groups": 2,
                "down_block_types": ("DownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D"),
                "add_attention": False,
            }
            | settings
        ).eval()


def saved(diffusers, folder, unet=None, kind="DDPMScheduler", **settings):
    unet = theirs(diffusers) if unet is None else unet
    scheduler = getattr(diffusers, kind)(**settings)
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return unet, scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_a_denoiser_says_what_the_scheduler_makes_of_its_network(tmp_path, diffusers, prediction, schedule):
    """The independent computation of the clean point is that of DDIM, one step down to nothing."""
    unet, scheduler = saved(
        diffusers, tmp_path, kind="DDIMScheduler", prediction_type=prediction, beta_schedule=schedule, clip_sample=False
    )
    scheduler.set_timesteps(1000)
    denoiser = from_diffusers(tmp_path)
    assert denoiser.network.shape == (1, 8, 10)
    assert not denoiser.network.unet.training
    x_vp = cases.normal(3, 1, 8, 10, dtype=torch.float32)
    for t in (0, 1, 400, 998):
        alpha = float((1 - scheduler.betas[: t + 1].double()).prod()) ** 0.5
        sigma = (1 - alpha**2) ** 0.5 / alpha
        with torch.no_grad():
            truth = scheduler.step(unet(x_vp, t).sample, t, x_vp).pred_original_sample
            output = denoiser(x_vp / alpha, torch.full((3,), sigma))
        # In float32, of x of size σ.
        assert torch.allclose(output, truth, atol=1e-5 * max(1, sigma)), t


def test_between_two_steps_of_a_chain_and_beyond_its_ends():
    chain = Chain(Velocity(), (0.01, 0.1, 1.0, 50.0))
    sigma = torch.tensor([1e-4, 0.01, 10**-1.5, 0.1, 1.0, 50**0.25, 50.0, 1e3], dtype=torch.float64)
    skip, out, inside, noise = chain(sigma)
    assert torch.allclose(noise, torch.tensor([0, 0, 0.5, 1, 2, 2.25, 3, 3], dtype=torch.float64), rtol=1e-9)
    assert [each.tolist() for each in (skip, out, inside)] == [each.tolist() for each in Velocity()(sigma)[:3]]
    for levels in ((1.0,), (1.0, 1.0), (0.0, 1.0), (1.0, math.inf), (2.0, 1.0)):
        with pytest.raises(ValueError, match="at least two noise levels, positive and rising"):
            Chain(Epsilon(), levels)


def test_a_chain_that_ends_in_pure_noise(tmp_path, diffusers):
    settings = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "num_train_timesteps": 50}
    _, scheduler = saved(diffusers, tmp_path, kind="DDIMScheduler", **settings)
    levels = from_diffusers(tmp_path).preconditioning.levels
    assert float(scheduler.alphas_cumprod[-1]) == 0
    assert len(levels) == 49
    assert levels[-1] == pytest.approx(float((1 / scheduler.alphas_cumprod[-2].double() - 1).sqrt()), rel=1e-6)


@pytest.mark.parametrize("predicted", [Epsilon(), Clean(data_std=1.0), Velocity()], ids=lambda row: type(row).__name__)
def test_ours_become_theirs_and_ours_again(tmp_path, diffusers, predicted):
    levels = tuple(torch.logspace(-2, 1.5, 30).tolist())
    ours = NetworkDenoiser(DiffusersUNet(theirs(diffusers)), Chain(predicted, levels))
    to_diffusers(ours, tmp_path / "pipeline")
    again = from_diffusers(tmp_path / "pipeline")
    assert again.preconditioning.predicted == predicted
    assert again.preconditioning.levels == pytest.approx(levels, rel=1e-5)  # their table is one of float32
    x, sigma = 3 * cases.normal(4, 1, 8, 10, dtype=torch.float32), torch.tensor([0.01, 0.2, 3.0, 30.0])
    with torch.no_grad():
        assert torch.allclose(again(x, sigma), ours(x, sigma), atol=1e-4)
    with pytest.raises(UserError, match="exists and is not overwritten"):
        to_diffusers(ours, tmp_path / "pipeline")


def test_ddpm_of_ours_is_their_default_scheduler(tmp_path, diffusers):
    to_diffusers(NetworkDenoiser(DiffusersUNet(theirs(diffusers)), Epsilon()), tmp_path / "pipeline")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "pipeline", low_cpu_mem_usage=False)
    assert torch.equal(pipeline.scheduler.alphas_cumprod, diffusers.DDPMScheduler().alphas_cumprod)
    settings = json.loads((tmp_path / "pipeline" / "scheduler" / "scheduler_config.json").read_text())
    assert settings["trained_betas"] is None
    sigma = torch.tensor([0.02, 0.5, 100.0], dtype=torch.float64)
    ours, read = Epsilon()(sigma), from_diffusers(tmp_path / "pipeline").preconditioning(sigma)
    assert torch.allclose(ours.noise, read.noise, atol=1e-3)  # their table is one of float32


def test_classes_of_theirs(tmp_path, diffusers):
    unet, _ = saved(diffusers, tmp_path, theirs(diffusers, num_class_embeds=3))
    denoiser = from_diffusers(tmp_path)
    assert denoiser.network.classes == denoiser.classes == 3
    x, sigma, label = cases.normal(2, 1, 8, 10, dtype=torch.float32), torch.ones(2), torch.tensor([2, 0])
    t = denoiser.preconditioning(sigma).noise
    with torch.no_grad():
        truth = x - unet(x * 0.5**0.5, t, class_labels=label).sample
        assert torch.allclose(denoiser(x, sigma, label), truth, atol=1e-6)
    with pytest.raises(UserError, match="knows 3 classes and needs a label"):
        denoiser(x, sigma)
    with pytest.raises(UserError, match="it takes no label"):
        DiffusersUNet(theirs(diffusers))(x, sigma, label)


def test_networks_of_theirs_that_are_no_denoisers(diffusers):
    with pytest.raises(UserError, match="1 in and 2 out"):
        DiffusersUNet(theirs(diffusers, out_channels=2))
    with pytest.raises(UserError, match="of the kind 'timestep' are not supported"):
        DiffusersUNet(theirs(diffusers, class_embed_type="timestep"))


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (lambda d: NetworkDenoiser(DenoisingMLP(2), Epsilon()), "the denoiser's is a DenoisingMLP"),
        (lambda d: NetworkDenoiser(DiffusersUNet(theirs(d)), EDM()), "the preconditioning is epsilon or a Chain.*EDM"),
        (lambda d: NetworkDenoiser(DiffusersUNet(theirs(d)), Chain(EDM(), (0.1, 1.0))), "of one of those"),
    ],
)
def test_denoisers_that_diffusers_does_not_know(tmp_path, diffusers, denoiser, message):
    with pytest.raises(UserError, match=message):
        to_diffusers(denoiser(diffusers), tmp_path / "pipeline")
    assert list(tmp_path.iterdir()) == []


def resettled(part, **changes):
    def change(folder):
        path = folder / part
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def without_one(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("conv_in.bias")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "model_index.json: there is no such file"),
        (resettled("model_index.json", unet=["diffusers", "UNet2DConditionModel"]), "names UNet2DConditionModel with"),
        (resettled("model_index.json", unet=None), "names no unet with DDPMScheduler"),
        (resettled("model_index.json", scheduler=["diffusers", "ScoreSdeVeScheduler"]), "with ScoreSdeVeScheduler"),
        (lambda f: (f / "scheduler/scheduler_config.json").write_text("no"), "scheduler_config.json: expected"),
        (resettled("scheduler/scheduler_config.json", prediction_type="epsilom"), "did you mean 'epsilon'"),
        (
            resettled("scheduler/scheduler_config.json", beta_schedule="none"),
            "that diffusers can read, it cannot be",
        ),
        (lambda f: (f / "unet/config.json").unlink(), "config.json: there is no such file"),
        (lambda f: (f / WEIGHTS).rename(f / "unet/diffusion_pytorch_model.bin"), "in a pickle .* are never loaded"),
        (lambda f: (f / WEIGHTS).write_bytes(b"nothing much"), "that diffusers can read, it cannot be"),
        (without_one, "1 weights do not fit the network, such as conv_in.bias"),
    ],
)
def test_what_is_no_folder_of_theirs_is_refused_in_one_line(tmp_path, diffusers, change, message):
    saved(diffusers, tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        from_diffusers(tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_not_installed_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs diffusers.*pip install 'energyscape\[diffusers\]'"):
        from_diffusers(tmp_path)
    with pytest.raises(UserError, match=r"needs onnxruntime.*pip install 'energyscape\[export\]'"):
        to_onnx(model_of("neural"), tmp_path / "e.onnx", shape=GREY)


# ONNX.


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


def run_file(runtime, path, **points):
    session = runtime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == list(points)
    (out,) = session.run(None, {name: each.numpy() for name, each in points.items()})
    return [each.name for each in session.get_outputs()], torch.from_numpy(out)


def test_an_energy_as_a_file(tmp_path, runtime):
    energy = NeuralEnergy(nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)), reference_std=2.0)
    path = tmp_path / "energy.onnx"
    assert to_onnx(energy, path, shape=(2,)) < 1e-5
    x = cases.normal(7, 2, dtype=torch.float32)
    names, output = run_file(runtime, path, x=x)
    assert names == ["energy"]
    assert torch.allclose(output, energy(x).detach(), atol=1e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["energy.onnx"]
    with pytest.raises(UserError, match="exists and is not overwritten"):
        to_onnx(energy, path, shape=(2,))
    assert all(each.requires_grad for each in energy.parameters())
    assert energy.training


def test_a_denoiser_with_classes_as_a_file(tmp_path, runtime):
    with global_seed(0):
        denoiser = NetworkDenoiser(DenoisingMLP(2, width=8, depth=1, classes=2), EDM(data_std=0.7))
        for parameter in denoiser.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    to_onnx(denoiser, tmp_path / "d.onnx", shape=(2,), labels=True)
    x, sigma, label = cases.normal(4, 2, dtype=torch.float32), torch.rand(4) + 0.1, torch.tensor([0, 1, -1, 1])
    names, output = run_file(runtime, tmp_path / "d.onnx", x=x, sigma=sigma, label=label)
    assert names == ["denoised"]
    assert torch.allclose(output, denoiser(x, sigma, label).detach(), atol=1e-5)
    assert float((output - denoiser(x, sigma).detach()).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation", "groups"),
    [(9, 2, 1, 1, 1), (8, 2, 1, 1, 2), (8, 1, 2, 2, 1), (7, 3, 0, 1, 1)],
)
def test_the_derivative_of_a_convolution_is_a_convolution(size, stride, padding, dilation, groups):
    x, weight = cases.normal(2, 4, size, 10).requires_grad_(), cases.normal(6, 4 // groups, 3, 3, seed=1)
    y = functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    slope = cases.normal(*y.shape, seed=2)
    (truth,) = torch.autograd.grad(y, x, slope)
    settings = ([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups, [True, False, False])
    back, *rest = _back_through(slope, x, weight, None, *settings)
    assert rest == [None, None]
    assert torch.allclose(back, truth, rtol=1e-10)


@pytest.mark.slow
def test_the_denoiser_of_an_energy_as_a_file(tmp_path, runtime):
    with global_seed(0):
        denoiser = build(MODELS, "energy-denoiser", {"network": "noise-mlp", "data_std": 0.7}, shape=(2,))
    to_onnx(denoiser, tmp_path / "d.onnx", shape=(2,))
    x, sigma = cases.normal(4, 2, dtype=torch.float32), torch.rand(4) + 0.1
    _, output = run_file(runtime, tmp_path / "d.onnx", x=x, sigma=sigma)
    assert torch.allclose(output, denoiser(x, sigma).detach(), atol=1e-5)
    to_onnx(denoiser.at(0.5), tmp_path / "e.onnx", shape=(2,))
    names, output = run_file(runtime, tmp_path / "e.onnx", x=x)
    assert names == ["energy"]
    assert torch.allclose(output, denoiser.at(0.5)(x).detach(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoiser", "neural", "energy-denoiser"])
def test_image_models_as_files(tmp_path, runtime, name):
    model = model_of(name)
    if name == "energy-denoiser":
        model = build(MODELS, name, {"network": "noise-conv", "data_std": 0.7}, shape=GREY)
    assert to_onnx(model, tmp_path / "m.onnx", shape=GREY, labels=name == "denoiser") < 1e-4


@pytest.mark.slow
def test_what_onnx_has_no_word_for(tmp_path, runtime):
    class Sorted(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x.reshape(-1, 2, 2)).sum(1)

    with pytest.raises(UserError, match=r"NeuralEnergy cannot be written as ONNX: .*svd") as raised:
        to_onnx(NeuralEnergy(Sorted()), tmp_path / "m.onnx", shape=(4,))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_file_that_says_something_else_is_not_written(tmp_path, runtime):
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x.square().sum(1) * self.calls

    with pytest.raises(UserError, match=r"the exported values differ by .*: nothing was written"):
        to_onnx(NeuralEnergy(Counting()), tmp_path / "m.onnx", shape=(2,))
    assert list(tmp_path.iterdir()) == []
