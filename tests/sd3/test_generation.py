"""What a user of StableDiffusion3 relies on beside equality: seeds, batches, samplers, masks, previews, the way back, memory, refusals."""

import copy
import dataclasses
import json
import math
import threading

import numpy
import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.conditions import TextContext
from pushforward.errors import CheckpointError, ConditionError, NotFiniteError, OutOfMemoryError, ShapeError, SolverError, UserError
from pushforward.formats.autoencoder_folder import read_autoencoder_of
from pushforward.formats.tensor_file import TensorFile
from pushforward.guidance.cfg import CFG
from pushforward.guidance.skip_layers import SkipLayers
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.euler import Euler
from pushforward.samplers.euler_maruyama import EulerMaruyama
from pushforward.samplers.grids import Shifted
from pushforward.samplers.heun import Heun
from pushforward.samplers.midpoint import Midpoint
from pushforward.samplers.rk4 import RK4
from pushforward.samplers.unipc import UniPC
from pushforward.sd3.memory import peak

GRID, SIZE = Shifted(3.0, 1000), (64, 48)
TOKENS = 16  # of T5: the default 256, of which these prompts use 4, are in test_pipeline.py
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def model(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder)


@pytest.fixture(scope="module")
def image():
    """A picture with a few soft shapes."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE[0]), torch.linspace(-1, 1, SIZE[1]), indexing="ij")
    return (0.5 + 0.4 * torch.stack((torch.sin(3 * x), torch.cos(2 * y), x * y)))[None]


def quick(model, prompts="a fox", **options):
    return model.sample(
        prompts, **({"steps": 2, "size": SIZE, "generator": 0, "guidance": 1.0, "output": "latents", "tokens": TOKENS} | options)
    )


def test_the_three_outputs_are_one_image(model):
    pil, tensor, latents = (quick(model, output=output) for output in ("pil", "tensor", "latents"))
    assert [one.size for one in pil] == [(48, 64)]
    assert tensor.shape == (1, 3, *SIZE)
    assert latents.shape == (1, 16, 8, 6)
    assert numpy.array_equal(numpy.asarray(pil[0]), (tensor[0].permute(1, 2, 0) * 255).round().byte().numpy())
    torch.testing.assert_close(model.vae.decode(latents).div(2).add(0.5).clamp(0, 1).detach(), tensor)


@pytest.mark.parametrize("sampler", [Euler(2, GRID), DPMSolverPP(2, "SDE-2M", grid=GRID)], ids=["ode", "sde"])
def test_an_image_does_not_depend_on_its_batch(model, sampler):
    """A seed counts up from image to image; in chunks, alone or together, an image is the same to rounding."""
    prompts = ["a fox", "a cat", "", "一只狐狸"]
    options = {"steps": None, "sampler": sampler, "guidance": 4.0}
    whole = quick(model, prompts, generator=7, **options)
    parts = quick(model, prompts, generator=[7, 8, 9, 10], batch_size=3, **options)
    alone = quick(model, prompts[2], generator=9, **options)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-5)
    torch.testing.assert_close(alone[0], whole[2], rtol=0, atol=2e-5)
    assert not torch.allclose(whole[0], whole[1], atol=0.1)


@pytest.mark.parametrize(
    "sampler",
    [
        Midpoint(2, GRID),
        Heun(2, GRID),
        RK4(2, GRID),
        Dopri5(0.1, 0.1),
        UniPC(3, grid=GRID),
        DPMSolverPP(3, grid=GRID),
        EulerMaruyama(3, grid=GRID),
    ],
    ids=lambda one: type(one).__name__,
)
def test_every_sampler_makes_images(model, sampler):
    made = quick(model, ["a fox", "a cat"], steps=None, sampler=sampler, guidance=CFG(3.0, interval=(0.2, 0.9)), skip_layers=(1,))
    assert made.isfinite().all()


def test_samplers_agree_in_the_limit(model):
    """The ODE has one solution: twelve steps of Heun are nearer to the adaptive solver's than two, and both nearer than two of Euler."""
    fine = quick(model, steps=None, sampler=Dopri5(5e-3, 5e-3))
    away = [float((quick(model, steps=None, sampler=one) - fine).abs().mean()) for one in (Heun(12, GRID), Heun(2, GRID), Euler(2, GRID))]
    assert away == sorted(away)
    assert away[0] < 0.3 * away[2]


