"""Finds the files of a Stable Diffusion 3, and assigns their tensors to its parts."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pushforward._checks import is_real, is_whole, shown
from pushforward._files import is_file_name, json_of, text_of
from pushforward.errors import CheckpointError, ConfigError, NoCheckpointError, PushforwardError, UserError
from pushforward.formats.gguf_file import GGUFFile
from pushforward.formats.sd3_names import Layout
from pushforward.formats.tensor_file import Stored, TensorFile

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"}  # our names to diffusers' folders
TOKENIZERS = {"clip_l": "tokenizer", "clip_g": "tokenizer_2", "t5": "tokenizer_3"}
PREFIXES = {  # of the parts in a single file; the values identify each part
    "transformer": (("model.diffusion_model.", "joint_blocks.0."), ("", "joint_blocks.0."), ("", "transformer_blocks.0.attn.add_q_proj.")),
    "vae": tuple((prefix, f"{half}.conv_in.weight") for prefix in ("first_stage_model.", "vae.", "") for half in ("decoder", "encoder")),
    "clip_l": (("text_encoders.clip_l.transformer.", ""),),
    "clip_g": (("text_encoders.clip_g.transformer.", ""),),
    "t5": (("text_encoders.t5xxl.transformer.", ""),),
}
# Tensor name prefixes that identify files of other models, and what they are.
OTHERS = (
    ("lora_", "a LoRA, which is loaded onto a model"),
    ("conditioner.embedders.1.", "Stable Diffusion XL"),
    ("add_embedding.linear_1.", "the U-Net of Stable Diffusion XL"),
    ("double_blocks.0.", "FLUX"),
    ("single_transformer_blocks.0.", "FLUX"),
    ("cond_stage_model.model.", "Stable Diffusion 2"),
    ("cond_stage_model.", "Stable Diffusion 1"),
    ("input_blocks.", "a Stable Diffusion with a U-Net"),
    ("down_blocks.0.resnets.", "a U-Net of diffusers"),
    ("text_model.", "a CLIP text encoder"),
    ("encoder.block.0.", "a T5 text encoder"),
)


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors or a GGUF file; raise for files with a pickle's suffix, since a pickle can run code."""
    if path.suffix.lower() in PICKLES:
        raise NoCheckpointError(f"{path} is a pickle, which can run code and is never opened; convert it to .safetensors.")
    return GGUFFile(path) if path.suffix.lower() == ".gguf" else TensorFile(path)


def check_written_as(path: Path) -> None:
    """Raise for a suffix by which `open_tensors` would not read the safetensors file that is written.

    Raises:
        UserError: it is that of pickles, or of GGUF.
    """
    if path.suffix.lower() in (*PICKLES, ".gguf"):
        raise UserError(
            f"path is {path}, but the file is written as safetensors, and {path.suffix} is another format; name it .safetensors."
        )


def split(everything: Stored) -> dict[str, Stored]:
    """Return the parts in one file or folder, by the names transformer, vae, clip_l, clip_g and t5.

    Raises:
        NoCheckpointError: it contains no part of Stable Diffusion 3; the message describes what it looks like.
    """
    found = {}
    for part, ways in PREFIXES.items():
        for prefix, mark in ways:
            if any(name.startswith(prefix + mark) for name in everything):
                found[part] = everything.under(prefix)
                break
    if not found or not is_sd3(found.get("transformer")):
        raise NoCheckpointError(f"{everything.where} is not a Stable Diffusion 3: {_looks_like(everything)}; give a file of SD3 or SD3.5.")
    return found


def is_sd3(transformer: Stored | None) -> bool:
    """Return whether a transformer, if there is one, has SD3's joint blocks and not also FLUX's single ones."""
    if transformer is None:
        return True
    joint = any(name.startswith(("joint_blocks.0.", "transformer_blocks.0.attn.add_q_proj.")) for name in transformer)
    return joint and not any(name.startswith("single_transformer_blocks.") for name in transformer)


def _looks_like(stored: Stored) -> str:
    for mark, what in OTHERS:
        if any(mark in name if mark == "lora_" else name.removeprefix("model.diffusion_model.").startswith(mark) for name in stored):
            return f"it looks like {what}"
    first = next(iter(stored), None)
    return "it holds no tensors" if first is None else f"it has {len(stored)} tensors, first {first}"


def layout_of(stored: Stored) -> Layout:
    """Return the naming scheme of the tensors of a transformer or an autoencoder."""
    marks = ("transformer_blocks.", "encoder.down_blocks.", "decoder.up_blocks.", "encoder.mid_block.")
    return "diffusers" if any(name.startswith(marks) for name in stored) else "single"


