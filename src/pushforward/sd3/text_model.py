"""The transformer together with its text encoders as one network, so that prompts are encoded with gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.conditions import TextContext, register_context
from pushforward.errors import ConditionError
from pushforward.nn.mmdit import MMDiT
from pushforward.registry import export
from pushforward.sd3.prompts import CLIPS, joined, states_of


@export("sd3.PromptTokens")
@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Token ids of n prompts, the condition of a model whose text encoders are trained; a pytree, cut and moved like a tensor.

    Args:
        clip_l: ids (n, 77).
        clip_g: ids (n, 77).
        t5: ids (n, tokens); without T5 only their number counts.
    """

    clip_l: Tensor
    clip_g: Tensor
    t5: Tensor

    def __len__(self) -> int:
        return len(self.clip_l)

    def __getitem__(self, index: Any) -> "PromptTokens":
        """Return the rows of a slice, an integer tensor or list, or a boolean mask; a single number keeps its row as a batch of one."""
        index = slice(index, index + 1 or None) if isinstance(index, int) else index
        return PromptTokens(*(one[index] for one in vars(self).values()))

    def to(self, device: torch.device | str, *args: Any, **options: Any) -> "PromptTokens":
        """Return it on another device; ids keep their dtype."""
        return PromptTokens(*(one.to(device, non_blocking=options.get("non_blocking", False)) for one in vars(self).values()))

    def where(self, mask: Tensor, other: "PromptTokens | None") -> "PromptTokens":
        """Return its own rows where mask (n,) is true and those of another elsewhere: n rows, or one row for all, such as that of ""."""
        if not isinstance(other, PromptTokens):
            raise ConditionError("there is nothing to drop these prompts to; give the model null=, the tokens of the empty prompt.")
        mask = mask.to(self.clip_l.device)[:, None]
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return PromptTokens(*(torch.where(mask, one, null.to(one)) for one, null in pairs))


register_context(PromptTokens)


class PromptedTransformer(nn.Module):
    """An MMDiT and its text encoders: net(x, t, cond) for the tokens of prompts, or for texts that are encoded already.

    The encoders stay in eval mode, without T5's dropout.

    Args:
        transformer: the network.
        encoders: "clip_l", "clip_g" and optionally "t5".
    """

    def __init__(self, transformer: MMDiT, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.transformer, self.encoders = transformer, nn.ModuleDict(dict(encoders))

    @property
    def components(self) -> dict[str, nn.Module]:
        """The networks by part."""
        return {"transformer": self.transformer, **self.encoders}

    def train(self, mode: bool = True) -> "PromptedTransformer":
        super().train(mode)
        self.encoders.eval()
        return self

    def encoded(self, tokens: PromptTokens) -> TextContext:
        """Return the encodings of prompts, differentiable."""
        clips = [states_of(kind, self.encoders[kind], getattr(tokens, kind)) for kind in CLIPS]
        t5 = states_of("t5", self.encoders["t5"], tokens.t5)["state"] if "t5" in self.encoders else None
        return joined(clips, t5, tokens.t5.shape[1], self.transformer.context_width)

    def forward(self, x: Tensor, t: Tensor, cond: PromptTokens | TextContext | None = None, skip: Sequence[int] = ()) -> Tensor:
        text = self.encoded(cond) if isinstance(cond, PromptTokens) else cond
        result: Tensor = self.transformer(x, t, text, skip)
        return result
