"""The reverse Kullback-Leibler divergence: a model is trained by the energies of its own samples."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from pushforward import _random
from pushforward._checks import whole
from pushforward.energies.energy import Energy, energies_of
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.registry import export

Estimator = Literal["total", "path"]


@export("energies.reverse_kl")
def reverse_kl(
    model: GenerativeModel,
    energy: Energy,
    n: int,
    cond: Any = None,
    *,
    estimator: Estimator = "path",
    generator: _random.Generators = None,
) -> Tensor:
    """Return the reverse divergence of a model from exp(-energy), up to the target's log-normaliser, estimated with n samples.

        KL(q | p) - log Z = E_q [log q(x) + E(x)]

    It is a training loss: the model needs no data. It seeks modes: a well that no sample has reached is not missed by the loss, so look at
    the effective sample size too (`importance`). The gradient of estimator "path" leaves out the score of q at its samples, whose mean is
    zero: at the optimum each sample's gradient vanishes, where that of "total" only does on average. It costs one more `log_prob`.

    Args:
        model: a model with a density.
        energy: a function that returns the energies (n,) of x (n, *shape), in the data's units.
        n: number of samples, at least 1.
        cond: condition of each sample, or None.
        estimator: "path" or "total".
        generator: randomness of the samples.

    Returns:
        A scalar in nats, differentiable by the parameters of the model; at least -log Z on average.

    Raises:
        UserError: the model has no density, an energy is NaN or not differentiable, there is no such estimator, or that of "path" with a
            model in training mode that drops units.
        ShapeError: the energy is not one number per sample, or of other events.

    Example:
        >>> model = pf.models.realnvp(2, layers=2, hidden=(8,))
        >>> reverse_kl(model, pf.energies.DoubleWell(2), 16).shape
        torch.Size([])

    Source: Rezende and Mohamed, Variational inference with normalizing flows, 2015, arXiv 1505.05770, equation 15; "path": Roeder, Wu and
    Duvenaud, Sticking the landing, 2017, arXiv 1703.09194.
    """
    whole("n", n, 1)
    if estimator not in ("path", "total"):
        raise UserError(f"estimator is {estimator!r}, but it is 'path' or 'total'.")
    if estimator == "path" and any(one.training and one.p > 0 for one in model.modules() if isinstance(one, nn.Dropout)):
        raise UserError(
            "the model has dropout, so the density of estimator 'path' would be another one than that of its samples; "
            "build it with dropout=0, or give estimator='total'."
        )
    x, log_prob = model.rsample_and_log_prob(n, cond, generator=generator)
    if estimator == "path":
        fixed = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
        log_prob = functional_call(_Density(model), fixed, (x, cond))
    energies = energies_of(energy, x)
    if x.requires_grad and not energies.requires_grad:
        raise UserError("the energy is not differentiable by the samples, so nothing is learned from it; compute it in torch.")
    return (log_prob + energies).mean()


class _Density(nn.Module):
    """The density of a model as a module's call, so that it can be called with other parameters."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, cond: Any) -> Tensor:
        return self.model.log_prob(x, cond)