def test_steps_are_short_for_euler_on_the_shifted_grid(model):
    assert torch.equal(quick(model, steps=3), quick(model, steps=None, sampler=Euler(3, grid=Shifted(3, 1000))))
    assert torch.equal(quick(model, steps=3, shift=1.0), quick(model, steps=None, sampler=Euler(3, grid=Shifted(1, 1000))))
    assert model.model_for(SIZE).sampler == Euler(28, grid=Shifted(3, 1000))


def test_the_model_inside_makes_the_same_latents(model):
    inside = model.model_for(SIZE).sample(
        1, model.encode_prompt("a fox", TOKENS), sampler=Euler(2, GRID), generator=[torch.Generator().manual_seed(0)]
    )
    assert torch.equal(inside, quick(model))


def test_the_models_of_all_sizes_share_one_network_and_its_loss_is_rectified_flows(model):
    one, other = model.model_for((64, 64)), model.model_for(SIZE)
    assert one.net is other.net is model.transformer
    assert (type(one.path).__name__, one.prediction, type(one.times).__name__) == ("Linear", "velocity", "LogitNormal")
    latents = torch.randn(3, 16, 8, 6)
    other.loss(latents, model.encode_prompt(["a", "b", "c"], TOKENS)).backward()
    assert model.transformer.last.weight.grad is not None
    model.transformer.zero_grad()


def test_text_conditions_may_be_given(model):
    cond = model.encode_prompt("a fox", TOKENS)
    assert torch.equal(quick(model, cond), quick(model))
    assert torch.equal(
        quick(model, cond, guidance=3.0, negative=model.encode_prompt("cat", TOKENS)), quick(model, guidance=3.0, negative="cat")
    )


def test_what_is_masked_black_stays_to_the_bit(model, image):
    mask = PIL.Image.new("L", (48, 64), 0)
    mask.paste(255, (16, 16, 40, 40))
    made = quick(model, image=image, mask=mask, size=None, output="tensor")
    painted = torch.zeros(64, 48, dtype=torch.bool)
    painted[16:40, 16:40] = True
    assert torch.equal(made[..., ~painted], image[..., ~painted])
    assert float((made - image)[..., painted].abs().mean()) > 0.05


def test_inpainting_keeps_the_latents_outside_under_every_ode_sampler(model, image):
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., :32, :] = 1
    known = model.vae.encode(2 * image - 1)
    for sampler in (Euler(3, GRID), Heun(2, GRID), DPMSolverPP(3, grid=GRID), Dopri5(1e-2, 1e-2)):
        made = quick(model, image=image, mask=mask, size=None, steps=None, sampler=sampler)
        torch.testing.assert_close(made[:, :, 4:], known[:, :, 4:].detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", [Euler(10, GRID), Dopri5(3e-2, 3e-2)], ids=["steps", "adaptive"])
def test_less_strength_keeps_more(model, image, sampler):
    known = model.vae.encode(2 * image - 1).detach()
    away = [
        float((quick(model, image=image, strength=strength, size=None, steps=None, sampler=sampler) - known).square().mean())
        for strength in (0.1, 0.4, 1.0)
    ]
    assert away == sorted(away)
    assert away[0] < 0.5 * away[2]


def test_images_come_as_pil_or_tensor(model, image):
    pil = PIL.Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy())
    tensor = torch.from_numpy(numpy.asarray(pil).copy()).permute(2, 0, 1)[None] / 255
    options = {"strength": 0.5, "size": None}
    torch.testing.assert_close(quick(model, image=[pil], **options), quick(model, image=tensor, **options), rtol=0, atol=1e-4)
    two = quick(model, ["a", "b"], image=torch.cat((tensor, 1 - tensor)), **options)
    torch.testing.assert_close(two[:1], quick(model, "a", image=pil, **options), rtol=0, atol=1e-4)


