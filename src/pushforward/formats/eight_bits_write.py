"""Weights in 8 bits as they are written: the values, their scale, and a description of both as ComfyUI reads it.

`layer.weight` holds the values, `layer.weight_scale` the scale (one for a tensor, or one for each row), and `layer.comfy_quant` the
bytes of a JSON with the format. Floats whose scale is 1 have neither, so that any program that reads 8-bit floats casts them.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pushforward._suggestions import unknown
from pushforward.errors import UserError
from pushforward.nn.eight_bits import FLOAT8, STORED_AS, EightBits, kept, layer_linears, rounded, scales_of

Tensors = dict[str, Callable[[], Tensor]]
Narrow = Literal["fp8", "int8"]
NAMES = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2", torch.int8: "int8_tensorwise"}  # ComfyUI's
_OF_A_LAYER = re.compile(r"\.(block|layers)\.\d+\..*\.weight$")  # of a text encoder of transformers


def check_narrow(weights: str | None) -> None:
    """Raise unless this is None or a form in which weights are written."""
    if weights is not None and weights not in get_args(Narrow):
        raise UserError(unknown("weights", str(weights), get_args(Narrow)))


def held(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state_dict of a network, in which weights kept in 8 bits are their values, and the scales (rows, 1) of those."""
    tensors, scales = dict(network.state_dict()), {}
    for path, linear in layer_linears(network).items():
        if kept(linear):
            weight = linear.parametrizations.weight  # type: ignore[union-attr]
            form, prefix = weight[0], f"{path}.parametrizations.weight."  # type: ignore[index]
            assert isinstance(form, EightBits)
            values = tensors.pop(f"{prefix}original0").view(form.kind)
            scales[f"{path}.weight"] = tensors.pop(f"{prefix}original1").view(torch.float32).expand(len(values), 1)
            tensors[f"{path}.weight"] = values
            tensors = {name: one for name, one in tensors.items() if not name.startswith(prefix)}
    return tensors, scales


def described(name: str, values: Callable[[], Tensor], kind: torch.dtype, scale: Tensor) -> Tensors:
    """Return the tensors of one weight in 8 bits, of this dtype, with a scale of any shape."""
    one = scale.reshape(-1)[:1]
    whole = bool((scale == one).all())
    if whole and kind in FLOAT8 and float(one) == 1:
        return {name: values}
    layer = name.removesuffix("weight")
    stored = one.reshape(()).clone() if whole else scale.reshape(-1, 1).contiguous()
    made: Tensors = {name: values, f"{layer}weight_scale": lambda: stored}
    if kind in NAMES:
        # ComfyUI's products in 8 bits take one scale for a tensor of floats
        settings = {"format": NAMES[kind]} | ({} if whole or kind == torch.int8 else {"full_precision_matrix_mult": True})
        text = torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)
        made[f"{layer}comfy_quant"] = lambda: text
    return made


def narrowed(tensors: Tensors, layers: Collection[str], weights: Narrow, scaled: bool) -> Tensors:
    """Return tensors to write, with those of layers in 8 bits: floats with one scale for a tensor, integers with one for each row.

    Args:
        tensors: the tensors.
        layers: names of those to change.
        weights: "fp8" or "int8".
        scaled: whether scales may be written; without them a float is stored as it is.

    Raises:
        UserError: a weight is not finite, or beyond the largest 8-bit float where there is no scale.
    """
    kind, largest = STORED_AS[weights]
    made: Tensors = {}
    for name, make in tensors.items():
        if name not in layers or make().element_size() == 1:
            made[name] = make
            continue
        scale = scales_of(make(), weights, rows=weights == "int8")
        if not bool(scale.isfinite().all()):
            raise UserError(f"{name} has numbers that are not finite, which 8 bits do not hold; save the model without weights=.")
        if not scaled:
            if float(scale) > 1:
                top = f"{name} has a number of size {float(scale) * largest:g}"
                raise UserError(f"{top}, but 8-bit floats without a scale end at {largest:g}; save a single file.")
            made[name] = lambda make=make: make().to(kind)  # type: ignore[misc]
            continue
        made |= described(name, lambda make=make, scale=scale: rounded(make(), scale, weights), kind, scale)  # type: ignore[misc]
    return made


def encoder_tensors(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a text encoder, with the scales of those in 8 bits."""
    tensors, scales = held(encoder)
    for name, scale in scales.items():
        kind, values = tensors[name].dtype, tensors.pop(name)
        tensors |= {key: make() for key, make in described(name, lambda values=values: values, kind, scale).items()}  # type: ignore[misc]
    return tensors


def encoder_layers(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the weights of a text encoder's layers: its Linears inside lists."""
    return {name for name, one in tensors.items() if _OF_A_LAYER.search(name) and one.ndim == 2 and "relative_attention_bias" not in name}


def check_without_scales(tensors: Collection[str], weights: str | None) -> None:
    """Raise if 8 bits need scales in a diffusers folder, where diffusers would use the values alone.

    Raises:
        UserError: they do.
    """
    if weights == "int8" or any(name.endswith("weight_scale") for name in tensors):
        raise UserError(
            "weights in 8 bits with scales are not written to a folder, as diffusers would use them without the scales; save a single "
            "file, or the full model with weights='fp8'."
        )