def folder_part(folder: Path, variant: str | None = None) -> Stored:
    """Return the tensors of one folder of diffusers' or transformers', one file or shards.

    Args:
        folder: the folder.
        variant: preferred file variant, such as fp16; by default files without a variant, or any.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    indices = sorted(folder.glob("*.safetensors.index*.json"))
    listed = {index: _listed(index) for index in indices}
    sharded = {file for names in listed.values() for file in names.values()}
    alone = sorted(path for path in folder.glob("*.safetensors") if path.name not in sharded and "-of-" not in path.name)
    choices: dict[str | None, Path] = {}
    for path in (*alone, *indices):  # an index comes last: shards take precedence if both exist
        choices.setdefault(_variant(path), path)
    chosen = choices.get(variant) or choices.get(None) or next(iter(choices.values()), None)
    if chosen is None:
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            open_tensors(pickles[0])
        raise CheckpointError(f"{folder} holds no .safetensors file; download it again, or convert it.")
    if chosen.suffix == ".safetensors":
        return Stored.of(folder, {chosen: open_tensors(chosen)})
    names = listed[chosen]
    for file in sorted(set(names.values())):
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} lacks the shard {file}, which {chosen.name} lists; download it again.")
    files = {file: open_tensors(folder / file) for file in sorted(set(names.values()))}
    for name, file in names.items():
        if name not in files[file].entries:
            raise CheckpointError(f"{folder / file} lacks the tensor {name}, which {chosen.name} lists for it; download it again.")
    return Stored(folder, {name: (files[file], name) for name, file in names.items()})


def _variant(path: Path) -> str | None:
    """Return fp16 for model.fp16.safetensors and model.safetensors.index.fp16.json, None for those without."""
    parts = path.name.split(".")
    if path.suffix == ".json":
        return parts[-2] if parts[-2] != "index" else None
    return parts[-2] if len(parts) > 2 else None


def _listed(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) and is_file_name(file) for file in names.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files; download it again.")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file, empty if there is no file.

    Raises:
        ConfigError: it is not JSON, or not a mapping.
    """
    try:
        read = json_of(text_of(path, ConfigError), finite=False)  # diffusers writes -Infinity; who uses a number checks it
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); download it again.") from None
    if not isinstance(read, dict):
        raise ConfigError(f"{path} holds a {type(read).__name__}, but must be a mapping; download it again.")
    return read


def setting(config: Mapping[str, Any], name: str, default: float) -> float:
    """Return a number of a config.json: an integer from 1 to 65536 where the default is one, and a finite number otherwise.

    Raises:
        ConfigError: it is something else.
    """
    value = config.get(name, default)
    if isinstance(default, int) and is_whole(value) and 0 < value <= 65536:
        return int(value)
    if isinstance(default, float) and is_real(value):
        return float(value)
    allowed = "an integer from 1 to 65536" if isinstance(default, int) else "a finite number"
    raise ConfigError(f"{name} of a config.json is {shown(value)}, but it must be {allowed}, such as {default}; download the file again.")


@contextlib.contextmanager
def shapes_checked(what: str) -> Iterator[None]:
    """Context in which a network is inferred from shapes and settings that a file states; those of no network fail in many ways.

    Raises:
        CheckpointError: they do; errors of this library stay what they are.
    """
    try:
        yield
    except PushforwardError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{what} has tensors or settings of no such network ({reason}); download it again.") from None


def encoder_files(given: str | Path | Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Return separate text encoder files by the names clip_l, clip_g and t5.

    Args:
        given: a folder with files such as clip_l.safetensors, clip_g.safetensors, t5xxl_fp16.safetensors; such files; or a mapping
            from the three names to files of any name.

    Raises:
        UserError: a file that matches none of the names, or two of one.
        NoCheckpointError: the folder holds none.

    Warns:
        UserWarning: a folder holds several of one name: which is used.
    """
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(ENCODERS))
        if unknown:
            raise UserError(f"text_encoders has {unknown[0]!r}, but the names are {', '.join(ENCODERS)}.")
        return {name: Path(path) for name, path in given.items()}
    paths = [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]
    of_folder = len(paths) == 1 and paths[0].is_dir()
    if of_folder:
        every = [*sorted(paths[0].glob("*.safetensors")), *sorted(paths[0].glob("*.gguf"))]  # the first of a part is taken
        paths = [path for path in every if _encoder_name(path)]
        if not paths:
            raise NoCheckpointError(f"{given} holds no clip_l, clip_g or t5xxl .safetensors or .gguf; give the folder that has them.")
    found: dict[str, Path] = {}
    for path in paths:
        name = _encoder_name(path)
        if name is None:
            raise UserError(f"{path} has none of clip_l, clip_g and t5 in its name; give {{'clip_l': PATH, ...}} to identify it.")
        if name in found and not of_folder:
            raise UserError(f"text_encoders has {found[name]} and {path}, both of {name}; give one of them.")
        if name in found:
            warnings.warn(
                f"{given} holds {found[name].name}, which is used, and {path.name}, also of {name}; give files to choose.", stacklevel=3
            )
        found.setdefault(name, path)
    return found


def _encoder_name(path: Path) -> str | None:
    return next((name for name in ENCODERS if name in path.name.lower()), None)