def test_progress_counts_and_shows_what_is_expected(model):
    told = []
    made = quick(model, steps=3, guidance=3.0, callback=told.append)
    assert [(one.done, one.total) for one in told] == [(1, 3), (2, 3), (3, 3)]
    assert [one.t for one in told] == pytest.approx(GRID(1.0, 0.0, 3)[:3])
    torch.testing.assert_close(told[-1].latents, made, rtol=0, atol=1e-5)  # Euler's last step goes to the expected data
    assert told[-1].images("decoded")[0].size == (48, 64)
    assert told[-1].images()[0].size == (6, 8)


@pytest.mark.slow
def test_the_linear_preview_is_the_best_linear_map(model):
    """Of constant squares, where the decoder is nearly linear in a small model's middle range, it explains most of what is seen."""
    squares = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    latents = squares.repeat_interleave(8, 2).repeat_interleave(8, 3)
    seen = torch.nn.functional.avg_pool2d(model.pictures(latents, "decoded"), 8).detach()
    assert float((model.pictures(latents, "linear") - seen).square().mean()) < float(seen.var())


def test_encoding_and_decoding_return_the_image_to_the_stated_error(model, image):
    """Heun is of second order: twice the steps leave about a quarter of the error."""
    encoded = model.encode(image, "a fox", sampler=Heun(4, GRID), tokens=TOKENS)
    back = model.decode(encoded.noise, "a fox", sampler=Heun(4, GRID), tokens=TOKENS, output="latents")
    error = (back - encoded.latents).square().mean().sqrt() / encoded.latents.square().mean().sqrt()
    assert float(encoded.error) == pytest.approx(float(error), rel=1e-4)
    assert float(model.encode(image, "a fox", sampler=Heun(8, GRID), tokens=TOKENS).error) < 0.3 * float(error)
    assert model.decode(encoded.noise, "a fox", sampler=Heun(1), tokens=TOKENS)[0].size == (48, 64)


@pytest.mark.slow
def test_variations_go_from_the_image_to_any_other(model, image):
    known = model.vae.encode(2 * image - 1).detach()
    options = {"sampler": Heun(6, GRID), "generator": 3, "output": "latents"}
    away = [float((model.vary(image, "a fox", amount=amount, **options) - known).square().mean()) for amount in (0.0, 0.3, 1.0)]
    assert away == sorted(away)
    assert away[0] < 0.2 * away[2]


@pytest.mark.slow
def test_log_prob_is_the_exact_one_within_its_standard_error(tiny, image):
    """A latent of 2x2 places: 64 directions are exact. Within 5 standard errors of 8 estimates, seed 0."""
    model = pf.StableDiffusion3.from_pretrained(tiny("medium").folder)
    latents, sampler = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(0)), Euler(2, GRID)
    with torch.no_grad():
        exact = model.model_for((16, 16)).log_prob(latents, model.encode_prompt("a"), sampler=sampler)
    said = model.log_prob(latents, "a", sampler=sampler, probes=8, generator=torch.Generator().manual_seed(0))
    assert float((said.log_prob - exact).abs()) < 5 * float(said.standard_error)
    assert 0 < float(said.standard_error) < 0.2 * abs(float(exact))


def test_offloading_changes_nothing_and_leaves_weights_where_they_were(tiny, model):
    """On the CPU a "device" is as good as another: what is used is a copy, one component at a time, and it is gone afterwards."""
    lazy = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload=True)
    places = {name: next(part.parameters()).data_ptr() for name, part in lazy.residence.modules.items()}
    present = []
    for name, part in lazy.residence.modules.items():
        part.register_forward_pre_hook(lambda module, args, name=name: present.append((name, list(lazy.residence.present))))
    assert torch.equal(quick(lazy, guidance=3.0, output="tensor"), quick(model, guidance=3.0, output="tensor"))
    assert present
    assert all(names == [name] for name, names in present)
    assert {name: next(part.parameters()).data_ptr() for name, part in lazy.residence.modules.items()} == places


def test_another_dtype_is_near_and_its_states_stay_wide(tiny, model):
    half = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, dtype=torch.bfloat16)
    assert {next(part.parameters()).dtype for part in half.residence.modules.values()} == {torch.bfloat16}
    made = quick(half)
    assert made.dtype == torch.float32
    assert float((made - quick(model)).square().mean()) < 0.05 * float(made.var())
    narrow = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, dtype=torch.float16)
    assert next(narrow.vae.parameters()).dtype == torch.float32


