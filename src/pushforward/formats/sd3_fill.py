"""Fills a network on the meta device with stored tensors, none of which is in memory twice."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from pushforward.errors import CheckpointError, UserError
from pushforward.formats.scaled import scale_name, scale_of
from pushforward.formats.sd3_names import Source
from pushforward.formats.tensor_file import Stored
from pushforward.nn.eight_bits import FLOAT8, STORED_AS, Weights, keep, layer_linears, quantised, widened

N = TypeVar("N", bound=nn.Module)


def filled(
    net: N,
    stored: Stored,
    sources: Mapping[str, Source],
    dtype: torch.dtype | None,
    device: torch.device | str,
    looks: str,
    kept: tuple[str, ...] = (),
    weights: Weights = "full",
) -> N:
    """Return a network in eval mode with its tensors, which are those of `sources` in a file.

    Args:
        net: the network, on the meta device.
        stored: the tensors of the file.
        sources: the source of each tensor of its state_dict.
        dtype: dtype of the tensors; None is the most common stored one of those that are cast, bfloat16 for 8 bits.
        device: device of the tensors.
        looks: what the file looks like, for messages.
        kept: tensors that keep their stored dtype.
        weights: how the weights of its layers are kept.

    Raises:
        CheckpointError: tensors are missing, have wrong shapes, or are no floats.
        UserError: the dtype is none of weights.
    """
    expected = {name: source.shape for source in sources.values() for name in source.names}
    missing = [name for name in expected if name not in stored]
    if missing:
        raise CheckpointError(f"{stored.where} lacks {len(missing)} tensors ({looks}), first {missing[0]}; download or convert it again.")
    for name, shape in expected.items():
        if stored.entry(name).shape != shape:
            raise CheckpointError(f"{stored.where}: {name} is {stored.entry(name).shape}, but must be {shape} ({looks}).")
        stored_as = stored.entry(name).dtype
        if not stored_as.is_floating_point and not (stored_as == torch.int8 and scale_name(name, stored)):
            raise CheckpointError(f"{stored.where}: {name} is stored as {stored_as}, but weights are floats; convert the file to bfloat16.")
    if dtype is not None and (not dtype.is_floating_point or dtype in FLOAT8):
        raise UserError(f"dtype is {dtype}, but weights must have a floating dtype for computation; use torch.bfloat16 or torch.float32.")
    common = dtype or usual_dtype(stored, [name for key, source in sources.items() if key not in kept for name in source.names])
    own = net.state_dict()
    small = {} if weights == "full" else {f"{path}.weight": one for path, one in layer_linears(net).items()}
    tensors = {
        key: _tensor(stored, source, own[key].shape, _wanted(stored.entry(source.names[0]).dtype, common, key in kept)).to(device)
        for key, source in sources.items()
        if key not in small
    }
    net.load_state_dict(tensors, assign=True, strict=not small)
    for key, linear in small.items():
        values, scale = _in_8_bits(stored, sources[key], own[key].shape, weights)
        keep(linear, values.to(device), scale.to(device), common)
    return (net.requires_grad_(False) if small else net).eval()


def usual_dtype(stored: Stored, names: Iterable[str]) -> torch.dtype:
    """Return the dtype of most stored bytes among the names; bfloat16 for formats of fewer than 16 bits, which are storage only."""
    sizes: Counter[torch.dtype] = Counter()
    for name in names:
        entry = stored.entry(name)
        sizes[torch.bfloat16 if entry.coded or entry.dtype.itemsize == 1 else entry.dtype] += entry.size
    return sizes.most_common(1)[0][0]


def _wanted(here: torch.dtype, common: torch.dtype, keep: bool) -> torch.dtype:
    return here if keep and here not in FLOAT8 else common


def _tensor(stored: Stored, source: Source, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return one tensor: memory-mapped if unchanged, else a new one filled without the map."""
    entries = [stored.entry(name) for name in source.names]
    if len(entries) == 1 and entries[0].dtype == dtype and not source.swapped and not scale_name(source.names[0], stored):
        return stored.mapped(source.names[0]).view(shape)
    whole = torch.empty(shape, dtype=dtype)
    for name, part in zip(source.names, whole.chunk(len(entries)), strict=True):
        scale = _scale(stored, name)
        if scale is None:
            stored.read_into(name, part)
        else:
            values = stored.mapped(name).reshape(len(part), -1)
            part.copy_(widened(values, scale, torch.promote_types(dtype, torch.float32)).view(part.shape))
    return _in_our_order(whole, source)


def _in_8_bits(stored: Stored, source: Source, shape: torch.Size, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return a weight in 8 bits with its scales: the stored bits if they are of this kind, else quantised."""
    kinds = {stored.entry(name).dtype for name in source.names}
    if len(kinds) > 1 or not kinds <= {*FLOAT8} | {torch.int8} or (kinds == {torch.int8}) != (STORED_AS[weights][0] == torch.int8):
        return quantised(_tensor(stored, source, shape, torch.float32), weights)
    values, scales = [], []
    for name in source.names:
        part = stored.mapped(name)
        scale = _scale(stored, name)
        values.append(part.view(torch.uint8))
        scales.append((torch.ones(1, 1) if scale is None else scale).expand(len(part), 1))
    if len(values) == 1 and not source.swapped:
        return values[0].view(*kinds), scales[0].contiguous()
    return _in_our_order(torch.cat(values), source).view(*kinds), _in_our_order(torch.cat(scales), source)


def _scale(stored: Stored, name: str) -> Tensor | None:
    named = scale_name(name, stored)
    return None if named is None else scale_of(stored.where, named, stored.mapped(named), stored.entry(name).shape[0])


def _in_our_order(tensor: Tensor, source: Source) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1]) if source.swapped else tensor
