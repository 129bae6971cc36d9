"""The options of `pushforward finetune`, checked before anything is loaded."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pushforward._checks import real, whole
from pushforward.cli.configuration import section_of, settings_of
from pushforward.cli.options import FIELDS, choice
from pushforward.cli.prompts import check_encoders
from pushforward.cli.train import RunOptions, parsed_records
from pushforward.errors import UserError
from pushforward.families.dropped import checked_share
from pushforward.formats.config import call_checked, from_plain, to_plain
from pushforward.formats.lora_write import LoRALayout
from pushforward.formats.model import described, located
from pushforward.formats.run import FINETUNE
from pushforward.nn.eight_bits import Weights
from pushforward.sd3.hub import check_place
from pushforward.sd3.lora_training import ATTENTION, imported_peft
from pushforward.sd3.prompts import MOST_TOKENS
from pushforward.sd3.run_files import has_run_files
from pushforward.sd3.text_latents import TextLatents
from pushforward.times import Times
from pushforward.training.settings import Settings

LORA = Settings(steps=1000, batch_size=4, lr=1e-4, warmup=50, ema=0.99, patience=0)
FULL = dataclasses.replace(LORA, lr=1e-5)
PROGRAM = "pushforward finetune"
OF_A_LORA = ("rank", "alpha", "targets", "dora", "layout", "text_encoders")  # options that full fine-tuning does not have
OF_FILES = ("encoders", "tokenizers", "text_encoders")  # options of models with the encoders of Stable Diffusion 3, which no run has


@dataclass(frozen=True)
class Tuning:
    """The model and what of it is trained.

    Args:
        model: a .safetensors file, a diffusers folder, a run of `pushforward train sd3`, or a Hub id such as
            stabilityai/stable-diffusion-3.5-medium.
        size: side of the images in pixels, to which those of a folder are resized and cropped; by default 1024, or that of a run.
        caption: one caption for all images of --data, in place of their own.
        rank: rank of the LoRA.
        alpha: the change of a weight is (alpha / rank) B A; by default the rank.
        targets: ends of the paths of the Linears in the transformer that the LoRA changes; by default the attention of image and text.
        dora: train a DoRA, which has a magnitude for each row too.
        text_encoders: train the LoRA in CLIP-L and CLIP-G too, which then encode the captions in each step.
        layout: names in the LoRA's file: those of diffusers, which ComfyUI reads as well, or of kohya.
        full: train all weights of the transformer in place of a LoRA.
        save_weights: with --full, "fp8" and "int8" write the model as one file with the weights of the layers in 8 bits.
        drop_text: share of the images that are trained without their caption, as guidance needs it.
        prior: a folder of images of the subject's class, which the model is to keep (prior preservation).
        prior_weight: weight of their loss; 1 is half of each batch.
        prior_caption: one caption for all images of --prior, in place of their own.
        mirrored: learn each image of --data mirrored as well.
        cache: folder of encoded latents and captions, which other runs on the same data can share; by default the run's folder latents.
        tokens: number of T5 tokens of a caption, 1 to 512.
        t5: whether to use the text encoder T5.
        dtype: dtype of the weights that are not trained; "stored" is that of the file.
        encoders: folder of separate text encoders clip_l, clip_g and t5xxl, for a file without its own.
        tokenizers: folder with tokenizer, tokenizer_2 and tokenizer_3, for a model without its own.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = ""
    size: int | None = None
    caption: str = ""
    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ATTENTION
    dora: bool = False
    text_encoders: bool = False
    layout: LoRALayout = "diffusers"
    full: bool = False
    save_weights: Weights = "full"
    drop_text: float = 0.1
    prior: Path | None = None
    prior_weight: float = 1.0
    prior_caption: str = ""
    mirrored: bool = False
    cache: Path | None = None
    tokens: int = 256
    t5: bool = True
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    encoders: Path | None = None
    tokenizers: str | None = None


def asked(given: Sequence[str], config: Mapping[str, Any]) -> Any:
    """Return the options of a command line over those of a run to resume, checked: the sections run, training and tuning.

    Raises:
        UserError: an option is missing, out of range, or excludes another one.
    """
    data = RunOptions(data=str(config.get("data", {}).get("name", "")))
    training = settings_of(config["training"]) if config else None
    tuning = _of_config(section_of({"model": config.get(FINETUNE, {})}, "model"))
    options = {"prog": PROGRAM, "description": "Fine-tune a Stable Diffusion 3 on images with captions, by a LoRA or all weights."}
    parsed = parsed_records({"run": data, "training": training or LORA, "tuning": tuning}, given, **options)
    if parsed.tuning.full and training is None:
        parsed = parsed_records({"run": data, "training": FULL, "tuning": tuning}, given, **options)
    _check(parsed.tuning, parsed.run, parsed.training)
    return parsed


