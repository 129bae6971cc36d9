"""Whole images beside diffusers' pipelines, from the same noise: text to image, image to image, skipped layers, both layouts."""

import dataclasses
import itertools
import shutil

import pytest
import torch

import pushforward as pf
from pushforward.errors import ConfigError
from pushforward.formats.sd3_shift import grid_shift, shift_settings
from pushforward.guidance.cfg import CFG
from pushforward.guidance.skip_layers import SkipLayers
from pushforward.samplers.grids import Shifted
from pushforward.sd3.generation import grid_of

PROMPTS, NEGATIVE = ["a red fox in the snow", "一只狐狸 🦊"], "blurred"
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def pipelines(tiny):
    """Return a function from a variant to diffusers' pipeline of it."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    made = {}

    def of(variant):
        if variant not in made:
            made[variant] = diffusers.StableDiffusion3Pipeline.from_pretrained(tiny(variant).folder)
            made[variant].set_progress_bar_config(disable=True)
        return made[variant]

    return of


def loaded(tiny, variant, layout="folder"):
    checkpoint = tiny(variant)
    return pf.StableDiffusion3.from_pretrained(getattr(checkpoint, layout), tokenizers=checkpoint.folder)


def size(tiny, variant):
    """Of an image that is not square."""
    return tuple(8 * side for side in tiny(variant).sizes.latent) if variant == "odd" else (64, 96)


def noise(tiny, variant, n=2, seed=0):
    return torch.randn(n, 16, *(side // 8 for side in size(tiny, variant)), generator=torch.Generator().manual_seed(seed))


def close(mine, theirs, bar=1e-4):
    assert mine.shape == theirs.shape
    assert float((mine - theirs).abs().max() / theirs.abs().max()) < bar


@pytest.mark.parametrize("variant", ["medium", *(pytest.param(one, marks=pytest.mark.slow) for one in ("medium-3.5", "large-3.5")), "odd"])
def test_text_to_image_is_diffusers_in_both_layouts(tiny, pipelines, variant):
    """Three steps under guidance, to the finished pixels."""
    height, width = size(tiny, variant)
    start = noise(tiny, variant)
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "height": height, "width": width, "output_type": "pt"}
    theirs = pipelines(variant)(PROMPTS, negative_prompt=[NEGATIVE] * 2, latents=start, **options).images
    for layout in ("folder", "single"):
        model = loaded(tiny, variant, layout)
        mine = model.sample(PROMPTS, NEGATIVE, steps=3, guidance=5.0, size=(height, width), latents=start, output="tensor")
        close(mine, theirs)


TOKENS = 16  # of T5, where the default 256 of the tests above would only take time


def test_without_guidance_and_t5_it_is_diffusers_too(tiny, pipelines):
    pipeline, start = pipelines("medium"), noise(tiny, "medium", 1)
    pipeline.text_encoder_3, t5 = None, pipeline.text_encoder_3
    try:
        options = {"guidance_scale": 1.0, "height": 64, "width": 96, "max_sequence_length": TOKENS}
        theirs = pipeline("a fox", num_inference_steps=5, latents=start, output_type="latent", **options)
    finally:
        pipeline.text_encoder_3 = t5
    model = pf.StableDiffusion3.from_pretrained(tiny("medium").folder, t5=False)
    close(model.sample("a fox", steps=5, guidance=1.0, size=(64, 96), latents=start, output="latents", tokens=TOKENS), theirs.images)


@pytest.mark.parametrize("steps", [1, 4, 28, 50])
def test_sigmas_are_diffusers(steps):
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    mine = torch.tensor(Shifted(3.0, 1000)(1.0, 0.0, steps))
    torch.testing.assert_close(mine, scheduler.sigmas, rtol=0, atol=1e-6)


STATED = [
    {"shift_terminal": 0.02},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True, "shift": 1.0},
    {"use_karras_sigmas": True, "shift_terminal": 0.1, "use_dynamic_shifting": True},
    {"shift_terminal": 0.001, "use_dynamic_shifting": True, "time_shift_type": "linear"},
]


@pytest.mark.parametrize("settings", STATED, ids=str)
def test_other_steps_that_a_scheduler_states_are_diffusers(settings):
    """Whole grids, and their ends from any of their times on, as image to image takes them."""
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | settings)
    shift = grid_shift(dict(scheduler.config))
    assert grid_shift(shift_settings(shift)) == shift
    grid = grid_of(shift, 256)
    for steps in (4, 28):
        scheduler.set_timesteps(steps, mu=0.5)
        mine = grid(1.0, 0.0, steps)
        torch.testing.assert_close(torch.tensor(mine), scheduler.sigmas, rtol=0, atol=1e-6)
        for k in range(1, steps):
            assert grid(mine[k], 0.0, steps - k) == pytest.approx(mine[k:], abs=1e-12)
        assert grid(0.0, 1.0, steps) == pytest.approx(mine[::-1], abs=1e-12)


@pytest.mark.parametrize("grid", [{"terminal": 0.1}, {"spacing": "karras"}, {"spacing": "exponential"}, {"terminal": 1e-3}])
def test_times_below_the_lowest_level_are_monotone_and_end_where_they_should(grid):
    times = Shifted(3.0, 1000, **grid)(5e-4, 0.0, 5)
    assert times[0] == 5e-4
    assert times[-1] == 0
    assert all(one > other >= 0 for one, other in itertools.pairwise(times))


DYNAMIC = {
    "defaults": {},
    "flux": {"base_shift": 0.5, "max_shift": 1.16},
    "falling": {"base_shift": 0.9, "max_shift": 0.3, "base_image_seq_len": 64, "max_image_seq_len": 1024},
    "linear": {"time_shift_type": "linear", "base_shift": 2.0, "max_shift": 4.0},
}


@pytest.mark.parametrize("settings", DYNAMIC)
@pytest.mark.parametrize("tokens", [4, 256, 1000, 4096, 16384])
def test_sigmas_of_a_shift_by_size_are_diffusers(settings, tokens):
    """Its `set_timesteps(mu=...)` with the mu of its pipeline, which reads the scheduler's settings."""
    import diffusers
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **DYNAMIC[settings])
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    shift = grid_shift(dict(scheduler.config))
    assert grid_shift(shift_settings(shift)) == shift
    for steps in (1, 4, 28):
        scheduler.set_timesteps(steps, mu=mu)
        mine = torch.tensor(grid_of(shift, tokens)(1.0, 0.0, steps))
        torch.testing.assert_close(mine, scheduler.sigmas, rtol=0, atol=1e-6)


