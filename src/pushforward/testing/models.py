"""The laws of models."""

import copy
from typing import Any

import torch
from torch import Tensor

from pushforward.families.model import GenerativeModel
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.testing.laws import agree, demand, log_abs_det_by_autograd

TIGHT = Dopri5(1e-9, 1e-9)


@export("testing.check_model")
def check_model(model: GenerativeModel, x: Tensor, cond: Any = None, *, solved: float = 1e-7) -> None:
    """Check that the verbs of a model agree with each other: all five, or those that it has (`model.verbs`).

        decode(encode(x)) = x,    log p(x) = log p_base(encode(x)) + log|det d encode / dx|,    sample(log_prob=True) = (x, log p(x))

    Also that the loss is one finite number with a gradient for every parameter, and that samples belong to their generator.

    Args:
        model: what is checked, in float64.
        x: an example (n, *shape), n at least 2, in float64.
        cond: condition of each row, or None.
        solved: how far two solutions of the model's ODE may be apart.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_model(pf.models.realnvp(2, 2, (8,), activation="tanh").double(), torch.randn(3, 2, dtype=torch.float64))
    """
    by: dict[str, Any] = {} if not model.solved or "encode" not in model.verbs else {"sampler": TIGHT}
    model = copy.deepcopy(model).eval()
    if "encode" in model.verbs:
        z = model.encode(x, cond, **by)
        demand("a latent has the stated shape", z.shape == (len(x), *model.latent_shape), tuple(z.shape))
        if model.invertible:
            agree("decode undoes encode", model.decode(z, cond, **by), x, solved)
    if "log_prob" in model.verbs:
        by_hand = model.base.log_prob(z) + log_abs_det_by_autograd(lambda x: model.encode(x, cond, **by), x)
        agree("log_prob is the base's density and the Jacobian's", model.log_prob(x, cond, **by), by_hand, solved)
        generator = torch.Generator().manual_seed(0)
        samples, log_prob = model.sample(len(x), cond, **by, log_prob=True, generator=generator)
        agree("log_prob of a sample is that of its data", log_prob, model.log_prob(samples, cond, **by).detach(), 10 * solved)
    once, again = (model.sample(len(x), cond, **by, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    agree("a seed gives the same samples", once, again, 0)
    loss = model.loss(x, cond, generator=torch.Generator().manual_seed(2))
    demand("the loss is one finite number", loss.ndim == 0 and bool(loss.isfinite()), loss)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    demand("every parameter has a gradient", not without, f"none for {', '.join(without[:3])}")
