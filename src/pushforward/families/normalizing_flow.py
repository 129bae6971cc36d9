"""Normalizing flows: bijections with a tractable log-determinant, trained by maximum likelihood."""

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map_only

from pushforward import _random
from pushforward._checks import is_real, per_sample
from pushforward.bases import Gaussian
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.columns import features_of
from pushforward.bijections.divergences import Divergence
from pushforward.conditions import unexpected
from pushforward.errors import ShapeError, UserError
from pushforward.families.checks import check_unconditional
from pushforward.families.distribution import FlowDistribution
from pushforward.families.dropped import checked_drop_cond, with_dropped
from pushforward.families.guided_flow import GuidedFlow
from pushforward.families.model import GenerativeModel
from pushforward.families.untouched import warn_of_untouched
from pushforward.functional.levels import Levels, cells
from pushforward.guidance.guidance import Guidance
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler
from pushforward.samplers.tweedie import Tweedie
from pushforward.types import HasShape, reads_condition


def _example() -> tuple:
    from pushforward.bijections.coupling import AffineCoupling

    steps = [AffineCoupling(2, (8,), swap=swap, activation="tanh", classes=3) for swap in (False, True)]
    return NormalizingFlow(Chain(steps), classes=3, shape=(2,)), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("families.NormalizingFlow", example=_example)