def test_samples_with_a_shift_by_size_are_diffusers_at_each_size(tiny, pipelines, tmp_path):
    """Also from a part of the way, from the scheduler's file in a folder, and after saving in both layouts."""
    import diffusers

    folder = shutil.copytree(tiny("medium-3.5").folder, tmp_path / "folder")
    settings = {"use_dynamic_shifting": True, "base_shift": 0.2, "max_shift": 1.5, "base_image_seq_len": 4, "max_image_seq_len": 64}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.save_pretrained(folder / "scheduler")
    pipeline = diffusers.StableDiffusion3Pipeline.from_pipe(pipelines("medium-3.5"), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    from_image = diffusers.StableDiffusion3Img2ImgPipeline.from_pipe(pipeline, scheduler=scheduler)
    from_image.set_progress_bar_config(disable=True)
    model = pf.StableDiffusion3.from_pretrained(folder)
    made = {}
    for height, width in ((32, 32), (64, 96)):
        start = torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(3))
        options = {"num_inference_steps": 4, "guidance_scale": 3.0, "max_sequence_length": TOKENS, "output_type": "latent"}
        theirs = pipeline("a fox", latents=start, height=height, width=width, **options).images
        mine = {"steps": 4, "guidance": 3.0, "size": (height, width), "latents": start, "output": "latents", "tokens": TOKENS}
        made[height] = model.sample("a fox", **mine)
        close(made[height], theirs)
        assert float((model.sample("a fox", shift=3.0, **mine) - theirs).abs().max()) > 1e-2
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        known = model.vae.encode(2 * image - 1)
    generator = torch.Generator().manual_seed(5)
    theirs = from_image("a fox", image=known, strength=0.5, height=64, width=96, generator=generator, **options).images
    start = torch.randn(known.shape, generator=torch.Generator().manual_seed(5))
    close(model.sample("a fox", image=image, strength=0.5, **mine | {"latents": start}), theirs)
    for layout in ("single", "diffusers"):
        path = model.save(tmp_path / layout, layout)
        again = pf.StableDiffusion3.from_pretrained(path, tokenizers=folder)
        assert again.shift == model.shift
        close(again.sample("a fox", **mine), made[64])
    stored = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "diffusers" / "scheduler")
    assert {name: stored.config[name] for name in settings} == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_image_seq_len": 256}, "base_image_seq_len and max_image_seq_len are both 256, but a shift by size needs two sizes"),
        ({"time_shift_type": "cubic"}, "time_shift_type of a config.json is 'cubic', but it must be 'exponential' or 'linear'"),
        ({"base_shift": None}, "base_shift of a config.json is None, but it must be a finite number"),
        ({"base_image_seq_len": 1.5}, "base_image_seq_len of a config.json is 1.5, but it must be an integer"),
        ({"time_shift_type": "linear", "base_shift": -1.0}, "shifts images of 4 tokens by -1.1.*, but a shift must be positive"),
        ({"shift_terminal": 1.5}, "shift_terminal of a config.json is 1.5, but it must be between 0 and 1"),
        ({"use_karras_sigmas": True, "use_exponential_sigmas": True}, "both use_karras_sigmas and use_exponential_sigmas, of which"),
        ({"base_shift": 1e9}, "shifts images of 4 tokens by inf, but a shift must be positive"),
    ],
)
def test_a_shift_by_size_that_is_none_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        grid_of(grid_shift({"use_dynamic_shifting": True} | changes), 4)


