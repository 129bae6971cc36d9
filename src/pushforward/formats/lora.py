"""LoRA files of Stable Diffusion 3: diffusers and peft, kohya, OneTrainer, LyCORIS, raw peft, ComfyUI."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pushforward.errors import CheckpointError, NoCheckpointError
from pushforward.formats.lora_names import Place, part_of, places
from pushforward.formats.lora_settings import RAW, LoRASettings, read_settings
from pushforward.formats.sd3_find import open_tensors
from pushforward.formats.tensor_file import TensorFile
from pushforward.nn.eight_bits import FLOAT8
from pushforward.nn.lora import LowRank
from pushforward.registry import export

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # of diffusers' and of peft's folders
NAMES = {"transformer": "the transformer", "clip_l": "CLIP-L", "clip_g": "CLIP-G", "t5": "T5"}
ROLES = {
    **{f"{one}.weight": "down" for one in ("lora_A", "lora_down", "lora.down", "lora_linear_layer.down")},
    **{f"{one}.weight": "up" for one in ("lora_B", "lora_up", "lora.up", "lora_linear_layer.up")},
    "alpha": "alpha",
    **dict.fromkeys(("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight"), "magnitude"),
}
# In the state_dict of a model of peft the adapter's name stands behind the part's: lora_A.style.weight, or lora_embedding_A.style.
ADAPTER = re.compile(r"\.(lora_(?:[AB]|embedding_[AB]|magnitude_vector))\.(?!(?:weight|bias)$)([^.]+)(?=\.weight$|\.bias$|$)")
OTHERS = (  # marks of tensors that are no LoRA of a Linear, and what they are
    (".hada_", "a LoHa"),
    (".lokr_", "a LoKr"),
    (".oft_", "an OFT"),
    (".boft_", "a BOFT"),
    (".a1.", "a GLoRA"),
    (".lora_mid", "a Tucker decomposition"),
    (".lora_embedding_", "a LoRA of an embedding"),
    (".lora_B.bias", "a bias of a LoRA"),
    (".lora_up.bias", "a bias of a LoRA"),
    (".diff_b.", "the difference of a bias"),
    (".diff.", "the difference of a whole weight"),  # and not the transformer's prefix diffusion_model
    (".w_norm", "the difference of a norm"),
    (".b_norm", "the difference of a norm"),
    (".set_weight", "a whole weight"),
    (".modules_to_save", "a whole module"),
)
SHOWN = 3  # names in a message


@export("formats.LoRA")
@dataclass(frozen=True, eq=False)
class LoRA:
    """The low-rank changes of a Stable Diffusion 3, in this library's own names of modules.

    Args:
        parts: changes of "transformer", "clip_l", "clip_g" and "t5"; parts without changes are absent.
    """

    parts: Mapping[str, tuple[LowRank, ...]]

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


@export("formats.read_lora")
def read_lora(path: str | Path, components: Mapping[str, nn.Module], *, text_encoders: bool = True) -> LoRA:
    """Read a LoRA or DoRA for these components, in any of the layouts in which they are written for Stable Diffusion 3.

        W' = W + (alpha / rank) B A

    alpha is, in this order, the tensor `.alpha` (kohya, OneTrainer, LyCORIS; 0 there is the rank), what the header's
    `lora_adapter_metadata` (diffusers) or adapter_config.json next to the file (peft) states (8, peft's default, if these leave out
    `lora_alpha` alone), or else the rank.

    Args:
        path: the .safetensors file, or a folder with the one of diffusers or peft.
        components: the networks that it is for: "transformer" (an `nn.MMDiT`), "clip_l", "clip_g" and "t5".
        text_encoders: whether to read changes of text encoders; False leaves them out.

    Returns:
        The changes, whose tensors are in memory in their stored dtype, 8-bit floats as bfloat16.

    Raises:
        NoCheckpointError: it holds no LoRA, one of another model (the message names modules that do not fit), one of a text encoder that
            is not among the components, or tensors of another method such as LoHa or LoKr.
        CheckpointError: it is truncated, or tensors are missing, have shapes that do not fit, or numbers that are not finite.

    Example:
        >>> read_lora("style.safetensors", {})
        Traceback (most recent call last):
        pushforward.errors.NoCheckpointError: there is no file style.safetensors; give the path of a .safetensors file.

    Source: for each layout the code that writes or reads it: diffusers' SD3LoraLoaderMixin, kohya's lora_sd3.py, ComfyUI's lora.py, peft.
    """
    file = open_tensors(lora_file(Path(path)))
    found = _modules(file)
    known = places(components)
    if not text_encoders:
        found = {name: tensors for name, tensors in found.items() if part_of(name) == "transformer"}
    _check_fit(file.path, found, known, components)
    settings = read_settings(file, any(name.startswith(RAW) for name in found))
    parts: dict[str, list[LowRank]] = {}
    taken: dict[tuple[str, str, int, int], str] = {}
    for name, tensors in found.items():
        place = known[name]
        key = (place.part, place.module, place.start, place.rows)
        if key in taken:
            raise CheckpointError(f"{file.path} holds both {taken[key]} and {name}, which are the same module; keep one of them.")
        taken[key] = name
        parts.setdefault(place.part, []).append(_change(file, name, tensors, place, settings))
    return LoRA({part: tuple(changes) for part, changes in parts.items()})


def check_lora(path: str | Path) -> None:
    """Raise unless a path is a complete file with a LoRA, of whatever model; its tensors are not read.

    Raises:
        CheckpointError: as `read_lora`.
    """
    _modules(open_tensors(lora_file(Path(path))))


def lora_file(path: Path) -> Path:
    """Return the file of a path that may be the folder of one.

    Raises:
        NoCheckpointError: the folder has no such file, or several.
    """
    if not path.is_dir():
        return path
    here = [path / name for name in FILES if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
    if len(here) != 1:
        raise NoCheckpointError(f"{path} holds {len(here)} files that may be a LoRA; give the path of one .safetensors file.")
    return here[0]


def _modules(file: TensorFile) -> dict[str, dict[str, str]]:
    """Return the names of each module's tensors by role; raise for a tensor that has none."""
    found: dict[str, dict[str, str]] = {}
    others = []
    adapters = sorted({match[2] for match in map(ADAPTER.search, file.entries) if match})
    if len(adapters) > 1:
        raise NoCheckpointError(
            f"{file.path} holds {len(adapters)} LoRAs, the adapters {', '.join(map(repr, adapters[:SHOWN]))}, but one file is one LoRA; "
            f"write each to its own, by peft's save_pretrained(folder, selected_adapters=[{adapters[0]!r}])."
        )
    for name in sorted(file.entries):
        plain = _plain(name)
        ending = next((one for one in ROLES if plain.endswith(f".{one}.")), None)
        if ending is None:
            others.append(name)
        else:
            role, module = ROLES[ending], plain[1:].removesuffix(f".{ending}.")
            if role in found.setdefault(module, {}):
                raise CheckpointError(f"{file.path} holds both {found[module][role]} and {name}; keep one of them.")
            found[module][role] = name
    kinds = {mark: what for mark, what in OTHERS if any(mark in _plain(name) for name in others)}
    if kinds:
        mark, what = next(iter(kinds.items()))
        name = next(one for one in others if mark in _plain(one))
        raise NoCheckpointError(f"{file.path} holds {name}, {what}, but only LoRA and DoRA of Linear layers are supported; convert it.")
    if not found:
        example = f"it holds {others[0]}" if others else "it is empty"
        raise NoCheckpointError(f"{file.path} is not a LoRA: {example}; give a file with lora_A and lora_B, or lora_down and lora_up.")
    if others:
        raise NoCheckpointError(f"{file.path} holds {others[0]}, which is no tensor of a LoRA ({len(others)} such tensors); remove them.")
    return found