class NormalizingFlow(GenerativeModel):
    """Push noise forward onto data by bijections, trained by maximum likelihood.

        log p(x | cond) = log p_base(f(x, cond)) + log|det df/dx|,    loss = -mean log p / dimensions

    The loss is in nats per dimension, so that learning rates and losses are comparable across sizes; for quantised data, loss / log 2 is
    an upper bound on bits per dimension. Sampling is the bijection's inverse, with its log-probability in the same pass. No method uses
    a divergence or paired noise, and few flows use a sampler or guidance: unused arguments raise an error that names them.

    Args:
        bijection: from data to noise, such as a `bijections.Chain`.
        base: the noise's distribution; None is N(0, I).
        shape: shape of one event; None is the base's own, or (features,) for a bijection of vectors.
        preprocess, classes, levels: as in `GenerativeModel`; the bijection's networks must have been built with the same `classes`.
        cond_features: length of the condition vectors `cond`, with which the networks were built, or None.
        cond_image: shape of the condition images, with which the networks were built, or None; at most one of the three.
        dequantisation: distribution of the dequantisation noise, a bijection from noise N(0, I) to (0, 1) that is conditional on the data
            (as `cond`, between -1 and 1) and is trained with the flow. None is uniform noise.
        drop_cond: share of the conditions dropped in training, so that guidance has an unconditional model.
        noise: standard deviation, in the model's units, of the Gaussian noise that is added to data in training; the density is that of
            noisy data.
        sampler: last step of `sample` if there is noise: `samplers.Tweedie()` removes it, None keeps it. (Samples returned with their
            log-probability keep it.)

    Variational dequantisation tightens the bound on the probability of quantised data, as the flow need not be flat over each cell:

        log P(x) >= E_q(u | x) [log p(x + u) - log q(u | x)],    u = g(eps, x),    log q = log N(eps; 0, I) - log|det dg/deps|

    Raises:
        UserError: the shape is unknown, an argument is not used by this family, or a dequantisation is given without levels.
        ShapeError: the bijection is for vectors of another length.
        ConditionError: several kinds of condition; a condition of the wrong kind.

    Warns:
        UserWarning: some features, channels or pixels pass through all couplings unchanged, so that the model cannot fit them.

    Example:
        >>> flow = NormalizingFlow(pf.bijections.Chain([pf.bijections.AffineCoupling(2), pf.bijections.Reverse(2),
        ...                                             pf.bijections.AffineCoupling(2)]))
        >>> samples, log_prob = flow.sample(5, log_prob=True)
        >>> samples.shape, log_prob.shape
        (torch.Size([5, 2]), torch.Size([5]))

    Source: Dinh, Krueger and Bengio, NICE, 2014, arXiv 1410.8516, equation 1; Papamakarios et al., 2019, arXiv 1912.02762; Ho et al.,
    Flow++, 2019, arXiv 1902.00275, section 3.1 (variational dequantisation).
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
        cond_image: Sequence[int] | None = None,
        levels: Levels = None,
        dequantisation: Bijection | None = None,
        drop_cond: float = 0.0,
        noise: float = 0.0,
        sampler: Sampler | None = None,
    ) -> None:
        features = features_of(bijection)
        if shape is None:
            shape = base.shape if isinstance(base, HasShape) else None if features is None else (features,)
        if shape is None:
            raise UserError("shape is None, but neither the bijection nor the base specifies the event's shape; give shape=(...).")
        if features is not None and features != math.prod(shape):
            raise ShapeError(f"shape is {tuple(shape)}, but the bijection is for vectors of {features} features; make them agree.")
        base = Gaussian(shape) if base is None else base
        condition: Any = {"classes": classes, "cond_features": cond_features, "cond_image": cond_image}
        super().__init__(shape, base, preprocess=preprocess, sampler=sampler, levels=levels, **condition)
        self.bijection, self.dequantisation = bijection, dequantisation
        self.drop_cond, self.noise = checked_drop_cond(drop_cond, self.conditioning), noise
        if not is_real(noise) or not noise >= 0:
            raise UserError(f"noise is {noise}, but a standard deviation is 0 or more; 0.05 is usual for images.")
        if dequantisation is not None and not isinstance(levels, int):
            raise UserError(f"a dequantisation is given, but levels is {levels}; give the number of levels of the data, or leave it out.")
        self._checked_sampler(sampler)
        warn_of_untouched(bijection, self.shape)

    @property
    def solved(self) -> bool:
        return False

    def conditional_networks(self) -> list[nn.Module]:
        return [self.bijection]  # what a dequantisation is conditional on is the data

    def networks(self) -> list[nn.Module]:
        return [self.bijection] if self.dequantisation is None else [self.bijection, self.dequantisation]

    def dequantised(self, x: Tensor, generator: _random.Generators = None) -> tuple[Tensor, Tensor | None]:
        """Return dequantised data x (n, *shape), and the log-density (n,) of the noise, None for 0."""
        if self.dequantisation is None or not isinstance(self.levels, int):
            return super().dequantised(x, generator)
        noise = _random.normal(x.shape, generator, x.device, x.dtype)
        u, log_abs_det = self.dequantisation(noise, (2 * x + 1) / self.levels - 1)
        return x + u, Gaussian(self.shape).to(noise).log_prob(noise) - log_abs_det

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit `preprocess`, then the data-dependent parts of the bijection, to training data x (n, *shape) in its own units."""
        super().initialise(x, cond)
        cond = tree_map_only(Tensor, lambda leaf: leaf.to(x.device), cond)
        self.bijection.initialise(self._to_model(x + 0.5 * cells(self.levels, x))[0], self._checked_cond(cond, x.shape[0]))

    def as_distribution(self, cond: Any = None) -> Distribution:
        """Return the model given a condition as a torch.distributions.Distribution, for Pyro or sbi.

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
        if self.noise:
            x = torch.add(x, _random.normal(x.shape, generator, x.device, x.dtype), alpha=self.noise)
        if self.training and self.drop_cond and cond is not None:
            cond = with_dropped(cond, self.drop_cond, self.conditioning, generator)
        z, log_abs_det = self.bijection(x, cond)
        return -self._mean(self._base_log_prob(z, cond) + log_abs_det) / math.prod(self.shape)

    def _in_data_units(self, loss: Tensor, pre: Tensor | float, log_q: Tensor | None) -> Tensor:
        """Return the loss with both terms, as in a likelihood: otherwise a learned dequantisation would collapse to its cell's ends."""
        rest = -pre if log_q is None else log_q - pre
        return loss + (self._mean(rest) if isinstance(rest, Tensor) else rest) / math.prod(self.shape)

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        if sampler is not None and self.noise:
            raise UserError(f"sampler is {sampler!r}, but a log-probability is of samples with their noise; leave one of them out.")
        _refuse(sampler=sampler, divergence=divergence)
        if guidance is None:
            return self.bijection, cond
        guided = GuidedFlow(self.bijection, guidance)
        guided.guidance.check_model(self)
        if cond is not None:
            check_unconditional(guided.guidance, self)
        return guided, cond

    def _sampled(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, generator: _random.Generators
    ) -> Tensor:
        self._checked_sampler(sampler)
        x, sampler = super()._sampled(noise, cond, None, guidance, generator), self.sampler if sampler is None else sampler
        return x if sampler is None else sampler(lambda y, t: self._denoised(y, cond), x, 0.0, 0.0, generator)

    def _denoised(self, y: Tensor, cond: Any) -> Any:
        """Return a prediction whose `.data` is the expected clean data given y, by the score of the density of noisy data."""
        with torch.inference_mode(False), torch.enable_grad():
            y, cond = tree_map_only(Tensor, torch.clone, (y.detach(), cond))  # copies, as inference tensors cannot be saved for backward
            y.requires_grad_()
            z, log_abs_det = self.bijection(y, cond)
            (score,) = torch.autograd.grad((self._base_log_prob(z, cond) + log_abs_det).sum(), y)
        return SimpleNamespace(data=torch.add(y.detach(), score, alpha=self.noise**2))

    def _checked_sampler(self, sampler: Sampler | None) -> None:
        if not self.noise:
            _refuse(sampler=sampler)
        elif sampler is not None and not isinstance(sampler, Tweedie):
            raise UserError(f"sampler is {sampler!r}, but a normalizing flow's samples end with samplers.Tweedie() or with nothing more.")

    def _base_sample(self, n: int, cond: Any, generator: _random.Generators) -> Tensor:
        if reads_condition(self.base):
            return self._checked_noise(self.base.sample(n, cond, generator=generator), n)
        return super()._base_sample(n, cond, generator)

    def _base_log_prob(self, z: Tensor, cond: Any) -> Tensor:
        if reads_condition(self.base):
            return per_sample(self.base.log_prob(z, cond), z, f"the log_prob of the base {type(self.base).__name__}")
        return super()._base_log_prob(z, cond)

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        cond = super()._checked_cond(cond, n, look)
        if cond is not None and not self.conditioning:
            raise unexpected(cond, "flow")
        return cond


def _refuse(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise UserError(
                f"{name} is {value!r}, but a normalizing flow has no use for it, as its map is exact and one pass; leave it out."
            )


def _leaves(cond: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(cond) if isinstance(leaf, Tensor))
