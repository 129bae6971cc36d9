"""A model with sbi's interface. The class is at the top of a module, so that trained posteriors can be pickled, as sbi's users do."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.families.model import GenerativeModel
from pushforward.families.normalizing_flow import NormalizingFlow

try:
    from sbi.neural_nets.estimators.base import ConditionalDensityEstimator
except ImportError:  # `sbi_density` refuses first; the module itself can be imported, as every module of the library
    ConditionalDensityEstimator = nn.Module


class SbiFlow(ConditionalDensityEstimator):
    """A conditional model as sbi's density estimator, of `input` (..., *input_shape) given `condition` (n, *condition_shape).

    Args:
        net: the model, conditional on vectors.
        embedding_net: what makes vectors (n, features) of conditions.
        input_shape: shape of one event.
        condition_shape: shape of one condition, before it is embedded.
    """

    def __init__(self, net: GenerativeModel, embedding_net: nn.Module, input_shape: Sequence[int], condition_shape: Sequence[int]) -> None:
        super().__init__(net, torch.Size(input_shape), torch.Size(condition_shape))
        self._embedding_net = embedding_net

    @property
    def embedding_net(self) -> nn.Module:
        """What makes vectors of conditions."""
        return self._embedding_net

    def log_prob(self, input: Tensor, condition: Tensor, **options: Any) -> Tensor:
        """Return log-densities (samples, n) in nats of input (samples, n, *input_shape), or (1, n) of input (n, *input_shape)."""
        events, conditions = len(self.input_shape), len(self.condition_shape)
        input = input if input.ndim > events + 1 else input[None]
        samples, n = len(input), max(input.shape[1], condition.shape[-conditions - 1])
        input = input.expand(samples, n, *self.input_shape).reshape(-1, *self.input_shape)
        if condition.ndim > conditions + 1:  # a condition for each sample of each row
            condition = condition.expand(samples, n, *self.condition_shape)
            cond = self._embedding_net(condition.reshape(-1, *self.condition_shape))
        else:
            cond = self._embedding_net(condition)  # once for all samples
            cond = cond.expand(n, cond.shape[1]).repeat(samples, 1)
        return self.net.log_prob(input, cond, **options).view(samples, n)

    def loss(self, input: Tensor, condition: Tensor, **options: Any) -> Tensor:
        """Return the loss (n,) of rows: of a flow minus the log-density in nats, of others their mean training loss, repeated."""
        if isinstance(self.net, NormalizingFlow):
            return -self.log_prob(input[None], condition, **options)[0]
        return self.net.loss(input, self._embedding_net(condition), **options).expand(len(input))

    def sample(self, sample_shape: Sequence[int], condition: Tensor, **options: Any) -> Tensor:
        """Return samples (*sample_shape, n, *input_shape) given conditions (n, *condition_shape)."""
        return self._drawn(sample_shape, condition, log_prob=False, **options)[0]

    def sample_and_log_prob(self, sample_shape: Sequence[int], condition: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Return samples (*sample_shape, n, *input_shape) and their log-densities (*sample_shape, n), of the same pass."""
        samples, values = self._drawn(sample_shape, condition, log_prob=True, **options)
        assert values is not None
        return samples, values

    @torch.no_grad()
    def _drawn(self, sample_shape: Sequence[int], condition: Tensor, log_prob: bool, **options: Any) -> tuple[Tensor, Tensor | None]:
        cond = self._embedding_net(condition)
        count, shape = math.prod(sample_shape), (*sample_shape, len(condition))
        made = self.net.sample(count * len(cond), cond.repeat(count, 1), log_prob=log_prob, **options)
        samples, values = made if log_prob else (made, None)
        return samples.view(*shape, *self.input_shape), None if values is None else values.view(shape)
