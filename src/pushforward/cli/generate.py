"""`pushforward generate MODEL PROMPT`: images from Stable Diffusion 3 or 3.5, in files with embedded settings."""

import dataclasses
import itertools
import secrets
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import PIL.Image
import torch
import tyro

from pushforward._checks import real, whole
from pushforward.cli.drawing import clip_of
from pushforward.cli.loras import DIGESTS, apply_loras, check_loras, check_unchanged, digests
from pushforward.cli.options import check_whole, parse
from pushforward.cli.output import result
from pushforward.cli.pictures import pictures_of
from pushforward.cli.preview import shown
from pushforward.cli.prompts import check_encoders, prompts_of
from pushforward.cli.run import check_file, device_of
from pushforward.cli.samplers import SamplerOptions
from pushforward.errors import UserError
from pushforward.formats.config import from_plain
from pushforward.guidance.cfg import CFG
from pushforward.guidance.guidance import Guidance
from pushforward.guidance.skip_layers import SkipLayers
from pushforward.models.stable_diffusion_3 import StableDiffusion3
from pushforward.nn.eight_bits import Weights
from pushforward.samplers.euler import Euler
from pushforward.samplers.grids import Shifted
from pushforward.samplers.sampler import Sampler
from pushforward.sd3.generation import LEVELS, STEPS, times_of
from pushforward.sd3.png import digest, read_settings, write_png
from pushforward.sd3.prompts import MOST_TOKENS
from pushforward.sd3.run_files import run_of