def _plain(name: str) -> str:
    """Return a name without that of an adapter, between dots."""
    return "." + ADAPTER.sub(r".\1", name) + "."


def _check_fit(path: Path, found: Mapping[str, object], known: Mapping[str, Place], components: Mapping[str, nn.Module]) -> None:
    """Raise unless each module of a file is one of the components'."""
    misfits = [name for name in found if name not in known]
    absent = next((part for part in map(part_of, misfits) if part not in components), None)
    if absent is not None:
        raise NoCheckpointError(
            f"{path} also changes {NAMES[absent]}, which this model does not have; load it with {NAMES[absent]}, or give "
            "text_encoders=False to leave the text encoders out."
        )
    if misfits:
        named = ", ".join(misfits[:SHOWN])
        raise NoCheckpointError(
            f"{path} is a LoRA for another model: {len(misfits)} of its {len(found)} modules are not in this one, such as {named}."
        )
    if not found:
        raise NoCheckpointError(f"{path} only changes text encoders, which text_encoders=False leaves out; leave that out.")


def _change(file: TensorFile, name: str, tensors: Mapping[str, str], place: Place, settings: LoRASettings) -> LowRank:
    """Return the change of one module."""
    for role in ("down", "up"):
        if role not in tensors:
            raise CheckpointError(f"{file.path} has {next(iter(tensors.values()))} without its lora_{role}; download it again.")
    down, up = (_matrix(file, tensors[role]) for role in ("down", "up"))
    rank = len(down)
    if rank < 1 or up.shape[1] != rank:
        raise CheckpointError(f"{file.path}: {name} has factors {tuple(up.shape)} and {tuple(down.shape)}, whose ranks differ or are 0.")
    if (len(up), down.shape[1]) != place.shape:
        raise NoCheckpointError(
            f"{file.path} is a LoRA for another model: it changes {name} by {(len(up), down.shape[1])}, but its weight is {place.shape}."
        )
    scale = settings.scale(name, rank)
    if "alpha" in tensors:
        alpha = file.mapped(tensors["alpha"])  # kohya's is an integer where it was left to be the rank
        if alpha.numel() != 1 or alpha.dtype == torch.bool or alpha.is_complex() or not math.isfinite(alpha.item()):
            raise CheckpointError(f"{file.path}: {tensors['alpha']} must be one finite number; download it again.")
        scale = alpha.item() / rank or 1.0
    magnitude = None
    if "magnitude" in tensors:
        magnitude = _finite(file, tensors["magnitude"])
        magnitude = magnitude[:, None] if magnitude.ndim == 1 else magnitude.flatten(1)
        if tuple(magnitude.shape) not in ((place.rows, 1), (1, place.inputs)):
            raise NoCheckpointError(
                f"{file.path}: {tensors['magnitude']} is {tuple(magnitude.shape)}, but it must be {(place.rows, 1)} or {(1, place.inputs)}."
            )
    if place.swapped:
        up = torch.cat(up.chunk(2)[::-1])
        magnitude = magnitude if magnitude is None or len(magnitude) == 1 else torch.cat(magnitude.chunk(2)[::-1])
    return LowRank(place.module, down, up, scale, place.start, magnitude)


def _values(file: TensorFile, name: str) -> Tensor:
    tensor = file.mapped(name)
    if not tensor.is_floating_point():
        raise CheckpointError(f"{file.path}: {name} is stored as {tensor.dtype}, but a LoRA holds floats; convert it to bfloat16.")
    return tensor.to(torch.bfloat16) if tensor.dtype in FLOAT8 else tensor.clone()


def _finite(file: TensorFile, name: str) -> Tensor:
    tensor = _values(file, name)
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(
            f"{file.path}: {name} has numbers that are not finite, of a run that diverged or a damaged file; give another."
        )
    return tensor


def _matrix(file: TensorFile, name: str) -> Tensor:
    """Return a factor (rows, columns); those of a convolution have four axes."""
    tensor = _finite(file, name)
    if tensor.ndim not in (2, 4):
        raise CheckpointError(f"{file.path}: {name} is {tuple(tensor.shape)}, but a factor has two axes; download it again.")
    return tensor.flatten(1)
