"""The rectified flow over latents that is trained with texts, whose encoders are dropped one by one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import shown
from pushforward.conditions import TextContext, register_context, rows_of
from pushforward.errors import ConditionError, UserError
from pushforward.families.dropped import checked_share
from pushforward.guidance.around import as_guidance
from pushforward.guidance.guidance import Guidance, Guided
from pushforward.paths.linear import Linear
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.sampler import Sampler
from pushforward.sd3.generation import with_negative
from pushforward.sd3.latent_path import LatentPath
from pushforward.sd3.text_layout import Null, TextLayout, TextPart, sizes_of
from pushforward.times import Times


class NoText(TextContext):
    """What stands for no text, in place of a condition of None."""


register_context(NoText)


class TextLatents(LatentPath):
    """A rectified flow over latents, conditional on the tokens and pooled vectors of several text encoders.

    In training each encoder of each row is dropped by itself, so that samples can be guided, and drawn without some of them:

        P(an encoder is dropped) = drop_text^(1 / k),    P(all k are dropped) = drop_text

    What is dropped, and a condition of None, becomes the row `empty`: zeros, or the encoding of the empty prompt (`set_empty`), which is
    saved with the weights.

    Args:
        net: called as net(x, t, cond) with a `TextContext`.
        shape: (channels, height, width) of a latent.
        sampler: the default sampler.
        times: distribution of the training times, of which 1 is noise.
        text: what each text encoder fills of a `TextContext`.
        drop_text: share of the rows that are trained without any text.
        null_text: what stands for no text: "zeros", or "empty", the encoding of the empty prompt.

    Raises:
        UserError: there is no text encoder, or the share is out of range.

    Source: Esser et al., 2403.03206, section 4 and appendix B.2 (texts dropped independently).
    """

    empty_context: Tensor
    empty_pooled: Tensor

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        shape: Sequence[int],
        sampler: Sampler,
        times: Times,
        *,
        text: Sequence[TextPart],
        drop_text: float = 0.1,
        null_text: Null = "zeros",
    ) -> None:
        super().__init__(net, shape, Linear(), "velocity", times, sampler=sampler)
        self.text, self.null_text = checked_parts(text), null_text
        self.drop_text = checked_share("drop_text", drop_text)
        tokens, width, pooled = sizes_of(self.text)
        self.register_buffer("empty_context", torch.zeros(1, tokens, width))
        self.register_buffer("empty_pooled", torch.zeros(1, pooled))

    @property
    def empty(self) -> TextContext:
        """What stands for no text, one row."""
        return TextContext(self.empty_context, self.empty_pooled)

    @property
    def layout(self) -> TextLayout:
        """Where the output of each text encoder is in a condition, with what stands for none."""
        return TextLayout(self.text, self.empty, self.null_text)

    @torch.no_grad()
    def set_empty(self, cond: TextContext) -> None:
        """Set what stands for no text: the encoding of the empty prompt, one row.

        Raises:
            ConditionError: it has other tokens or channels than the model.
            UserError: the model was built with zeros for no text.
        """
        if self.null_text == "zeros":
            raise UserError("null_text is 'zeros', so no text is zeros; build the model with null_text='empty' to set another encoding.")
        self._check_text(cond, 1)
        self.empty_context.copy_(cond.context)
        self.empty_pooled.copy_(cond.pooled)

    def denoiser(self, cond: Any = None, guidance: Guidance | float | None = None) -> Denoiser | Guided:
        """Return the denoiser that samplers call; guidance without a negative condition is away from no text."""

        def negative() -> TextContext:
            if isinstance(cond, NoText):
                raise ConditionError(f"guidance is {guidance}, but it needs texts to follow; give cond, or leave guidance out.")
            return self.empty.to(cond.context).repeat(rows_of(cond))

        steered = as_guidance(guidance)
        return super().denoiser(cond, steered if cond is None else with_negative(steered, negative))

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        if self.training and self.drop_text:
            encoders = len(self.text)
            drawn = _random.uniform((rows_of(cond), encoders), generator, cond.context.device)
            cond = self.layout.dropped(cond, drawn >= self.drop_text ** (1 / encoders))
        return super()._loss(x, cond, noise, generator)

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        if cond is None:
            return NoText(self.empty_context, self.empty_pooled).repeat(n)
        cond = super()._checked_cond(cond, n, look)
        self._check_text(cond, n)
        return cond

    def _check_text(self, cond: Any, n: int) -> None:
        sizes = (n, *self.empty_context.shape[1:]), (n, *self.empty_pooled.shape[1:])
        if not isinstance(cond, TextContext) or (tuple(cond.context.shape), tuple(cond.pooled.shape)) != sizes:
            shapes = f" of {tuple(cond.context.shape)} and {tuple(cond.pooled.shape)}" if isinstance(cond, TextContext) else ""
            raise ConditionError(
                f"cond is a {type(cond).__name__}{shapes}, but this model needs a TextContext of {sizes[0]} and {sizes[1]}; encode the "
                "texts by the encoders that it was trained with."
            )


def checked_parts(text: Sequence[TextPart]) -> tuple[TextPart, ...]:
    """Return the parts of the text encoders, or raise an error unless there is at least one."""
    if not isinstance(text, Sequence) or not text or not all(isinstance(one, TextPart) for one in text):
        raise UserError(f"text is {shown(text)}, but it is a list of what each text encoder fills; give at least one sd3.TextPart.")
    return tuple(text)
