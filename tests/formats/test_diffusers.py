"""Pipeline folders of diffusers become models: their networks, schedulers and samples are diffusers', on tiny random ones."""

import dataclasses
import inspect
import json
import warnings

import numpy
import pytest
import torch
from examples import one_in
from packages import package
from tiny_diffusers import network, randomised, written

import pushforward as pf
from pushforward.errors import CheckpointError, ConfigError, NoCheckpointError, UserError
from pushforward.paths.discrete import Discrete
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.knots import Knots

diffusers = package("diffusers")
STEPS = torch.tensor([0, 1, 500, 999])
RESIDUAL = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (8, 12, 16),
}
NETWORKS = {
    "plain": {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    "attention": {},
    "ddpm-cifar10": {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "attention_head_dim": None},
    "scale_shift": {"resnet_time_scale_shift": "scale_shift", "in_channels": 3, "out_channels": 3, "layers_per_block": 2},
    "norm groups": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8, "norm_num_groups": 2, "attention_head_dim": 8},
    "centred": {"center_input_sample": True, "time_embedding_dim": 20},
    "classes": {"num_class_embeds": 5},
    "variance": {"out_channels": 2},
    "no middle": {"mid_block_type": None},
    "no middle attention": {"add_attention": False, "mid_block_scale_factor": 1.5},
    "middle scale": {"mid_block_scale_factor": 1.4142},
    "resnet": {**RESIDUAL, "downsample_type": "resnet", "upsample_type": "resnet"},
    "resnet blocks": RESIDUAL,
    "rectangle": {"sample_size": [8, 12]},
}


def scheduler_of(name="DDPMScheduler", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(diffusers, name)(**options)


@pytest.mark.parametrize("name", one_in(2, list(NETWORKS)))
def test_networks_are_those_of_diffusers(name, tmp_path):
    theirs = network(**NETWORKS[name])
    learned = {"variance_type": "learned_range"} if name == "variance" else {}
    model = pf.load(written(tmp_path, theirs, scheduler_of(**learned)))
    x, labels = torch.randn(4, *model.shape), torch.tensor([0, 1, 4, 2]) if model.classes else None
    with torch.no_grad():
        expected = theirs(x, STEPS, labels).sample
        net = model.net.net if name == "variance" else model.net
        found = net(x, (STEPS + 1) / 1000, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05
    assert not model.training


def test_a_condition_network_without_text_is_that_of_diffusers(tmp_path):
    theirs = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type="UNetMidBlock2D",
    ).eval()  # fmt: skip
    randomised(theirs)
    model = pf.load(written(tmp_path, theirs, scheduler_of()))
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        expected = theirs(x, STEPS, encoder_hidden_states=None).sample
    torch.testing.assert_close(model.net(x, (STEPS + 1) / 1000), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["bin", "old names", "beside the index", "half"])
def test_other_layouts_of_the_files_are_read_too(layout, tmp_path):
    theirs = network()
    if layout == "half":
        theirs = theirs.half()
    written(tmp_path, theirs, scheduler_of(), safe_serialization=layout not in ("bin", "old names"))
    if layout == "old names":
        file = tmp_path / "unet" / "diffusion_pytorch_model.bin"
        weights = torch.load(file, weights_only=True)
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            weights = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in weights.items()}
        torch.save(weights, file)
    if layout == "beside the index":
        for part in ("unet", "scheduler"):
            for file in (tmp_path / part).iterdir():
                file.rename(tmp_path / file.name)
            (tmp_path / part).rmdir()
    x, theirs = torch.randn(4, 1, 8, 8), theirs.float()
    with torch.no_grad():
        torch.testing.assert_close(pf.load(tmp_path).net(x, (STEPS + 1) / 1000), theirs(x, STEPS).sample, rtol=1e-5, atol=1e-5)


def test_a_class_of_none_adds_nothing(tmp_path):
    model = pf.load(written(tmp_path, network(num_class_embeds=3), scheduler_of()))
    assert model.classes == 3
    assert model.net.label.table.weight[-1].eq(0).all()