@pytest.mark.parametrize(("variant", "steps"), [pytest.param("medium-3.5", 28, marks=pytest.mark.slow), ("medium-3.5", 10), ("odd", 7)])
def test_skipped_layers_are_diffusers(tiny, pipelines, variant, steps):
    """Of 28 steps the first to the fifth, of 7 the first has the extra pass, counted from 0."""
    height, width = size(tiny, variant)
    start = noise(tiny, variant, 1)
    options = {"num_inference_steps": steps, "guidance_scale": 4.0, "height": height, "width": width, "max_sequence_length": TOKENS}
    theirs = pipelines(variant)("a fox", latents=start, skip_guidance_layers=[1], output_type="latent", **options).images
    model = loaded(tiny, variant)
    options = {"guidance": 4.0, "size": (height, width), "latents": start, "output": "latents", "tokens": TOKENS}
    close(model.sample("a fox", steps=steps, skip_layers=[1], **options), theirs)
    plain = model.sample("a fox", steps=steps, **options)
    assert float((plain - theirs).abs().max() / theirs.abs().max()) > 1e-2


def test_another_scale_and_window_of_skipped_layers_is_diffusers_too(tiny, pipelines):
    start = noise(tiny, "medium-3.5", 1)
    theirs = pipelines("medium-3.5")(
        "a fox",
        num_inference_steps=10,
        max_sequence_length=TOKENS,
        height=64,
        width=96,
        latents=start,
        output_type="latent",
        skip_guidance_layers=[0, 2],
        skip_layer_guidance_scale=1.5,
        skip_layer_guidance_start=0.2,
        skip_layer_guidance_stop=0.7,
    ).images
    skip = SkipLayers((0, 2), 1.5, steps=(0.2, 0.7))
    options = {"steps": 10, "size": (64, 96), "latents": start, "output": "latents", "tokens": TOKENS}
    mine = loaded(tiny, "medium-3.5").sample("a fox", skip_layers=skip, **options)
    close(mine, theirs)


