"""The rectified flow of Stable Diffusion 3 as it is trained: latents, logit-normal times, texts of several encoders.

Paper: Esser et al., Scaling rectified flow transformers for high-resolution image synthesis, 2024, arXiv 2403.03206.
What it adds to rectified flow: times from a logit-normal, where the velocity is hardest (its section 3.1); latents of an autoencoder in
place of pixels; a transformer in which image and text tokens have their own weights and one attention (4); several text encoders, each of
which is dropped by itself in training, so that the model works without some of them and can be guided. `StableDiffusion3` joins such a
model with its autoencoder and text encoders.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from pushforward.conditions import TextContext
from pushforward.errors import ConditionError
from pushforward.models.preset import Net, Options, built, preset
from pushforward.nn.config import NetConfig
from pushforward.nn.mmdit import MMDiT
from pushforward.registry import export
from pushforward.samplers.euler import Euler
from pushforward.samplers.grids import Shifted
from pushforward.samplers.sampler import Sampler
from pushforward.sd3.generation import LEVELS, STEPS
from pushforward.sd3.text_latents import TextLatents, checked_parts
from pushforward.sd3.text_layout import Null, TextPart, sizes_of
from pushforward.times import LogitNormal, Times


@dataclass(frozen=True)
class TextOptions(Options):
    """Options of a model over latents whose condition is text.

    Args:
        net: an MMDiT or its configuration, whose text widths follow from the encoders.
        shape: (channels, height, width) of a latent.
        text: what each text encoder fills of a `TextContext`, as `sd3.text_encoders(...).layout.parts` states it.
    """

    before_own: ClassVar[tuple[str, ...]] = ("text",)

    net: Net = MMDiT.Config(depth=6, heads=4, positions=32, base_size=32)
    shape: Sequence[int] = (16, 8, 8)
    text: Sequence[TextPart] = field(default=(TextPart("minilm", (0, 32), (0, 384), (0, 384)),), kw_only=True)

    @classmethod
    def follow(cls, arguments: dict[str, Any]) -> None:
        """Let the network read texts of these sizes."""
        own: dict[str, Any] = {one.name: one.default for one in dataclasses.fields(cls)} | arguments
        net = own["net"]
        if isinstance(net, MMDiT.Config):
            tokens, width, pooled = sizes_of(checked_parts(own["text"]))
            arguments["net"] = dataclasses.replace(net, context_width=width, pooled_width=pooled, null_tokens=tokens)
        elif net is None or isinstance(net, NetConfig):
            raise ConditionError(f"net is {net}, but texts are read by MMDiT; use nn.MMDiT.Config, or a network of your own.")


def _example() -> tuple:
    net = MMDiT.Config(patch=2, depth=2, heads=2, head_width=8, positions=4, base_size=2)
    model: Any = sd3(net, (2, 4, 4), text=(TextPart("a", (0, 3), (0, 6), (0, 4)), TextPart("b", (3, 5), (0, 6), (4, 5))))
    torch.nn.init.normal_(model.net.last.weight, std=0.1)  # an MMDiT starts at zero
    return model, torch.randn(4, 2, 4, 4), TextContext(torch.randn(4, 5, 6), torch.randn(4, 5))


@export("models.sd3", example=_example)
@preset
def sd3(
    shared: TextOptions,
    *,
    times: Times = LogitNormal(),
    drop_text: float = 0.1,
    null_text: Null = "zeros",
    sampler: Sampler = Euler(STEPS, grid=Shifted(1.0, LEVELS)),
) -> TextLatents:
    """Regress the velocity noise - data of latents along x_t = (1 - t) data + t noise, conditional on texts.

    Args:
        times: which t to train on, of which 1 is noise: the paper's is LogitNormal(0, 1), `Shifted` towards noise for large images.
        drop_text: share of the rows that are trained without any text; each of k encoders is dropped with probability drop_text^(1/k),
            0.46 for three of them.
        null_text: what stands for no text: "zeros", or "empty", the encoding of the empty prompt.
        sampler: how samples and encodings are solved by default.

    Returns:
        A PathModel on the linear path with velocity prediction, whose condition is a `TextContext`.

    Raises:
        ConditionError: the network is not one for texts.

    Example:
        >>> import torch, pushforward as pf
        >>> net = pf.nn.MMDiT.Config(patch=2, depth=1, heads=2, head_width=8, positions=4, base_size=4)
        >>> model = pf.models.sd3(net, (4, 8, 8), text=[pf.sd3.TextPart("mine", tokens=(0, 3), channels=(0, 6), pooled=(0, 5))])
        >>> texts = pf.TextContext(torch.randn(2, 3, 6), torch.randn(2, 5))
        >>> model.sample(2, texts, guidance=2.0).shape
        torch.Size([2, 4, 8, 8])

    Source: Esser et al., 2403.03206, sections 3.1 and 4.
    """
    net = built(shared.net, shared.event_shape)
    return TextLatents(net, shared.event_shape, sampler, times, text=shared.text, drop_text=drop_text, null_text=null_text)