# Schedulers.

BY_NAME = {  # the scheduler, its options, a number of steps
    "DDPM": ("DDPMScheduler", {"clip_sample": False}, 20),
    "DDPM-large": ("DDPMScheduler", {"variance_type": "fixed_large"}, 20),
    "DDPM-clipped": ("DDPMScheduler", {"clip_sample_range": 0.7, "timestep_spacing": "trailing"}, 20),
    "DDPM-thresholding": (
        "DDPMScheduler",
        {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.5, "timestep_spacing": "linspace"},
        20,
    ),
    "DDPM-v": ("DDPMScheduler", {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}, 20),
    "DDPM-sample": ("DDPMScheduler", {"prediction_type": "sample", "beta_schedule": "sigmoid"}, 20),
    "DDPM-betas": ("DDPMScheduler", {"trained_betas": [0.001 * (k + 1) for k in range(30)], "num_train_timesteps": 30}, 15),
    "DDPM-zero-snr": (
        "DDPMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        20,
    ),
    "DDIM": ("DDIMScheduler", {}, 20),
    "DDIM-threshold": ("DDIMScheduler", {"thresholding": True, "prediction_type": "v_prediction"}, 20),
    "DDIM-to-the-first-knot": (
        "DDIMScheduler",
        {"set_alpha_to_one": False, "steps_offset": 1, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        20,
    ),
    "DDIM-at-the-first-knot": ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}, 20),
    "DDIM-trailing": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False, "beta_end": 0.01}, 20),
    "2M": ("DPMSolverMultistepScheduler", {}, 20),
    "2M-few": ("DPMSolverMultistepScheduler", {"solver_type": "heun", "timestep_spacing": "trailing"}, 7),
    "2M-first-knot": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "lower_order_final": False}, 10),
    "1S": ("DPMSolverMultistepScheduler", {"solver_order": 1, "timestep_spacing": "leading", "steps_offset": 1}, 10),
    "SDE-2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 20),
    "2M-thresholding": ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 1.3}, 10),
    "2S": ("DPMSolverSinglestepScheduler", {}, 10),
    "UniPC": ("UniPCMultistepScheduler", {}, 10),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3, "thresholding": True, "sample_max_value": 2.0}, 10),
    "UniPC-bh1": ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min", "solver_type": "bh1"}, 10),
    "Euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, 10),
    "Euler-linspace": ("EulerDiscreteScheduler", {}, 10),
    "ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading"}, 10),
    "Heun": ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}, 10),
}


def theirs_of(scheduler, net, steps, x):
    """Return what a scheduler makes of x, in float64 where it can: those in sigma / alpha take x divided by alpha."""
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.ones(()) if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    if type(scheduler).__name__.startswith(("Euler", "Heun")):
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    draws = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(0)} if draws else {}
    for k in scheduler.timesteps:
        with torch.no_grad():
            value = net(scheduler.scale_model_input(x, k).to(net.dtype), k).sample
        x = scheduler.step(value, k, x, return_dict=False, **options)[0]
    return x