@pytest.mark.parametrize("layout", ["single", "diffusers"])
def test_a_saved_model_makes_the_same_image(tiny, model, tmp_path, layout):
    path = model.save(tmp_path / ("model.safetensors" if layout == "single" else "model"), layout)
    tokenizers = tiny("medium-3.5").folder if layout == "single" else None
    loaded = pf.StableDiffusion3.from_pretrained(path, tokenizers=tokenizers)
    for name, one in model.transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], one)
    # A mapped file's tensors may lie off the alignment by which kernels vectorise, which changes last bits on some processors.
    torch.testing.assert_close(quick(loaded), quick(model), rtol=1e-5, atol=1e-5)


def edited(folder, part, **changes):
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_single_file_keeps_the_settings_that_tensors_do_not_show(tiny, copied, tmp_path):
    """Scale, heads, activations and shift of another model than the public ones: they became the public ones."""
    folder = copied("folder")
    edited(folder, "transformer", attention_head_dim=32, num_attention_heads=4)
    edited(folder, "vae", scaling_factor=0.8, shift_factor=0.2, norm_num_groups=16)
    edited(folder, "text_encoder", num_attention_heads=4, hidden_act="gelu")
    edited(folder, "text_encoder_2", num_attention_heads=3)
    edited(folder, "text_encoder_3", relative_attention_max_distance=20)
    edited(folder, "scheduler", shift=1.5)
    model = pf.StableDiffusion3.from_pretrained(folder)
    path = model.save(tmp_path / "model.safetensors")
    again = pf.StableDiffusion3.from_pretrained(path, tokenizers=folder)
    assert again.shift == 1.5
    torch.testing.assert_close(quick(again, output="tensor"), quick(model, output="tensor"), rtol=1e-5, atol=1e-5)
    vae = read_autoencoder_of(path)
    assert (vae.scale, vae.shift, vae.groups) == (0.8, 0.2, 16)
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    public = pf.StableDiffusion3.from_pretrained(tiny("medium").folder).save(tmp_path / "public.safetensors")
    assert TensorFile(public).metadata == {"format": "pt"}


def test_steps_that_the_scheduler_states_and_that_are_not_taken_are_named(copied):
    folder = copied("folder")
    edited(folder, "scheduler", use_dynamic_shifting=True, invert_sigmas=True, _class_name="FlowMatchHeunDiscreteScheduler")
    with pytest.warns(UserWarning, match="_class_name FlowMatchHeunDiscreteScheduler, invert_sigmas True, but"):
        pf.StableDiffusion3.from_pretrained(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    assert pf.StableDiffusion3.from_pretrained(folder).shift == 1  # as in diffusers
    single = pf.formats.write_sd3(folder / "single.safetensors", pf.formats.read_sd3(folder))
    assert pf.StableDiffusion3.from_pretrained(single, tokenizers=folder).shift == 1


@pytest.mark.slow
def test_memory_is_counted_by_component(model):
    memory = model.memory(SIZE)
    assert memory.weights["transformer"] == sum(
        p.numel() * p.element_size() for p in (*model.transformer.parameters(), *model.transformer.buffers())
    )
    assert memory.offloaded < memory.together
    assert "offload=True" in str(memory)


def test_the_peak_of_a_function_is_that_of_its_tensors():
    """8 MB, then 8 more, of which the first are let go before the third."""
    n = 1 << 21

    def run():
        x = torch.zeros(n)
        y = x + 1
        del x
        return y.view(2, -1) * 2

    assert peak(run) == 2 * 4 * n


@pytest.mark.slow
def test_the_memory_of_a_model_leaves_the_default_dtype_of_other_threads_alone(monkeypatch):
    def fail(dtype):
        raise AssertionError("the default dtype is that of all threads")

    monkeypatch.setattr(torch, "set_default_dtype", fail)
    memory = pf.sd3.memory_of("medium-3.5", dtype=torch.float16, t5=False, tiling=True, size=(64, 64))
    assert memory.weights["transformer"] == 2 * (2_243_171_520 + 384 * 384 * 1536)  # SD3.md's count, and the table of positions
    assert memory.weights["vae"] == 4 * 83_819_683  # float32


@pytest.mark.slow
def test_stable_diffusion_3_5_medium_fits_12_gb_with_offloading():
    """Weights in bfloat16: 16.3 GB of all parts are too much, T5's 9.5 GB alone are not, and neither is all but T5."""
    memory = pf.sd3.memory_of("medium-3.5", tiling=True)
    assert memory.together > 12e9
    assert memory.offloaded < 10e9
    assert memory.together - memory.weights["t5"] < 8e9
    assert memory.weights["transformer"] == 2 * (2_243_171_520 + 384 * 384 * 1536)  # SD3.md's count, and the table of positions


@pytest.mark.slow
def test_the_large_model_in_8_bits_fits_12_gb_and_by_blocks_2_gb():
    """8.06 billion parameters (SD3.md), of which all but 1 % are in 8 bits; the positions, 192² of 2432 channels, are not."""
    memory = pf.sd3.memory_of("large-3.5", weights="int8", tiling=True)
    assert memory.weights["transformer"] == pytest.approx(8_056_627_520 + 2 * 192 * 192 * 2432, rel=0.01)
    assert memory.offloaded < 9e9
    assert memory.by_blocks < 1.5e9


def test_what_is_too_large_says_which_switch_helps(model, monkeypatch):
    def full(latents):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.vae, "decode", full)
    with pytest.raises(OutOfMemoryError, match="too small for vae; use offload=True.*tiling=True"):
        quick(model, output="tensor")


