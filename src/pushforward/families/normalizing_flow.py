"""Normalizing flows: bijections whose log-determinant is known, trained by maximum likelihood."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map_only

from pushforward import _random
from pushforward.bases import Gaussian
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.columns import VectorBijection, features_of
from pushforward.bijections.coupling import Coupling
from pushforward.bijections.divergences import Divergence
from pushforward.errors import ConditionError, DtypeError, ShapeError, UserError
from pushforward.families.distribution import FlowDistribution
from pushforward.families.model import GenerativeModel
from pushforward.functional.levels import Levels, cells
from pushforward.guidance.cfg import CFG
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler


def _example() -> tuple:
    from pushforward.bijections.coupling import AffineCoupling

    steps = [AffineCoupling(2, (8,), swap=swap, activation="tanh", classes=3) for swap in (False, True)]
    return NormalizingFlow(Chain(steps), classes=3, shape=(2,)), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("families.NormalizingFlow", example=_example)
class NormalizingFlow(GenerativeModel):
    """Push noise forward onto data by bijections, and learn them by maximum likelihood.

        log p(x | cond) = log p_base(f(x, cond)) + log|det df/dx|,    loss = -mean log p / dimensions

    The loss is in nats per dimension, so that learning rates and losses compare across sizes; of quantised data it is, times
    1 / log 2, an upper bound on bits per dimension. Sampling is the bijection's inverse, with its log-probability in the same pass. No
    verb has a use for a sampler, guidance, a divergence or paired noise: these are refused by name.

    Args:
        bijection: from data to noise, such as a `bijections.Chain`.
        base: the noise's distribution; None is N(0, I).
        shape: shape of one event; None is the base's own, or (features,) for a bijection of vectors.
        preprocess, classes, levels: as in `GenerativeModel`; the bijection's networks must have been built with the same `classes`.
        cond_features: length of the vectors that `cond` is, as the networks were built with, or None; not together with classes.

    Raises:
        UserError: no shape is known, or a verb is given what it has no use for.
        ShapeError: the bijection is for vectors of another length.
        ConditionError: both classes and cond_features; a condition of another kind than the model's.

    Warns:
        UserWarning: some features pass through all couplings unchanged, so that the model cannot fit them.

    Example:
        >>> flow = NormalizingFlow(pf.bijections.Chain([pf.bijections.AffineCoupling(2), pf.bijections.Reverse(2),
        ...                                             pf.bijections.AffineCoupling(2)]))
        >>> samples, log_prob = flow.sample(5, log_prob=True)
        >>> samples.shape, log_prob.shape
        (torch.Size([5, 2]), torch.Size([5]))

    Source: Dinh, Krueger and Bengio, NICE, 2014, arXiv 1410.8516, equation 1; Papamakarios et al., 2019, arXiv 1912.02762.
    """

    def __init__(
        self,
        bijection: Bijection,
        base: Any = None,
        *,
        shape: Sequence[int] | None = None,
        preprocess: Bijection | None = None,
        classes: int | None = None,
        cond_features: int | None = None,
        levels: Levels = None,
    ) -> None:
        features = features_of(bijection)
        if shape is None:
            shape = getattr(base, "shape", None if features is None else (features,))
        if shape is None:
            raise UserError("shape is None, but neither the bijection nor the base says how large an event is; give shape=(...).")
        if features is not None and features != math.prod(shape):
            raise ShapeError(f"shape is {tuple(shape)}, but the bijection is for vectors of {features} features; make them agree.")
        if classes is not None and cond_features is not None:
            raise ConditionError(
                f"classes is {classes} and cond_features is {cond_features}, but a condition is labels or vectors; give one of them."
            )
        super().__init__(shape, Gaussian(shape) if base is None else base, preprocess=preprocess, classes=classes, levels=levels)
        self.bijection, self.cond_features = bijection, cond_features
        _warn_of_untouched(bijection)

    def networks(self) -> list[nn.Module]:
        return [self.bijection]

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit `preprocess`, then start what is data-dependent in the bijection, from training data x (n, *shape) in its own units."""
        super().initialise(x, cond)
        cond = tree_map_only(Tensor, lambda leaf: leaf.to(x.device), cond)
        self.bijection.initialise(self._to_model(x + 0.5 * cells(self.levels, x))[0], self._checked_cond(cond, len(x)))

    def as_distribution(self, cond: Any = None) -> Distribution:
        """Return the model under a condition as a torch.distributions.Distribution, for Pyro and sbi alike.

        Its batch_shape is (n,) for a condition of n rows and () for None; its event_shape is the model's. `rsample` is differentiable;
        all three methods are in the data's units.

        Args:
            cond: condition of each row of the batch, or None.

        Example:
            >>> flow = NormalizingFlow(pf.bijections.AffineAutoregressive(2))
            >>> flow.as_distribution().log_prob(torch.zeros(7, 3, 2)).shape
            torch.Size([7, 3])
        """
        n = next((len(leaf) for leaf in _leaves(cond)), 1)
        return FlowDistribution(self, self._checked_cond(cond, n))

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        if noise is not None:
            raise UserError("noise is given, but a normalizing flow finds each row's noise by itself; leave it out.")
        return -self._log_prob(x, cond, None, None, generator).mean() / math.prod(self.shape)

    def _generate(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: CFG | float | None, log_det: bool, generator: _random.Generators
    ) -> tuple[Tensor, Tensor]:
        _refuse(sampler=sampler, guidance=guidance)
        return self.bijection.inverse(noise, cond)

    def _log_prob(
        self, x: Tensor, cond: Any, sampler: Sampler | None, divergence: "str | Divergence | None", generator: _random.Generators
    ) -> Tensor:
        _refuse(sampler=sampler, divergence=divergence)
        z, log_abs_det = self.bijection(x, cond)
        return self._base_log_prob(z, cond) + log_abs_det

    def _encode(self, x: Tensor, cond: Any, sampler: Sampler | None) -> Tensor:
        _refuse(sampler=sampler)
        return self.bijection(x, cond)[0]

    def _decode(self, z: Tensor, cond: Any, sampler: Sampler | None, guidance: CFG | float | None) -> Tensor:
        _refuse(sampler=sampler, guidance=guidance)
        return self.bijection.inverse(z, cond)[0]

    def _base_sample(self, n: int, cond: Any, generator: _random.Generators) -> Tensor:
        return self.base.sample(n, cond, generator=generator) if self._base_reads_cond() else self.base.sample(n, generator=generator)

    def _base_log_prob(self, z: Tensor, cond: Any) -> Tensor:
        return self.base.log_prob(z, cond) if self._base_reads_cond() else super()._base_log_prob(z, cond)

    def _base_reads_cond(self) -> bool:
        return getattr(self.base, "conditional", False)

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        cond = super()._checked_cond(cond, n, look)
        if self.cond_features is not None:
            shape = (n, self.cond_features)
            if not isinstance(cond, Tensor) or tuple(cond.shape) != shape:
                what = f"of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else f"{cond!r}" if cond is None else type(cond).__name__
                raise ConditionError(f"cond is {what}, but this model needs vectors {shape}, one a row.")
            if cond.dtype != self.dtype:
                raise DtypeError(f"cond is {cond.dtype}, but the model's parameters are {self.dtype}; use cond.to({self.dtype}).")
        elif cond is not None and self.classes is None:
            raise ConditionError(
                "a condition was given to a flow built without one; build it with classes= or cond_features=, or leave it out."
            )
        return cond


def _refuse(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise UserError(
                f"{name} is {value!r}, but a normalizing flow has no use for it, as its map is exact and one pass; leave it out."
            )


def _leaves(cond: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(cond) if isinstance(leaf, Tensor))


def _warn_of_untouched(bijection: Bijection) -> None:
    """Warn of features that pass through a chain of couplings unchanged."""
    features = features_of(bijection)
    if features is None or not any(isinstance(one, Coupling) for one in bijection.modules()):
        return
    touched = torch.zeros(features, dtype=torch.bool)
    for step in _flat(bijection):
        touched = step.reaches(touched) if isinstance(step, VectorBijection) else torch.ones_like(touched)
    if not bool(touched.all()):
        left = ", ".join(str(k) for k in (~touched).nonzero().flatten().tolist())
        warnings.warn(
            f"features {left} pass through all couplings unchanged, so the model cannot fit them; alternate swap=True, or put Reverse or "
            "Permutation between the couplings.",
            stacklevel=3,
        )


def _flat(bijection: Bijection) -> Iterator[Bijection]:
    if isinstance(bijection, Chain):
        for step in bijection.steps:
            yield from _flat(step)
    else:
        yield bijection