class Given(torch.nn.Module):
    """A base whose samples are known."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def sample(self, n, generator=None):
        return self.x

    def log_prob(self, z):
        raise NotImplementedError


def compare(folder, net, scheduler, steps):
    """Compare the samples of a loaded folder with the scheduler's, from the same noise, in units of their deviation."""
    # DPMSolverMultistepScheduler draws its noise in float32, whatever x is.
    dtype = torch.float32 if "sde" in scheduler.config.get("algorithm_type", "") else torch.float64
    model, net = pf.load(written(folder, net, scheduler)).to(dtype), net.to(dtype)
    x = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    model.base = Given(x)
    sampler = dataclasses.replace(model.sampler, steps=steps)
    found = model.sample(3, sampler=sampler, generator=torch.Generator().manual_seed(0))
    expected = theirs_of(scheduler, net, steps, x)
    scale = expected.std()  # a random network's samples grow where nothing clips them
    torch.testing.assert_close((found - 128) / 127.5 / scale, expected / scale, rtol=0, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("name", one_in(3, list(BY_NAME)))
def test_samples_are_those_of_the_scheduler(name, tmp_path):
    kind, options, steps = BY_NAME[name]
    compare(tmp_path, network(), scheduler_of(kind, **options), steps)


@pytest.mark.parametrize("steps", [5, 20])
def test_samples_of_a_learned_variance_are_those_of_the_scheduler(steps, tmp_path):
    net = network(out_channels=2)
    with torch.no_grad():
        net.conv_out.weight[1] *= 0.1  # so that the variance lies between the smallest and the largest; ours never leaves that range
        net.conv_out.bias[1] = 0.3
    compare(tmp_path, net, scheduler_of(variance_type="learned_range"), steps)


def test_the_default_sampler_has_the_steps_of_the_pipeline(tmp_path):
    model = pf.load(written(tmp_path / "ddpm", network(), scheduler_of(num_train_timesteps=100)))
    assert model.sampler == pf.samplers.DDPM(100, grid=Knots("leading"), variance="small", clip=Clipping())
    model = pf.load(written(tmp_path / "ddim", network(), scheduler_of("DDIMScheduler")))
    assert model.sampler == pf.samplers.DDIM(50, grid=Knots("leading"), clip=Clipping(keep_noise=True))
    assert model.path == Discrete("linear", 1000)
    assert model.prediction == "noise"


# What cannot be read is refused in one sentence, before weights are read.


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path, network(), scheduler_of())


def changed(folder, part, **entries):
    file = folder / part
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


