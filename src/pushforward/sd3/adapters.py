"""LoRAs on the components of a model: computed with each use of a weight, or merged into the weights and taken out again, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.formats.lora import LoRA
from pushforward.nn.eight_bits import kept
from pushforward.nn.lora import LowRank, attach, changed, detach


@dataclass(frozen=True, eq=False)
class Merged:
    """A weight with changes merged into it: its module, the original, and the version that autograd counts, to notice training."""

    module: nn.Module
    original: Tensor
    version: int


class Adapters:
    """The LoRAs of some components, by name, each with a strength.

    Originals of merged weights stay in main memory, where memory-mapped ones are the file.

    Args:
        components: networks by part: "transformer", "clip_l", "clip_g", "t5".
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = dict(components)
        self.loras: dict[str, LoRA] = {}
        self.strengths: dict[str, float] = {}
        self.merging = False
        self._attached: list[nn.Module] = []
        self._merged: list[Merged] = []

    def set(self, loras: Mapping[str, LoRA], strengths: Mapping[str, float], merging: bool) -> None:
        """Apply these LoRAs, with a strength each, instead of those so far; merged into the weights, or computed with each use of them.

        Raises:
            UserError: merged weights have been trained or loaded since, so that the originals cannot be restored; or weights in 8 bits
                cannot be merged into.
        """
        if merging and any(kept(module) for one in self.components.values() for module in one.modules()):
            raise UserError(
                "the weights are kept in 8 bits, which merging would round; use load_lora alone, or load the model with weights='full'."
            )
        self._restore()
        self.loras, self.strengths, self.merging = dict(loras), dict(strengths), merging and bool(loras)
        for (part, path), changes in self._by_module().items():
            module = self.components[part].get_submodule(path)
            if self.merging:
                self._merge(module, changes)
            else:
                attach(module, changes)
                self._attached.append(module)

    def _by_module(self) -> dict[tuple[str, str], list[tuple[LowRank, float]]]:
        found: dict[tuple[str, str], list[tuple[LowRank, float]]] = {}
        for name, lora in self.loras.items():
            if self.strengths[name]:
                for part, changes in lora.parts.items():
                    for one in changes:
                        found.setdefault((part, one.module), []).append((one, self.strengths[name]))
        return found

    @torch.no_grad()
    def _merge(self, module: nn.Module, changes: list[tuple[LowRank, float]]) -> None:
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        original = weight.data.cpu()
        weight.data = changed(weight.data, changes)
        self._merged.append(Merged(module, original, weight._version))

    def _restore(self) -> None:
        for one in self._merged:
            if one.module.weight._version != one.version:
                raise UserError(
                    "the weights have been trained or loaded since a LoRA was merged into them, which restoring the originals would undo; "
                    "save the model, and load it again."
                )
        for one in self._merged:
            one.module.weight.data = one.original.to(one.module.weight)  # type: ignore[arg-type]
        for module in self._attached:
            detach(module)
        self._merged, self._attached = [], []