@dataclasses.dataclass(frozen=True)
class Generate(SamplerOptions):
    """Generate images from a prompt with Stable Diffusion 3 or 3.5.

    By default with 28 steps of Euler's method on the model's grid. Each PNG stores its prompt, seed and settings;
    `pushforward generate --from IMAGE.png` reproduces it, with other settings if you add them.

    Args:
        model: a .safetensors file, a diffusers folder, or a Hub id such as stabilityai/stable-diffusion-3.5-medium.
        prompt: description of the image; "" is the empty prompt, for samples without a condition.
        repeat: a PNG whose settings to use; other options override them.
        prompts: a text file with a prompt in each line, in place of PROMPT.
        negative: negative prompt.
        n: number of images of each prompt; seeds are incremented from --seed.
        seed: seed of the first image; by default a new one, which is printed.
        guidance: guidance scale; values up to 1 disable guidance.
        interval: times (low high) at which to guide, from 0 (image) to 1 (noise).
        clip: keep the predicted latents in a range: HIGH for -HIGH to HIGH, LOW HIGH, or either with `dynamic`, for thresholding by a
            quantile: `--clip 5`, `--clip 5 dynamic 0.999`. The latents of usual images have a standard deviation of about 1.
        rescale: CFG rescale factor from 0 to 1, which reduces the inflated contrast of guidance.
        shift: shift of the time grid towards noise; by default the model's, 3, or one by size.
        height: side of the image in pixels, divisible by 16 (of a run by less); by default 1024, or that of --image.
        width: side of the image in pixels, divisible by 16 (of a run by less); by default 1024, or that of --image.
        image: an image to start from.
        strength: fraction of the noising of --image, above 0 and at most 1; 0.6 by default, or 1 with --mask.
        mask: an image that is white where to repaint.
        skip_layers: blocks for skip-layer guidance, such as 7 8 9 for Stable Diffusion 3.5 medium.
        skip_scale: scale of skip-layer guidance.
        skip_steps: range (start stop) of skip-layer guidance, as fractions of the steps.
        lora: LoRA or DoRA files (.safetensors of diffusers, kohya, ComfyUI, ...), which are merged into the weights; also of the Hub, as
            OWNER/NAME or hf:OWNER/NAME:FILE.safetensors.
        lora_weight: their weights, one for all or one each; 1 is full strength.
        tokens: number of T5 tokens of the prompt, 1 to 512.
        t5: whether to use the text encoder T5.
        dtype: dtype of the weights; "stored" is that of the file.
        weights: "fp8" and "int8" keep the weights of the layers in 8 bits and widen them at each use.
        tiling: whether to decode in tiles, which saves memory and changes the image slightly.
        offload: whether to keep each component on the device only while it is used: slower, with much less memory.
        offload_blocks: the same by blocks of a component, with less memory still.
        batch_size: images per batch. With more than 1, an image may differ in its last bits from the same seed alone.
        device: "auto", "cpu", "cuda", ...
        tokenizers: folder with tokenizer, tokenizer_2 and tokenizer_3, for a model without its own.
        text_encoders: folder of separate files clip_l, clip_g and t5xxl, for a model without its own.
        transformer: a separate file of the transformer, .safetensors or .gguf, in place of the model's.
        out: output PNG; several images have their seed in the name.
        preview: a PNG that is updated at each step with a small preview of the expected image.
        memory: only print the memory that the run would need.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ""
    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT", constructor=str)] = None  # "" is one, and "None"
    repeat: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    prompts: Path | None = None
    negative: str = ""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    seed: int | None = None
    guidance: float = 7.0
    clip: tuple[str, ...] = ()
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    shift: float | None = None
    height: int | None = None
    width: int | None = None
    image: Path | None = None
    strength: float | None = None
    mask: Path | None = None
    skip_layers: tuple[int, ...] = ()
    skip_scale: float = 2.8
    skip_steps: tuple[float, float] = (0.01, 0.2)
    lora: tuple[str, ...] = ()
    lora_weight: tuple[float, ...] = (1.0,)
    tokens: int = 256
    t5: bool = True
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    weights: Weights = "full"
    tiling: bool = False
    offload: bool = False
    offload_blocks: bool = False
    batch_size: int = 1
    device: str = "auto"
    tokenizers: str | None = None
    text_encoders: Path | None = None
    transformer: Path | None = None
    out: Path = Path("image.png")
    preview: Path | None = None
    memory: bool = False

    def __post_init__(self) -> None:
        check_whole(self, {"steps": 1})


SIDE = 16  # pixels that the sides of images are multiples of: 8 of the autoencoder, 2 of the network's patches
# Options that do not change the image, or only apply to one call: not stored in the PNG.
OF_THE_CALL = ("repeat", "prompts", "n", "offload", "offload_blocks", "batch_size", "device", "out", "preview", "memory")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = _options(arguments)
    _check(options)
    given, prompts = pictures_of(options), prompts_of(options.prompt, options.prompts, options.n)
    model = StableDiffusion3.from_pretrained(
        options.model,
        dtype=None if options.dtype == "stored" else getattr(torch, options.dtype),
        device=device_of(options.device),
        tokenizers=options.tokenizers,
        text_encoders=options.text_encoders,
        t5=options.t5,
        offload="blocks" if options.offload_blocks else options.offload,
        tiling=options.tiling,
        transformer=options.transformer,
        weights=options.weights,
    )
    size = _size(options, model, given["image"])
    if options.memory:
        memory = model.memory(size, min(options.batch_size, len(prompts)), options.tokens)
        result(None, memory=memory)
        print(memory)
        return 0
    apply_loras(model, options.lora, options.lora_weight, merge=options.weights == "full")
    grid = model.grid(size, options.shift)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    seeds = list(range(seed, seed + len(prompts)))
    made = model.sample(
        prompts,
        options.negative,
        size=size,
        sampler=_sampler(options, grid),
        shift=options.shift,
        guidance=_guidance(options),
        generator=seeds,
        skip_layers=_skip_layers(options),
        image=given["image"],
        strength=options.strength,
        mask=given["mask"],
        tokens=options.tokens,
        batch_size=options.batch_size,
        callback=shown(options.preview),
    )
    paths = [options.out if len(seeds) == 1 else options.out.with_stem(f"{options.out.stem}-{one}") for one in seeds]
    for image, path, one, prompt in zip(made, paths, seeds, prompts, strict=True):
        write_png(image, path, _settings(dataclasses.replace(options, prompt=prompt, seed=one, height=size[0], width=size[1])))
    result("\n".join(map(str, paths)), images=[{"path": path, "seed": one} for path, one in zip(paths, seeds, strict=True)], size=size)
    which = f"{len(seeds)} images of {size[1]}x{size[0]}" if len(seeds) > 1 else f"an image of {size[1]}x{size[0]}"
    print(f"{which} (seed {seed}) {'are' if len(seeds) > 1 else 'is'} in {', '.join(map(str, paths))}.")
    return 0


def _options(arguments: Sequence[str]) -> Generate:
    """Return the options; with --from they override the settings stored in the image."""
    parts = {"prog": "pushforward generate", "description": "Generate images with Stable Diffusion 3 or 3.5."}
    source = next((after for one, after in itertools.pairwise(arguments) if one == "--from"), None)
    source = source or next((one.partition("=")[2] for one in arguments if one.startswith("--from=")), None)
    settings = {} if source is None else read_settings(Path(source))
    options: Generate = parse(Generate, arguments, default=None if source is None else _repeated(Path(source), settings), **parts)
    for name in ("image", "mask"):
        picture = getattr(options, name)
        if (
            picture is not None
            and str(picture) == settings.get(name)
            and picture.is_file()
            and digest(picture) != settings.get(f"{name}_sha256")
        ):
            raise UserError(f"--from is {source}, made with --{name} {picture}, which has changed since; give the {name} as it was.")
    if not options.model:
        raise UserError('there is no model; give one, and a prompt: pushforward generate MODEL "a red fox".')
    if options.prompt is None and options.prompts is None and source is None and not options.memory:
        raise UserError('there is no prompt; give one: pushforward generate MODEL "a red fox".')
    check_unchanged(str(source), settings, options.lora)
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out is {options.out}, but images are written as .png, which stores their settings; use this suffix.")
    return options


def _check(options: Generate) -> None:
    """Raise an error for what cannot be: numbers out of range, paths that do not exist or cannot be written; nothing is loaded yet."""
    for name, value in (("-n", options.n), ("--batch-size", options.batch_size)):
        whole(name, value, 1)
    step = SIDE if run_of(Path(options.model).expanduser()) is None else 1  # a run's parts have their own, which its sizes are checked by
    for name, side in (("--height", options.height), ("--width", options.width)):
        if side is not None and whole(name, side, 1, hint="it is in pixels, such as 1024") % step:
            raise UserError(f"{name} is {side}, but it must be divisible by {SIDE}; try {max(SIDE, round(side / SIDE) * SIDE)}.")
    whole("--tokens", options.tokens, 1, MOST_TOKENS)
    if options.seed is not None:
        whole("--seed", options.seed, 0, 2**62 - 1)
    real("--guidance", options.guidance, hint="7 is usual, and up to 1 there is no guidance")
    if options.shift is not None and not real("--shift", options.shift) > 0:
        raise UserError(f"--shift is {options.shift}, but it must be above 0; 3 is usual.")
    if options.strength is not None and not 0 < real("--strength", options.strength) <= 1:
        raise UserError(f"--strength is {options.strength}, but it must be above 0 and at most 1; 0.6 is usual.")
    grid = Shifted(3.0 if options.shift is None else options.shift, LEVELS)
    times_of(_sampler(options, grid), grid)
    _guidance(options)
    _skip_layers(options)
    check_loras(options.lora, options.lora_weight)
    for name, path in (("--out", options.out), ("--preview", options.preview)):
        if path is not None and not options.memory:
            check_file(path, name)
    if options.transformer is not None and not options.transformer.is_file():
        raise UserError(f"--transformer is {options.transformer}, which is no file; give a .safetensors or .gguf file.")
    check_encoders("--text-encoders", options.text_encoders, options.tokenizers)


def _guidance(options: Generate) -> Guidance | None:
    guidance = CFG(options.guidance, interval=options.interval, rescale=options.rescale)
    made: Guidance | None = clip_of(options.clip, guidance if options.guidance > 1 else None)
    return made


def _skip_layers(options: Generate) -> SkipLayers | None:
    return SkipLayers(options.skip_layers, options.skip_scale, steps=options.skip_steps) if options.skip_layers else None


def _repeated(path: Path, settings: dict[str, Any]) -> Generate:
    hints = typing.get_type_hints(Generate)
    known = [field.name for field in dataclasses.fields(Generate) if field.name not in OF_THE_CALL]
    strange = sorted(settings.keys() - {*known, "version", "image_sha256", "mask_sha256", DIGESTS})
    if strange:
        raise UserError(
            f"--from is {path}, whose settings have {strange[0]!r}, which this version does not know; install the version that wrote it."
        )
    values: dict[str, Any] = {}
    for name in known:
        if name in settings:
            is_path = hints[name] == Path | None
            value = from_plain(settings[name], str | None if is_path else hints[name], f"--from is {path}, whose {name}")
            values[name] = Path(value) if is_path and value is not None else value
    return Generate(repeat=path, **values)


def _settings(options: Generate) -> dict[str, Any]:
    """Return the settings that reproduce the image, as plain data."""
    import pushforward

    settings = {name: value for name, value in vars(options).items() if name not in OF_THE_CALL}
    for name in ("image", "mask"):
        if settings[name] is not None:
            settings[f"{name}_sha256"] = digest(settings[name])
    return {
        "version": pushforward.__version__,
        **digests(options.lora),
        **{name: str(one) if isinstance(one, Path) else one for name, one in settings.items()},
    }


def _size(options: Generate, model: StableDiffusion3, image: PIL.Image.Image | None) -> tuple[int, int]:
    height, width = model.size if image is None else image.size[::-1]
    return height if options.height is None else options.height, width if options.width is None else options.width


def _sampler(options: Generate, grid: Shifted) -> Sampler:
    """Return the sampler, on Stable Diffusion 3's grid of times unless another one is given."""
    own = Euler(STEPS, grid=grid)
    other = [name for name in options.sampler_options if name in ("grid", "grid.factor")]
    if other and options.shift is not None:
        raise UserError(f"--shift is {options.shift}, but --sampler-options give {other[0]}, another grid; leave one of them out.")
    if options.sampler == "euler" and options.steps is None:
        options = dataclasses.replace(options, sampler=None)
    return options.chosen(own, own.grid) or own
