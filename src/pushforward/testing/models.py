"""The laws of models."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward.families.model import GenerativeModel
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.testing.laws import agree, demand, log_abs_det_by_autograd

TIGHT = Dopri5(1e-9, 1e-9)
EXACT = 1e-9  # how closely the verbs of an exact map agree
Options = dict[str, Any]  # of the verbs: the sampler


@export("testing.check_model")
def check_model(model: GenerativeModel, x: Tensor, cond: Any = None, *, solved: float = 1e-7) -> None:
    """Check that the verbs of a model agree with each other: all five, or those that it has (`model.verbs`).

        decode(encode(x)) = x,    log p(x) = log p_base(encode(x)) + log|det d encode / dx|,    sample(log_prob=True) = (x, log p(x))

    Also that the loss is one finite number with a finite gradient for every parameter, and that samples belong to their generator.

    Args:
        model: what is checked, in float64.
        x: an example (n, *shape), n at least 2, in float64.
        cond: condition of each row, or None.
        solved: how far two solutions of the model's ODE may be apart; verbs of an exact map agree to 1e-9.

    Returns:
        Nothing.

    Raises:
        AssertionError: a law does not hold; the law is named.

    Example:
        >>> check_model(pf.models.realnvp(2, 2, (8,), activation="tanh").double(), torch.randn(3, 2, dtype=torch.float64))
    """
    by: Options = {} if not model.solved or "encode" not in model.verbs else {"sampler": TIGHT}
    model = copy.deepcopy(model).eval()
    within = EXACT if model.sampler is None else solved
    for law in LAWS:
        law(model, x, cond, by, within)


def decode_undoes_encode(model: GenerativeModel, x: Tensor, cond: Any, by: Options, tolerance: float) -> None:
    """Demand decode(encode(x)) = x, and latents and data of the stated shapes."""
    if "encode" not in model.verbs:
        return
    z = model.encode(x, cond, **by)
    demand("a latent has the stated shape", z.shape == (len(x), *model.latent_shape), tuple(z.shape))
    back = model.decode(z, cond, **(by if model.invertible else {}))
    demand("decoded latents have the stated shape", back.shape == x.shape, tuple(back.shape))
    if model.invertible:
        agree("decode undoes encode", back, x, tolerance)


def log_prob_of_the_jacobian(model: GenerativeModel, x: Tensor, cond: Any, by: Options, tolerance: float) -> None:
    """Demand the base's density of the code plus log|det| of autograd's Jacobian of encode."""
    if "log_prob" not in model.verbs:
        return
    by_hand = model.base.log_prob(model.encode(x, cond, **by)) + log_abs_det_by_autograd(lambda x: model.encode(x, cond, **by), x)
    agree("log_prob is the base's density and the Jacobian's", model.log_prob(x, cond, **by), by_hand, tolerance)


def log_prob_of_samples(model: GenerativeModel, x: Tensor, cond: Any, by: Options, tolerance: float) -> None:
    """Demand that samples come with the log_prob of their data."""
    if "log_prob" not in model.verbs:
        return
    samples, log_prob = model.sample(len(x), cond, **by, log_prob=True, generator=torch.Generator().manual_seed(0))
    agree("log_prob of a sample is that of its data", log_prob, model.log_prob(samples, cond, **by).detach(), tolerance)


def a_seed_gives_the_same_samples(model: GenerativeModel, x: Tensor, cond: Any, by: Options, tolerance: float) -> None:
    """Demand equal bits."""
    once, again = (model.sample(len(x), cond, **by, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    agree("a seed gives the same samples", once, again, 0)


def loss_has_gradients(model: GenerativeModel, x: Tensor, cond: Any, by: Options, tolerance: float) -> None:
    """Demand a loss that is one finite number, and a finite gradient of every parameter that is trained."""
    loss = model.loss(x, cond, generator=torch.Generator().manual_seed(2))
    demand("the loss is one finite number", loss.ndim == 0 and bool(loss.isfinite()), loss)
    loss.backward()
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, grad in trained if grad is None or not grad.isfinite().all()]
    demand("every parameter has a finite gradient", not without, f"none for {', '.join(without[:3])}")


LAWS: tuple[Callable[[GenerativeModel, Tensor, Any, Options, float], None], ...] = (
    decode_undoes_encode,
    log_prob_of_the_jacobian,
    log_prob_of_samples,
    a_seed_gives_the_same_samples,
    loss_has_gradients,
)