REFUSED = [
    ({"size": (100, 64)}, UserError, "size is 100x64 .* divisible by 16; the nearest are 96x64"),
    ({"size": (1000, 1001)}, UserError, "the nearest are 1008x1008"),
    ({"size": (0, 64)}, UserError, r"size is \(0, 64\), but it must be \(height, width\)"),
    ({"steps": 2, "sampler": Euler(2)}, UserError, "steps is 2 and sampler .* give one of them"),
    ({"steps": 0}, UserError, "steps is 0"),
    ({"sampler": "euler", "steps": None}, UserError, "sampler is 'euler'"),
    ({"guidance": "much"}, UserError, "guidance is 'much'"),
    ({"output": "png"}, UserError, "output is 'png'"),
    ({"generator": [1, 2]}, UserError, "generator is a list of 2, but there are 1 images"),
    ({"generator": [-1]}, UserError, "generator has -1"),
    ({"strength": 0.5}, UserError, "is given without an image"),
    ({"latents": torch.zeros(1, 16, 8, 8)}, ShapeError, r"latents has shape \(1, 16, 8, 8\)"),
    ({"latents": numpy.zeros((1, 16, 8, 6))}, UserError, "latents is a numpy.ndarray, but noise is a tensor of floats"),
    ({"latents": torch.zeros(1, 16, 8, 6).int()}, UserError, "latents is a tensor of torch.int32, but noise is"),
    ({"skip_layers": ()}, UserError, "layers is ()"),
    ({"skip_layers": 1}, UserError, "layers is 1, but it must be a sequence of integers"),
    ({"skip_layers": (0.5,)}, UserError, r"layers is \(0.5,\), but it must be a sequence of integers"),
    ({"skip_layers": (True,)}, UserError, r"layers is \(True,\), but it must be a sequence of integers"),
    ({"skip_layers": (1, 3)}, UserError, r"layers is \(1, 3\), but the network has the blocks 0 to 2"),
    ({"skip_layers": SkipLayers((3,), interval=(0.9, 1.0))}, UserError, "blocks 0 to 2"),
    ({"guidance": SkipLayers((3,), guidance=CFG(2.0))}, UserError, "blocks 0 to 2"),
    ({"guidance": math.nan}, UserError, "guidance is nan"),
    ({"guidance": math.inf}, UserError, "guidance is inf"),
    ({"guidance": -math.inf}, UserError, "guidance is -inf"),
    ({"size": 0}, UserError, "size is 0"),
    ({"size": ()}, UserError, r"size is \(\)"),
    ({"shift": math.nan}, UserError, "factor is nan"),
    ({"batch_size": 0}, UserError, "batch_size is 0"),
    ({"tokens": 2.5}, UserError, "tokens is 2.5"),
    ({"negative": None}, UserError, "negative is None, but it must be a text"),
    ({"latents": torch.full((1, 16, 8, 6), math.nan)}, UserError, "latents has NaN"),
    ({"shift": 0.0}, UserError, "factor is 0"),
]


