"""Writes LoRA files of Stable Diffusion 3 that diffusers, kohya's tools and ComfyUI read the same way: alpha is the rank everywhere."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.formats.files import write_atomically
from pushforward.formats.lora import LoRA
from pushforward.formats.lora_names import PREFIXES, Place, named_places
from pushforward.formats.lora_settings import HEADER
from pushforward.formats.sd3_find import check_written_as
from pushforward.formats.tensor_file import write_tensors
from pushforward.nn.lora import LowRank
from pushforward.registry import export

LoRALayout = Literal["diffusers", "kohya"]
LORA_LAYOUTS = ("diffusers", "kohya")
Factors = tuple[Tensor, Tensor, Tensor | None]  # down, up with the scale in it, magnitude


@export("formats.write_lora")
def write_lora(path: str | Path, lora: LoRA, components: Mapping[str, nn.Module], layout: LoRALayout = "diffusers") -> Path:
    """Write a LoRA or DoRA, with alpha / rank multiplied into B, so that alpha is the rank.

    B is float32 where its dtype cannot hold the product. The layout "diffusers" is read equally by diffusers and ComfyUI, of which only
    the former reads the header: it has the names of diffusers, no alpha tensors, and a header with lora_alpha = r. "kohya" has kohya's
    names, `.alpha` tensors and one change for queries, keys and values; where these have different A, it stacks them, with a block
    diagonal B. diffusers itself does not load LoRAs of T5.

    Args:
        path: the .safetensors file; diffusers looks for pytorch_lora_weights.safetensors in a folder.
        lora: the changes.
        components: the networks that they are for, as for `read_lora`.
        layout: "diffusers" or "kohya".

    Returns:
        The path.

    Raises:
        UserError: an unknown layout, a path named as another format or of a folder, or a magnitude that the layout cannot express.
    """
    if layout not in LORA_LAYOUTS:
        raise UserError(f"layout is {layout!r}, but it must be 'diffusers' or 'kohya'.")
    check_written_as(Path(path))
    path, tensors, ranks = Path(path), dict[str, Tensor](), dict[str, dict[str, int]]()
    for part, changes in lora.parts.items():
        own = next(one for one in PREFIXES[part] if one.endswith("_") == (layout == "kohya"))
        names = list(named_places(part, components[part], "diffusers" if layout == "diffusers" else "single"))
        for name, place in names:
            here = [one for one in changes if one.module == place.module and _overlap(one, place)]
            if not here:
                continue
            down, up, magnitude = _joined(place, here)
            if layout == "diffusers":
                tensors |= {f"{own}{name}.lora_A.weight": down, f"{own}{name}.lora_B.weight": up}
                if magnitude is not None:
                    if magnitude.shape[1] != 1:
                        raise UserError(
                            f"the DoRA of {place.module} has a magnitude for each column, which diffusers does not read; use 'kohya'."
                        )
                    tensors[f"{own}{name}.lora_magnitude_vector"] = magnitude[:, 0]
                ranks.setdefault(own, {})[name] = len(down)
            else:
                flat = own + name.replace(".", "_")
                tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
                tensors[f"{flat}.alpha"] = torch.tensor(float(len(down)))
                if magnitude is not None:
                    tensors[f"{flat}.dora_scale"] = magnitude
    metadata = {"format": "pt"}
    if layout == "diffusers":
        dora = any(name.endswith("lora_magnitude_vector") for name in tensors)
        metadata[HEADER] = json.dumps({key: value for own, one in ranks.items() for key, value in _settings(own, one, dora).items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {name: lambda tensor=tensor: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: write_tensors(temporary, made, metadata))
    return path


def _overlap(change: LowRank, place: Place) -> bool:
    return change.start < place.start + place.rows and place.start < change.start + len(change.up)


def _joined(place: Place, changes: list[LowRank]) -> Factors:
    """Return the sum of some changes as one change of all rows of a place."""
    parts = [_cut(place, one) for one in changes]
    if len({id(one.down) for one in changes}) == 1 or all(torch.equal(parts[0][0], down) for down, *_ in parts):
        down, up = parts[0][0], sum((one for _, one, _ in parts[1:]), parts[0][1])
    else:
        down, up = torch.cat([down for down, *_ in parts]), torch.cat([up for _, up, _ in parts], dim=1)
    magnitudes = [one for *_, one in parts if one is not None]
    # each row has a magnitude, where those of zero of one change are filled by another
    covered = len(magnitudes) == len(parts) and sum(min(place.rows, len(one.up)) for one in changes) == place.rows
    if magnitudes and not (covered and (len(parts) == 1 or all(one.shape[1] == 1 for one in magnitudes))):
        raise UserError(
            f"the DoRA of {place.module} changes queries, keys and values apart, or not all of them, which one module of kohya cannot "
            "express; write 'diffusers'."
        )
    magnitude = sum(magnitudes[1:], magnitudes[0]) if magnitudes else None
    if place.swapped:
        up = torch.cat(up.chunk(2)[::-1])
        magnitude = magnitude if magnitude is None or magnitude.shape[1] != 1 else torch.cat(magnitude.chunk(2)[::-1])
    return down, up, magnitude


def _cut(place: Place, change: LowRank) -> Factors:
    """Return the factors of a change for the rows of a place, with zeros where it does not change them."""
    scaled = change.up.float() * change.scale
    if torch.equal(scaled.to(change.up.dtype).float(), scaled):  # else in float32: float16 loses digits below 6e-5, as of alpha = 1
        scaled = scaled.to(change.up.dtype)
    first, last = max(change.start, place.start), min(change.rows.stop, place.start + place.rows)
    target, source = slice(first - place.start, last - place.start), slice(first - change.start, last - change.start)

    def rows(of: Tensor) -> Tensor:
        made = of.new_zeros(place.rows, of.shape[1])
        made[target] = of[source]
        return made

    magnitude = change.magnitude
    if magnitude is not None and magnitude.shape[1] == 1:
        magnitude = rows(magnitude)
    elif magnitude is not None and (target, source) != (slice(0, place.rows), slice(0, len(change.up))):
        raise UserError(
            f"the DoRA of {change.module} has a magnitude for each column of all its rows, which cannot be split; keep its layout."
        )
    return change.down, rows(scaled), magnitude


def _settings(prefix: str, ranks: Mapping[str, int], dora: bool) -> dict[str, Any]:
    """Return peft's settings of one part, as diffusers writes them into the header."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: one for name, one in ranks.items() if one != rank}
    settings = {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "use_dora": dora,
    }
    return {f"{prefix}{name}": value for name, value in settings.items()}