def _of_config(section: Mapping[str, Any]) -> Any:
    """Return the record of a configuration's section, with the field `times`, a choice that is known only now."""
    times = from_plain(section.get("times"), Times | None, f"{FINETUNE}.times")
    shown = (
        "which t to train on, of which 1 is noise; by default the logit-normal (0, 1), shifted as the model's grid of times, or a run's own"
    )
    named: Any = Annotated[choice(FIELDS["times"], Times) | None, tyro.conf.arg(help=shown)]
    record = dataclasses.make_dataclass("Tuning", [("times", named, dataclasses.field(default=times))], bases=(Tuning,), frozen=True)
    record.__doc__ = Tuning.__doc__
    plain = call_checked(Tuning, {name: one for name, one in section.items() if name != "times"}, FINETUNE)
    return record(**vars(plain))


def plain_of(tuning: Any) -> dict[str, Any]:
    """Return the options as plain data, from which `asked` restores them."""
    plain: dict[str, Any] = to_plain(vars(tuning))
    return plain


def run_of(model: str) -> TextLatents | None:
    """Return the flow of a run of text to image without its weights, or None for a model in files.

    Raises:
        UserError: it is a run of something else.
    """
    place = Path(model).expanduser()
    if not has_run_files(place):
        return None
    found = described(located(place))
    if not isinstance(found, TextLatents):
        raise UserError(f"{model} is a run of another preset; give one of `pushforward train sd3`, or a Stable Diffusion 3.")
    return found


def _check(tuning: Any, run: RunOptions, settings: Settings) -> None:
    if not tuning.model:
        raise UserError(f"there is no model; give one, and images with captions: {PROGRAM} MODEL --data FOLDER.")
    if not run.data:
        raise UserError(f"there is no data; give images with captions: {PROGRAM} {tuning.model} --data FOLDER.")
    check_place(tuning.model)
    _check_numbers(tuning, settings)
    _check_kind(tuning)
    check_encoders("--encoders", tuning.encoders, tuning.tokenizers)
    if tuning.prior is not None and not tuning.prior.expanduser().is_dir():
        raise UserError(f"--prior is {tuning.prior}, which is no folder; give a folder of images of the subject's class.")
    if tuning.prior is None and (tuning.prior_caption or tuning.prior_weight != Tuning.prior_weight):
        raise UserError("there is a weight or caption of the prior, but no --prior; give the folder of its images, or leave it out.")


def check_apart(out: Path, tuning: Any) -> None:
    """Raise if a run's folder holds the model, which overwriting it would remove.

    Raises:
        UserError: it does.
    """
    place = Path(tuning.model).expanduser()
    if place.exists() and out.resolve() in (place.resolve(), *place.resolve().parents):
        raise UserError(f"--out is {out}, which holds the model that is fine-tuned; give another folder.")


def _check_numbers(tuning: Any, settings: Settings) -> None:
    if tuning.size is not None:
        whole("--size", tuning.size, 1, hint="it is in pixels, such as 1024")
    whole("--rank", tuning.rank, 1, hint="16 is usual")
    if tuning.alpha is not None and real("--alpha", tuning.alpha) == 0:
        raise UserError("--alpha is 0, which switches the LoRA off; by default it is the rank.")
    whole("--tokens", tuning.tokens, 1, MOST_TOKENS)
    checked_share("drop_text", tuning.drop_text)
    if not real("--prior-weight", tuning.prior_weight) > 0:
        raise UserError(f"--prior-weight is {tuning.prior_weight}, but it must be above 0; 1 is half of each batch.")
    share = tuning.prior_weight / (1 + tuning.prior_weight)
    if tuning.prior is not None and not 1 <= int(settings.batch_size * share) < settings.batch_size:
        raise UserError(
            f"--batch-size is {settings.batch_size}, of which a share of {share:.2g} is the prior's, so that a batch would not have both; "
            "give a larger one."
        )


def _check_kind(tuning: Any) -> None:
    """Raise for options that the kind of training, or of model, does not have."""
    defaults = {field.name: field.default for field in dataclasses.fields(Tuning)}
    changed = [name for name in typing.get_type_hints(Tuning) if getattr(tuning, name) != defaults[name]]
    if tuning.full:
        strange = next((name for name in OF_A_LORA if name in changed), None)
        if strange is not None:
            raise UserError(f"--full trains all weights of the transformer, but --{_typed(strange)} is of a LoRA; leave one of them out.")
    elif tuning.save_weights != "full":
        raise UserError(f"--save-weights is {tuning.save_weights}, but a LoRA is not written in 8 bits; add --full, or leave it out.")
    else:
        imported_peft()
    flow = run_of(tuning.model)
    if flow is None:
        if tuning.size is not None and tuning.size % 16:
            raise UserError(f"--size is {tuning.size}, but it must be divisible by 16; try {max(16, round(tuning.size / 16) * 16)}.")
        return
    if tuning.save_weights != "full":
        raise UserError(f"{tuning.model} is a run, and becomes a run again, which is not written in 8 bits; leave --save-weights out.")
    strange = next((name for name in OF_FILES if name in changed), None)
    if strange is not None:
        raise UserError(f"{tuning.model} is a run, whose text encoders are its own and are not trained; leave --{_typed(strange)} out.")


def _typed(name: str) -> str:
    return name.replace("_", "-")