@pytest.fixture
def idle(monkeypatch):
    """The model's parts fail if they are called: what is refused is refused before anything is computed."""

    def fail(*_, **__):
        raise AssertionError("a part of the model was called")

    for part, names in ((pf.nn.MMDiT, ("prepare",)), (pf.nn.AutoencoderKL, ("encode", "decode"))):
        for name in names:
            monkeypatch.setattr(part, name, fail)
    monkeypatch.setattr("pushforward.sd3.prompts.Prompts._encode", fail)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_bad_input_is_refused_before_anything_is_computed(model, options, error, message):
    model._prompts._kept.clear()
    with pytest.raises(error, match=message):
        quick(model, **options)


def test_threads_make_the_images_that_one_thread_makes(tiny, model):
    """With offloading, and with new prompts, so that tokenizers, encoders and caches are shared too."""
    prompts, made = [f"{k} foxes" for k in range(4)], {}
    alone = [quick(model, one, generator=k, guidance=2.0) for k, one in enumerate(prompts)]
    shared = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload=True)

    def work(k):
        made[k] = quick(shared, prompts[k], generator=k, guidance=2.0)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(made) == list(range(4))
    for k, one in made.items():
        torch.testing.assert_close(one, alone[k], rtol=0, atol=2e-5)


def test_negative_prompts_of_another_number_are_refused(model):
    with pytest.raises(ConditionError, match="2 negative prompts for 1 prompts"):
        quick(model, negative=["a", "b"], guidance=2.0)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (None, "prompts is None, but it must be a text or a list of texts"),
        (3, "prompts is 3, but"),
        (b"fox", "prompts is a bytes, but"),
        ({"fox"}, "prompts is a set, but"),
        ({"fox": 1}, "prompts is a dict, but"),
        ([], "prompts is empty"),
        ((), "prompts is empty"),
        (["fox", None], r"prompts\[1\] is None"),
        ([["fox"]], r"prompts\[0\] is \['fox'\]"),
        (torch.zeros(2), r"prompts\[0\] is tensor"),
    ],
)
def test_prompts_that_are_none_are_refused(model, image, prompts, said):
    for call in (model.encode_prompt, lambda one: quick(model, one), lambda one: model.encode(image, one)):
        with pytest.raises(UserError, match=said):
            call(prompts)


def test_prompts_may_come_in_any_sequence(model):
    kept = model.encode_prompt(["a fox", "a cat"])
    for one in (("a fox", "a cat"), numpy.array(["a fox", "a cat"]), iter(["a fox", "a cat"])):
        assert torch.equal(model.encode_prompt(one).pooled, kept.pooled)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": 0.0}, UserError, "strength is 0.0"),
        ({"strength": 1.5}, UserError, "strength is 1.5"),
        ({"image": torch.zeros(1, 3, 40, 50)}, UserError, "size is 40x50 .* the nearest are 48x48"),
        ({"image": torch.zeros(1, 1, 64, 48)}, ShapeError, "the image is torch.float32 of shape"),
        ({"image": "fox.png"}, UserError, "the image is neither"),
        ({"image": torch.zeros(2, 3, 64, 48)}, ShapeError, "2 images for 1 prompts"),
        ({"size": (64, 64)}, UserError, "size is 64x64, but the image is 64x48"),
        ({"mask": torch.zeros(1, 1, 64, 64)}, UserError, "the mask is 64x64, but the image is 64x48"),
        ({"mask": "mask.png"}, UserError, "the mask is neither"),
        ({"mask": torch.zeros(2, 64, 48)}, ShapeError, "2 masks for 1 prompts"),
        ({"image": torch.full((3, 64, 48), math.nan)}, UserError, "the image has numbers from nan"),
        ({"strength": math.nan}, UserError, "strength is nan"),
        ({"strength": "much"}, UserError, "strength is 'much'"),
    ],
)
@pytest.mark.usefixtures("idle")
def test_bad_images_are_refused(model, image, options, error, message):
    with pytest.raises(error, match=message):
        quick(model, **({"image": image, "size": None} | options))