@pytest.mark.parametrize(("variant", "steps", "strength"), [("medium", 6, 0.6), ("odd", 7, 0.45), ("medium", 3, 1.0)])
def test_image_to_image_is_diffusers(tiny, pipelines, variant, steps, strength):
    """diffusers draws the posterior and the noise itself; so it gets latents for the image, and its generator's noise is drawn here."""
    import diffusers

    height, width = size(tiny, variant)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    model = loaded(tiny, variant)
    known = model.vae.encode(2 * image - 1)
    pipeline = diffusers.StableDiffusion3Img2ImgPipeline.from_pipe(pipelines(variant))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a fox",
        image=known,
        strength=strength,
        num_inference_steps=steps,
        max_sequence_length=TOKENS,
        guidance_scale=3.0,
        height=height,
        width=width,
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
    ).images
    start = torch.randn(known.shape, generator=torch.Generator().manual_seed(5))
    options = {"image": image, "strength": strength, "steps": steps, "guidance": 3.0, "tokens": TOKENS}
    close(model.sample("a fox", latents=start, output="tensor", **options), theirs)
    assert torch.equal(
        model.sample("a fox", latents=start, output="latents", **options), model.sample("a fox", generator=5, output="latents", **options)
    )


def test_images_are_encoded_as_diffusers_does(tiny, pipelines):
    image = torch.rand(2, 3, 96, 64)
    vae = pipelines("medium").vae
    with torch.no_grad():
        theirs = (vae.encode(2 * image - 1).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        close(loaded(tiny, "medium").vae.encode(2 * image - 1), theirs)


def test_inpainting_is_diffusers(tiny, pipelines):
    """Over whole latents; diffusers puts its own re-noised latents back after each step, we let them go their straight way."""
    import diffusers

    model = loaded(tiny, "medium")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 16:48, 24:56] = 1
    pipeline = diffusers.StableDiffusion3InpaintPipeline.from_pipe(pipelines("medium"))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.encode, encode = _mode_only(pipeline.vae), pipeline.vae.encode
    try:
        theirs = pipeline(
            "a fox",
            image=image,
            mask_image=mask,
            strength=1.0,
            num_inference_steps=4,
            max_sequence_length=TOKENS,
            guidance_scale=3.0,
            height=64,
            width=64,
            generator=torch.Generator().manual_seed(5),
            output_type="latent",
        ).images
    finally:
        pipeline.vae.encode = encode
    mine = model.sample("a fox", image=image, mask=mask, steps=4, guidance=3.0, generator=5, output="latents", tokens=TOKENS)
    close(mine, theirs)


def _mode_only(vae):
    """The same encoder whose posterior has no spread, so that diffusers draws the mean (and no number of the generator is left out)."""
    encode = vae.encode

    def call(image, *args, **kwargs):
        said = encode(image, *args, **kwargs)
        said.latent_dist.sample = lambda generator=None: said.latent_dist.mode()
        return said

    return call


def test_guidance_as_an_object_is_the_number_and_more(tiny):
    model, start = loaded(tiny, "medium"), noise(tiny, "medium", 1)
    options = {"steps": 3, "size": (64, 96), "latents": start, "output": "latents", "tokens": TOKENS}
    plain = model.sample("a fox", NEGATIVE, guidance=3.0, **options)
    assert torch.equal(model.sample("a fox", NEGATIVE, guidance=CFG(3.0), **options), plain)
    inside = model.sample("a fox", NEGATIVE, guidance=CFG(3.0, interval=(0.7, 1.0)), **options)
    assert not torch.allclose(inside, plain)
    rescaled = CFG(3.0, rescale=0.7)
    assert not torch.allclose(model.sample("a fox", NEGATIVE, guidance=rescaled, **options), plain)
    negative = dataclasses.replace(rescaled, negative=model.encode_prompt(NEGATIVE, TOKENS))
    assert torch.equal(
        model.sample("a fox", "", guidance=negative, **options), model.sample("a fox", NEGATIVE, guidance=rescaled, **options)
    )
