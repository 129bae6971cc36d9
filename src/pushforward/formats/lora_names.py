"""Names of modules in LoRA files of Stable Diffusion 3.

A name is a prefix and the path of the module, in the naming of the original single file or of diffusers. Prefixes that end with an
underscore belong to names whose dots are underscores: kohya (`lora_unet_`), OneTrainer (`lora_transformer_`), LyCORIS (`lycoris_`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pushforward.formats.sd3_names import LAYOUTS, Layout, Source, module_sources
from pushforward.nn.mmdit import MMDiT

PREFIXES: Mapping[str, tuple[str, ...]] = {
    "clip_l": ("text_encoder.", "lora_te1_", "text_encoders.clip_l.transformer.", "clip_l.transformer."),
    "clip_g": ("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer.", "clip_g.transformer."),
    "t5": ("text_encoder_3.", "lora_te3_", "text_encoders.t5xxl.transformer.", "t5xxl.transformer."),
    "transformer": (
        "transformer.",
        "lora_unet_",
        "lora_transformer_",
        "lycoris_",
        "base_model.model.",
        "diffusion_model.",
        "model.diffusion_model.",
        "",
    ),
}


@dataclass(frozen=True)
class Place:
    """The rows of one of our weights that a module of a file is.

    Args:
        part: "transformer", "clip_l", "clip_g" or "t5".
        module: path of the Linear in it.
        start: its first row.
        rows: number of rows.
        inputs: number of columns.
        swapped: whether the file has the two halves of the rows in the other order.
    """

    part: str
    module: str
    start: int
    rows: int
    inputs: int
    swapped: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight there."""
        return self.rows, self.inputs


def linears(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the shapes of the weights of all Linears of a module, by path; a layer of peft counts as the Linear that it wraps."""
    return {
        path.removesuffix(".base_layer"): (one.out_features, one.in_features)
        for path, one in module.named_modules()
        if isinstance(one, nn.Linear) and ".lora_" not in path
    }


def named_places(part: str, module: nn.Module, layout: Layout) -> Iterator[tuple[str, Place]]:
    """Yield the names without prefix of all Linears of a part, with the places that they are."""
    sizes = linears(module)
    sources = {path: Source((f"{path}.weight",), size) for path, size in sizes.items()}
    if isinstance(module, MMDiT):
        weights = {f"{path}.weight": torch.empty(size, device="meta") for path, size in sizes.items()}
        sources = {key.removesuffix(".weight"): one for key, one in module_sources(module, weights, layout).items()}
    for path, source in sources.items():
        rows = sizes[path][0] // len(source.names)
        for k, name in enumerate(source.names):
            yield name.removesuffix(".weight"), Place(part, path, k * rows, rows, sizes[path][1], source.swapped)


def places(components: Mapping[str, nn.Module]) -> dict[str, Place]:
    """Return the place of each name, with prefix, that a LoRA of these components may have."""
    found: dict[str, Place] = {}
    for part, module in components.items():
        for layout in LAYOUTS:
            for name, place in named_places(part, module, layout):
                for prefix in PREFIXES[part]:
                    found[prefix + (name.replace(".", "_") if prefix.endswith("_") else name)] = place
    return found


def part_of(name: str) -> str:
    """Return the part that the prefix of a name belongs to."""
    return next(part for part, prefixes in PREFIXES.items() if name.startswith(prefixes))
