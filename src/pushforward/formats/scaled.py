"""Files whose 8-bit weights have separate scales: weight = values scale, one scale for a tensor or one for each row.

The scale of `layer.weight` is named `layer.scale_weight` (with a tensor `scaled_fp8`) or `layer.weight_scale`, by ComfyUI, whose guide to
quantisation gives the formula, and by others. Scales of inputs belong to products in 8 bits, which are not computed here.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pushforward._files import json_of
from pushforward.errors import CheckpointError, NoCheckpointError
from pushforward.formats.tensor_file import Stored

SCALES = ("scale_weight", "weight_scale")
OTHERS = (".weight_scale_2", ".weight_scale_inv", ".weight_zero_point", ".weight_packed", ".pre_quant_scale", ".absmax", ".quant_state")
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}
SETTINGS = {"format", "full_precision_matrix_mult"}


def scale_name(name: str, names: Collection[str] | Mapping[str, object] | Stored) -> str | None:
    """Return the name of the scale of a stored weight, or None if it has none."""
    layer = name.removesuffix("weight")
    return None if layer == name else next((layer + one for one in SCALES if layer + one in names), None)


def scale_of(where: object, name: str, scale: Tensor, rows: int) -> Tensor:
    """Return a stored scale in float32, of shape (1, 1) or (rows, 1).

    Raises:
        NoCheckpointError: it is one for each block of a weight.
        CheckpointError: it is no float, or not positive and finite.
    """
    if scale.numel() not in (1, rows) or scale.ndim > 2 or (scale.ndim == 2 and scale.shape[1] != 1):
        raise NoCheckpointError(
            f"{where}: {name} is {tuple(scale.shape)}, but weights are read with one scale, or with one for each of their {rows} rows; "
            "give a file with such scales, or in 16 bits."
        )
    if not scale.is_floating_point() or not bool(scale.float().isfinite().all()):
        raise CheckpointError(f"{where}: {name} has numbers that are not finite floats, but it scales a weight; download it again.")
    least = float(scale.float().min())
    if least <= 0:
        raise CheckpointError(f"{where}: {name} has {least:g}, but scales of a weight are positive; download it again.")
    return scale.float().reshape(-1, 1)


def check_quantisation(stored: Stored) -> None:
    """Raise unless the weights of a part are plain, or in 8 bits with scales.

    Raises:
        NoCheckpointError: they are quantised in another way.
        CheckpointError: a scale is missing, or a weight has another dtype than is stated.
    """
    for name in stored:
        if name.endswith(OTHERS):
            raise NoCheckpointError(f"{stored.where} holds {name}, of a quantisation that is not read; {REMEDY}.")
        if name.endswith(".comfy_quant"):
            stated = _format(stored.where, name, _text(stored.mapped(name)))
            weight = f"{name.removesuffix('comfy_quant')}weight"
            if weight in stored and stored.entry(weight).dtype != FORMATS[stated]:
                dtype = stored.entry(weight).dtype
                raise CheckpointError(f"{stored.where}: {weight} is stored as {dtype}, but {name} states {stated}; download it again.")
            if weight in stored and scale_name(weight, stored) is None:
                raise CheckpointError(f"{stored.where} lacks the scale of {weight}, which {name} states; download it again.")


REMEDY = "give a file in 8-bit floats, as GGUF or in 16 bits"


def _text(tensor: Tensor) -> str:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes().decode("utf-8", errors="replace")


def _format(where: Path, name: str, text: str) -> str:
    try:
        settings = json_of(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict) or settings.get("format") not in FORMATS or settings.keys() - SETTINGS:
        raise NoCheckpointError(f"{where}: {name} is {json.dumps(text[:80])}, a quantisation that is not read; {REMEDY}.")
    return str(settings["format"])