SCHEDULER, UNET = "scheduler/scheduler_config.json", "unet/config.json"
REFUSED = [
    (
        SCHEDULER,
        {"_class_name": "PNDMScheduler"},
        "is of a PNDMScheduler, which has no counterpart here; change _class_name to one of DDPM",
    ),
    (SCHEDULER, {"beta_schedule": "laplace"}, "beta_schedule is 'laplace', but only 'linear' or 'scaled_linear'"),
    (SCHEDULER, {"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction', but only 'epsilon' or 'sample'"),
    (SCHEDULER, {"new_entry": 3}, "has the entry new_entry, 3, which is not known here"),
    (SCHEDULER, {"variance_type": "learned"}, "variance_type is 'learned', but only 'fixed_small'"),
    (SCHEDULER, {"variance_type": "learned_range"}, "the network does not predict a variance"),
    (SCHEDULER, {"trained_betas": [0.1, "0.2", 0.3]}, "trained_betas is [0.1, '0.2', 0.3], but only a list of numbers between 0 and 1"),
    (SCHEDULER, {"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000, but only an integer from 3 to 65536"),
    (SCHEDULER, {"beta_start": float("nan")}, "beta_start is nan, but only a finite number"),
    (SCHEDULER, {"clip_sample": "yes"}, "clip_sample is 'yes', but only true or false"),
    (SCHEDULER, {"timestep_spacing": "log"}, "timestep_spacing is 'log', but only 'leading' or 'trailing' or 'linspace'"),
    (SCHEDULER, {"rescale_betas_zero_snr": True}, "prediction is 'noise', but at t = 1 of a path of zero terminal SNR"),
    (
        SCHEDULER,
        {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "variance_type": None, "clip_sample": False},
        "use_karras_sigmas is True, but only False",
    ),
    (SCHEDULER, {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "solver_order is 3, but only 1 or 2"),
    (SCHEDULER, {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"}, "timestep_spacing is 'linspace', but only 'leading'"),
    (UNET, {"_class_name": "UNet1DModel"}, "is of a UNet1DModel, but only UNet2DModel"),
    (
        UNET,
        {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]},
        "down_block_types is ['DownBlock2D', 'SkipDownBlock2D'], but only DownB",
    ),
    (UNET, {"_class_name": "UNet2DConditionModel", "mid_block_type": "UNetMidBlock2DCrossAttn"}, "down_block_types is"),
    (UNET, {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier', but only 'positional'"),
    (UNET, {"act_fn": "gelu"}, "act_fn is 'gelu', but only 'silu' or 'swish'"),
    (UNET, {"sample_size": None}, "sample_size is None, but only an integer, or two"),
    (UNET, {"out_channels": 3}, "out_channels is 3, but only the 1 of in_channels"),
    (UNET, {"class_embed_type": "timestep"}, "class_embed_type is 'timestep', but only None"),
    (UNET, {"attention_head_dim": 5}, "head is 5, but it must divide the channels of each attention, among them 16"),
    (UNET, {"sample_size": 9}, "shape has the sides (9, 9), but 2 levels halve them 1 times"),
    (UNET, {"block_out_channels": [8, "16"]}, "channels is (8, '16'), but it must be a sequence of integers"),
    (UNET, {"block_out_channels": [8, 32]}, "but its config.json describes"),
    (UNET, {"layers_per_block": 2}, "lacks the tensor down_blocks.0.resnets.1.norm1.weight"),
    (UNET, {"mid_block_type": None}, "tensors that the network of its config.json lacks, first mid_block"),
    ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "is a DDPMPipeline with the part vqvae"),
    ("model_index.json", {"unet": [None, None]}, "is a DDPMPipeline without a unet"),
    ("model_index.json", {"transformer": ["diffusers", "SD3Transformer2DModel"]}, "use pf.models.stable_diffusion_3"),
]


@pytest.mark.parametrize(("part", "entries", "message"), REFUSED)
def test_what_has_no_counterpart_is_refused(part, entries, message, folder, monkeypatch):
    changed(folder, part, **entries)
    monkeypatch.setattr("pushforward.formats.diffusers_tensors.Tensors.tensor", lambda *_: pytest.fail("weights were read"))
    with pytest.raises((ConfigError, CheckpointError, UserError)) as error:
        pf.load(folder)
    assert message in str(error.value)
    assert str(error.value).count(". ") == 0


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", ["pickle", "numbers", "empty"])
def test_a_pickle_that_is_no_file_of_weights_is_refused_and_not_run(content, folder, capsys):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    if content == "empty":
        file.write_bytes(b"")
    else:
        torch.save({"conv_in.weight": Evil() if content == "pickle" else 3}, file)
    with pytest.raises(CheckpointError, match="convert it to .safetensors"):
        pf.load(folder)
    assert "run" not in capsys.readouterr().out


def test_missing_files_are_named(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="unet holds no .safetensors file"):
        pf.load(folder)
    (folder / SCHEDULER).unlink()
    with pytest.raises(NoCheckpointError, match="there is no .*scheduler_config.json"):
        pf.load(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(NoCheckpointError, match="or a pipeline folder of diffusers with its model_index.json"):
        pf.load(folder)


# A loaded folder is a model like any other.


@pytest.fixture
def short(tmp_path):
    """Return the folder of a pipeline of 20 steps, with dropout and a small output, whose ODE is smooth."""
    net = network(dropout=0.2)
    with torch.no_grad():
        net.conv_out.weight *= 0.1
        net.conv_out.bias *= 0
    return written(tmp_path / "pipeline", net, scheduler_of(num_train_timesteps=20, beta_end=0.2))


def test_samples_are_in_the_units_of_pixels(short):
    """The floor of a sample is the pixel that diffusers' pipeline writes: it rounds 127.5 (x + 1)."""
    model = pf.load(short)
    made = model.sample(4, generator=torch.Generator().manual_seed(0))
    z = model.preprocess(made)[0]
    assert z.min() >= -1 - 1e-6
    assert z.max() <= 1 + 1e-6
    rounded = ((z / 2 + 0.5).clamp(0, 1) * 255).round()
    assert ((made.floor() - rounded).abs() < 0.5).float().mean() > 0.99  # halves may round to either side
    assert model.levels == 256


def test_it_gives_likelihoods_and_its_ode_is_inverted(short):
    model = pf.load(short)
    x = torch.randint(0, 256, (2, 1, 8, 8)).float() + 0.5
    with torch.no_grad():
        exact = model.log_prob(x, sampler=pf.samplers.Heun(4))
        rows = x.repeat_interleave(32, dim=0)
        draws = model.log_prob(rows, sampler=pf.samplers.Heun(4), divergence="hutchinson", generator=torch.Generator().manual_seed(0))
        assert (model.decode(model.encode(x)) - x).abs().max() < 1  # by Dopri5, as clipping solves no ODE
    draws = draws.reshape(2, 32)
    assert ((draws.mean(1) - exact).abs() < 5 * draws.std(1) / 32**0.5).all()


def test_it_is_trained_saved_and_loaded(short, tmp_path):
    model = pf.load(short).train()
    x = torch.randint(0, 256, (32, 1, 8, 8)).float()
    one, two = (model.loss(x, generator=torch.Generator().manual_seed(0)).item() for _ in range(2))
    assert one != two  # by dropout
    before = model.net.first.weight.clone()
    trained = pf.Trainer(model, x, steps=3, batch_size=16).fit().model.eval()
    assert not torch.equal(before, trained.net.first.weight)
    assert model.preprocess.levels == 256  # nothing of it is fitted to the new data
    loaded = pf.load(pf.save(trained, tmp_path / "saved"))
    noise = model.base.sample(2)
    assert torch.equal(loaded.decode(noise, sampler=pf.samplers.DDIM(4)), trained.decode(noise, sampler=pf.samplers.DDIM(4)))
    assert loaded.sampler == model.sampler


def test_it_is_a_teacher(short):
    teacher = pf.load(short)
    x = torch.randint(0, 256, (4, 1, 8, 8)).float()
    for preset in (pf.models.meanflow, pf.models.consistency):
        student = preset(teacher=teacher)
        loss = student.loss(x)
        loss.backward()
        assert loss.isfinite()
        assert student.preprocess.levels == 256
    pairs = pf.reflow(teacher, 8, sampler=pf.samplers.Heun(2))
    student = pf.distill(teacher, pairs, steps=2, batch_size=4)
    assert student.prediction == "v"  # its noise would contain little of the data at t = 1
    assert student.sample(2).isfinite().all()


def test_commands_read_it(short, tmp_path, monkeypatch, capsys):
    from pushforward.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["info", "pipeline"]) == 0
    assert "nn.UNet2D" in capsys.readouterr().out
    assert main(["sample", "pipeline", "-n", "3", "--out", "x.npy"]) == 0
    numpy.savez("data.npz", x=numpy.random.default_rng(0).integers(0, 256, (120, 1, 8, 8)).astype("uint8"))
    meanflow = ["train", "meanflow", "--teacher", "pipeline", "--data", "data.npz", "--steps", "2", "--batch-size", "8"]
    assert main([*meanflow, "--block", "8", "--out", "meanflow"]) == 0
    assert pf.load("meanflow").config["model"]["teacher"] == "pipeline"
    assert main(["evaluate", "pipeline"]) == 2
    assert "names no data, as no run has trained it; give --data" in capsys.readouterr().err
    assert main(["evaluate", "pipeline", "--data", "digits"]) == 2
    assert "levels 17, but the model's have (1, 8, 8) and 256" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reflow", "distill"])
def test_commands_train_on_its_pairs(command, short, tmp_path):
    from pushforward.cli import main

    out = tmp_path / "out"
    assert main([command, str(short), "--pairs", "20", "--steps", "2", "--batch-size", "4", "--out", str(out)]) == 0
    assert pf.load(out if command == "distill" else tmp_path / "out-1").one_step == (command == "distill")


@pytest.mark.slow
def test_evaluate_writes_a_report_of_it(short, tmp_path, monkeypatch):
    from pushforward.cli import main

    monkeypatch.chdir(tmp_path)
    numpy.savez("data.npz", x=numpy.random.default_rng(0).integers(0, 256, (120, 1, 8, 8)).astype("uint8"))
    small = ["--samples", "20", "--compared", "10", "--scored", "2", "--evaluations", "2", "--divergence", "hutchinson"]
    assert main(["evaluate", "pipeline", "--data", "data.npz", "--out", "report", *small]) == 0
    assert (tmp_path / "report" / "report.html").exists()
    assert not (short / "report.html").exists()


# Writing.

WRITTEN = {
    "ddpm": (NETWORKS["scale_shift"], "DDPMScheduler", {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"}),
    "clipped ddim": (NETWORKS["ddpm-cifar10"], "DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample_range": 0.8}),
    "latent": (NETWORKS["classes"], "DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1, "beta_schedule": "scaled_linear"}),
    "betas": (NETWORKS["no middle"], "DDPMScheduler", {"trained_betas": [0.1, 0.2, 0.3, 0.4], "num_train_timesteps": 4}),
    "learned": (NETWORKS["variance"], "DDPMScheduler", {"variance_type": "learned_range", "thresholding": True, "sample_max_value": 2.0}),
    "resnet": (NETWORKS["resnet"], "DDPMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
    "rectangle": (NETWORKS["rectangle"], "DDPMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "sample"}),
}


@pytest.mark.parametrize("name", one_in(3, list(WRITTEN)))
def test_a_written_folder_is_read_by_both_libraries(name, tmp_path):
    options, kind, entries = WRITTEN[name]
    theirs, scheduler = network(**options), scheduler_of(kind, **entries)
    model = pf.load(written(tmp_path / "theirs", theirs, scheduler))
    folder = pf.formats.write_diffusers(tmp_path / "ours", model)
    again = pf.load(folder)
    assert again.config == model.config
    assert all(torch.equal(one, two) for one, two in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    assert {name: pipeline.unet.config[name] for name in theirs.config if not name.startswith("_")} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in theirs.config.items() if not name.startswith("_")
    }
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in pipeline.unet.state_dict().items())
    rewritten = getattr(diffusers, kind).from_pretrained(folder, subfolder="scheduler")
    torch.testing.assert_close(rewritten.alphas_cumprod, scheduler.alphas_cumprod)
    assert {name: rewritten.config[name] for name in ("prediction_type", "timestep_spacing", "steps_offset", "thresholding")} == {
        name: scheduler.config[name] for name in ("prediction_type", "timestep_spacing", "steps_offset", "thresholding")
    }


def tiny(sampler=None, **options):
    net = pf.nn.UNet2D.Config((8, 8), ("conv", "conv"), ("conv", "conv"), groups=4)
    sampler = pf.samplers.DDPM(100, grid=Knots("leading")) if sampler is None else sampler
    return pf.models.ddpm(**{"net": net, "shape": (1, 8, 8), "preprocess": "centred", "levels": 256, "sampler": sampler, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.models.realnvp(2), "model is a pushforward.NormalizingFlow, but such a folder holds a path model"),
        (lambda: tiny(path=pf.paths.Cosine(), prediction="v"), "but such a folder holds a path model on paths.Discrete"),
        (lambda: tiny(preprocess="standardise"), "but such a folder holds images of 256 levels"),
        (lambda: tiny(net=pf.nn.UNet.Config(8)), "the network is a pushforward.UNet, but such a folder holds an nn.UNet2D"),
        (lambda: tiny(prediction="velocity"), "prediction is 'velocity', but a scheduler knows noise, data, v"),
        (lambda: tiny(pf.samplers.Heun(4)), "but such a folder states DDPM, or DDIM with eta = 0, on the grid Knots"),
        (lambda: tiny(pf.samplers.DDIM(4, grid=Knots(), clip=Clipping())), "in diffusers DDIM keeps the noise where it clips"),
        (lambda: tiny(pf.samplers.DDPM(4, grid=Knots(), clip=Clipping(2.0, 0.9))), "thresholding of diffusers is for the range"),
    ],
)
def test_what_a_folder_cannot_state_is_refused(make, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pf.formats.write_diffusers(tmp_path / "out", make())
    assert not (tmp_path / "out").exists()
