"""Latent-space interpolation and attribute directions, for any model that encodes and decodes."""

from typing import Any, Literal

import torch
from torch import Tensor

from pushforward._precision import wide
from pushforward.data.dataset import Dataset
from pushforward.errors import DataError, ShapeError, UserError
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel
from pushforward.registry import export


@export("editing.interpolate", aliases=("evaluation.interpolate",))
@torch.no_grad()
def interpolate(
    model: GenerativeModel, a: Tensor, b: Tensor, steps: int = 8, cond: Any = None, *, kind: Literal["spherical", "linear"] = "spherical"
) -> Tensor:
    """Interpolate between examples a and b along an arc or a line between their latents.

        z_w = (sin((1 - w) θ) z_a + sin(w θ) z_b) / sin θ,    θ the angle between z_a and z_b,    w = 0, ..., 1    ("spherical")
        z_w = (1 - w) z_a + w z_b    ("linear")

    High-dimensional Gaussian noise has nearly constant norm, which the arc preserves and the line does not.

    Args:
        model: the model that encodes and decodes.
        a: start (n, *shape), in the data's units.
        b: end (n, *shape).
        steps: number of points including both ends; at least 2.
        cond: condition of each row, for both ends and the points between them, or None.
        kind: "spherical" or "linear".

    Returns:
        Examples (n, steps, *shape), in the data's units.

    Raises:
        UserError: fewer than 2 steps, or an unknown kind.
        ShapeError: a and b differ in shape.

    Example:
        >>> flow = pf.models.realnvp(2, layers=2, hidden=(8,))
        >>> pf.editing.interpolate(flow, torch.zeros(3, 2), torch.ones(3, 2), steps=5).shape
        torch.Size([3, 5, 2])

    Source: Kingma and Dhariwal, Glow, 2018, arXiv 1807.03039, section 5 (on a line); White, Sampling generative networks, 2016, arXiv
    1609.04468, section 2.1 (on an arc).
    """
    if steps < 2:
        raise UserError(f"steps is {steps}, but it includes both ends and must be at least 2; try 8.")
    if kind not in ("spherical", "linear"):
        raise UserError(f"kind is {kind!r}, but it is 'spherical' or 'linear'.")
    if a.shape != b.shape:
        raise ShapeError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}, but both must have the same shape.")
    z_a, z_b = model.encode(a, cond), model.encode(b, cond)
    flat_a, flat_b = (z.flatten(1).to(wide(z)) for z in (z_a, z_b))
    between = []
    for w in torch.linspace(0, 1, steps, dtype=torch.float64).tolist():
        z = _arc(flat_a, flat_b, w) if kind == "spherical" else torch.lerp(flat_a, flat_b, w)
        between.append(model.decode(z.to(z_a.dtype).view(z_a.shape), cond))
    return torch.stack(between, dim=1)


@export("editing.attribute_direction", aliases=("evaluation.attribute_direction",))
@torch.no_grad()
def attribute_direction(model: GenerativeModel, data: Dataset, label: int, *, conditional: bool = False, batch_size: int = 256) -> Tensor:
    """Return the latent direction of a label: the mean latent of its examples minus the mean of all others.

        d = mean of encode(x) over cond = label - mean of encode(x) over cond != label

    `model.decode(model.encode(x) + w * d)` is x with more (w > 0) or less (w < 0) of the attribute.

    Args:
        model: the model that encodes.
        data: examples with integer labels.
        label: one of them.
        conditional: whether to encode each example with its label, which removes the label's information from z; else without a label.
        batch_size: examples per batch.

    Returns:
        A tensor of the event's shape.

    Raises:
        DataError: data without labels, or no examples with or without this label.

    Example:
        >>> flow = pf.models.realnvp(2, layers=2, hidden=(8,))
        >>> pf.editing.attribute_direction(flow, pf.data.moons(n=100), label=1).shape
        torch.Size([2])

    Source: Kingma and Dhariwal, Glow, 2018, arXiv 1807.03039, section 5.
    """
    x, labels = data.x, data.cond
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
        raise DataError(f"{data!r} has no integer labels, which are needed for an attribute direction; use labelled data.")
    has = labels == label
    if not bool(has.any()) or bool(has.all()):
        raise DataError(
            f"label is {label}, but {int(has.sum())} of {len(labels)} examples have it; examples with and without it are needed."
        )
    device = device_of(model)
    sums, counts = [torch.zeros(model.shape, dtype=torch.float64) for _ in range(2)], [0, 0]
    for start in range(0, len(x), batch_size):
        rows, which = x[start : start + batch_size].to(device, model.dtype), has[start : start + batch_size]
        cond = labels[start : start + batch_size].to(device) if conditional else None
        z = model.encode(rows, cond).cpu().double()
        for k in range(2):
            sums[k] += z[which == bool(k)].sum(0)
            counts[k] += int((which == bool(k)).sum())
    return (sums[1] / counts[1] - sums[0] / counts[0]).to(device, model.dtype)


def _arc(a: Tensor, b: Tensor, w: float) -> Tensor:
    """Return the point at fraction w of the arc from rows a to rows b (n, d), or of the line if the angle is too small to divide by."""
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)[:, None]
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    on_arc = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / sine.clamp_min(1e-12)
    return torch.where(sine > 1e-4, on_arc, torch.lerp(a, b, w))