def test_numbers_that_are_none_are_refused(model):
    weight = model.transformer.last.bias
    kept = weight.data.clone()
    weight.data[0] = math.nan
    try:
        with pytest.raises(SolverError, match="image 0 is not finite"):
            quick(model)
    finally:
        weight.data.copy_(kept)


@pytest.mark.parametrize(("half", "number"), [("encoder", math.nan), ("decoder", math.nan), ("decoder", math.inf)])
def test_numbers_of_the_autoencoder_that_are_none_are_refused(model, image, half, number):
    last = list(getattr(model.vae, half).parameters())[-1]
    kept = last.data.clone()
    last.data[0] = number
    calls = {
        "encoder": [lambda: quick(model, image=image, size=None, strength=0.5), lambda: model.encode(image), lambda: model.log_prob(image)],
        "decoder": [lambda: quick(model, output="tensor"), lambda: model.decode(torch.zeros(1, 16, 8, 6))],
    }
    try:
        for call in calls[half]:
            with pytest.raises(
                NotFiniteError, match=rf"{half[:2]}coding returned NaN or infinity: the autoencoder computes in torch.float32"
            ):
                call()
    finally:
        last.data.copy_(kept)


def test_an_autoencoder_that_overflows_float16_names_the_remedy(model):
    vae = copy.deepcopy(model.vae).half()
    vae.decoder.last.weight.data.fill_(60_000)
    half = pf.StableDiffusion3(model.transformer, vae)
    cond = model.encode_prompt("a fox", TOKENS)
    with pytest.raises(NotFiniteError, match=r"computes in torch.float16, which overflows; use vae.float\(\) or vae.bfloat16\(\)"):
        quick(half, cond, output="tensor")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, image: model.vary(image, amount=1.2), "amount is 1.2"),
        (lambda model, image: model.log_prob(image, probes=1), "probes is 1"),
        (lambda model, image: model.encode(image, ["a", "b"]), "2 prompts for 1 images"),
        (lambda model, image: model.decode(torch.zeros(1, 16, 8, 6), output="png"), "output is 'png'"),
        (lambda model, image: model.decode(torch.zeros(1, 16, 8, 6), negative=None), "negative is None"),
        (lambda model, image: model.decode(numpy.zeros((1, 16, 8, 6))), "noise is a numpy.ndarray, but noise is a tensor of floats"),
        (lambda model, image: model.decode(torch.zeros(1, 4, 8, 6)), r"noise has shape \(1, 4, 8, 6\), but it must be \(n, 16, height"),
        (lambda model, image: pf.sd3.memory_of("huge"), "'huge' is not a known variant"),
        (lambda model, image: SkipLayers((1,), steps=(0.5, 0.2)), "steps is"),
        (
            lambda model, image: SkipLayers((1,), steps=(0, 1))(model.model_for(SIZE).denoiser(model.encode_prompt(""))),
            "times are not known",
        ),
    ],
)
def test_other_bad_input_is_refused(model, image, call, message):
    with pytest.raises(UserError, match=message):
        call(model, image)


def test_a_file_without_an_autoencoder_is_refused(tiny, tmp_path):
    import shutil

    shutil.copytree(tiny("medium").folder, tmp_path / "model", ignore=shutil.ignore_patterns("vae"))
    with pytest.raises(CheckpointError, match=r"has no autoencoder \(vae\)"):
        pf.StableDiffusion3.from_pretrained(tmp_path / "model")


def test_a_model_made_of_parts_takes_conditions_alone(model):
    bare = pf.StableDiffusion3(model.transformer, model.vae)
    with pytest.raises(UserError, match="has no tokenizers"):
        quick(bare)
    cond = model.encode_prompt("a fox", TOKENS)
    assert torch.equal(quick(bare, TextContext(cond.context, cond.pooled)), quick(model))
    assert dataclasses.replace(cond).pooled is cond.pooled
