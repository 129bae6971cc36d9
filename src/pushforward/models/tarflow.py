"""TarFlow: an autoregressive flow over patches whose networks are causal transformers.

Paper: Zhai et al., Normalizing flows are capable generative models, 2024, arXiv 2412.06329.
What it adds to MAF: the numbers that are shifted and scaled together are a patch, and a transformer, which sees all patches before,
predicts their scale and shift. Blocks begin at the first patch and at the last in turn. Two things make its samples good: Gaussian noise is
added to data in training, and one step along the score removes it from samples; labels are dropped now and then, so that sampling can be
guided. Keys and values are cached while a sample is made patch by patch; a few samples of many patches are made by Jacobi iteration.

STARFlow (Gu et al., 2025, arXiv 2506.06276) gives most of the depth to the block next to the noise, with which sampling begins, and
conditions only that one: `depth=(2, 2, 2, 2, 2, 24)`, `conditioned="last"`.
"""

from typing import Literal

import torch
from torch import nn

from pushforward._checks import whole
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.causal import TransformerAutoregressive
from pushforward.bijections.chain import Chain
from pushforward.bijections.unconditional import Unconditional
from pushforward.errors import UserError
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.jacobi import Solver
from pushforward.models.flow_options import FlowOptions
from pushforward.models.preset import checked_layers, preset
from pushforward.registry import export
from pushforward.samplers.tweedie import Tweedie


def _example() -> tuple:
    model = tarflow((1, 2, 2), 2, 1, width=8, depth=1, heads=2, noise=0.0, preprocess="none", classes=3, drop_cond=0.0)
    for layer in model.modules():
        if isinstance(layer, TransformerAutoregressive):
            nn.init.normal_(layer.net.out.weight, std=0.3)
    return model, torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])


@export("models.tarflow", example=_example)
@preset(preprocess="standardise")
def tarflow(
    shared: FlowOptions,
    layers: int = 4,
    patch: int = 4,
    *,
    width: int = 128,
    depth: int | tuple[int, ...] = 4,
    heads: int = 4,
    bound: float = 3.0,
    noise: float = 0.05,
    denoise: bool = True,
    drop_cond: float = 0.1,
    conditioned: Literal["all", "last"] = "all",
    solver: Solver = "auto",
) -> NormalizingFlow:
    """Stack causal transformers over patches, which begin at the first patch and at the last in turn.

    Args:
        shape: (channels, height, width) of an image.
        layers: number of flow blocks.
        patch: side of a patch in pixels, which divides height and width.
        width: channels of each transformer.
        depth: blocks of each transformer, or of each flow block's own, from the data to the noise.
        heads: heads of their attention.
        bound: bound of each patch's log-scales.
        noise: standard deviation of the Gaussian noise in training, in the model's units; 0 for the density of the data itself.
        denoise: whether samples end with a step along the score, which removes the noise; needs noise > 0.
        drop_cond: share of labels dropped in training, so that sampling can be guided.
        conditioned: whether "all" flow blocks see the condition, or only the "last", next to the noise; guidance acts on those.
        solver: how samples are computed: "sequential", "jacobi" or "auto" (see `bijections.TransformerAutoregressive`).
        preprocess: "standardise" fits mean and deviation of each channel to the training data, "logit" spreads quantised data over the
            line, "none" leaves its units.
        levels: number of values of quantised data; None for continuous data.

    Returns:
        A NormalizingFlow with Gaussian noise.

    Example:
        >>> flow = tarflow((1, 8, 8), layers=2, width=16, depth=1, classes=10)
        >>> flow.sample(2, torch.tensor([3, 7]), guidance=2.0).shape
        torch.Size([2, 1, 8, 8])
    """
    if conditioned not in ("all", "last"):
        raise UserError(f"conditioned is {conditioned!r}, but the flow blocks that see the condition are 'all' or the 'last'.")
    depths = tuple(depth) if isinstance(depth, tuple | list) else (depth,) * checked_layers(layers)
    for blocks in depths:
        whole("depth", blocks, 1)
    if len(depths) != layers:
        raise UserError(f"depth is {depth} for {layers} flow blocks; give one number, or {layers} of them.")
    steps: list[Bijection] = []
    for k, blocks in enumerate(depths):
        seen = conditioned == "all" or k == layers - 1
        transformer = {
            "width": width,
            "depth": blocks,
            "heads": heads,
            "bound": bound,
            "solver": solver,
            **(shared.condition if seen else {}),
        }
        step = TransformerAutoregressive(shared.event_shape, patch, reverse=k % 2 == 1, **transformer)
        steps.append(step if seen else Unconditional(step))
    return NormalizingFlow(
        Chain(steps),
        drop_cond=drop_cond if shared.kind else 0.0,
        noise=noise,
        sampler=Tweedie() if denoise and noise else None,
        **shared.family_options,
    )
