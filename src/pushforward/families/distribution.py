"""A flow as a torch distribution, for use with Pyro, sbi and torch."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.utils._pytree import tree_map_only

from pushforward.conditions import repeated
from pushforward.errors import ShapeError


class FlowDistribution(Distribution):
    """The result of `NormalizingFlow.as_distribution`: the model given a condition, one distribution per row of it."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own form)
    has_rsample = True

    def __init__(self, model: Any, cond: Any) -> None:
        self.model, self.cond = model, cond
        rows: list[int] = []
        tree_map_only(Tensor, lambda leaf: rows.append(len(leaf)), cond)
        super().__init__(torch.Size(rows[:1]), torch.Size(model.shape), validate_args=False)

    @property
    def support(self) -> Any:
        """All real events."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """Return the distribution with more rows; one with a condition of one row, or without a condition, can be expanded to (n,)."""
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        if self.cond is None:
            new = FlowDistribution(self.model, None)
            Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
            return new
        index = torch.arange(self.batch_shape.numel()).expand(batch_shape).flatten()
        new = FlowDistribution(self.model, tree_map_only(Tensor, lambda leaf: leaf[index.to(leaf.device)], self.cond))
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws (*sample_shape, *batch_shape, *event_shape) through which gradients reach the model."""
        shape = self._extended_shape(torch.Size(sample_shape))
        n = shape[: len(shape) - len(self.event_shape)].numel()
        cond = self._repeated(n)
        return self.model.decode(self.model._base_sample(n, cond, None), cond).reshape(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws (*sample_shape, *batch_shape, *event_shape) without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of value (..., *event_shape), broadcast against batch_shape, in nats."""
        outer = value.shape[: max(0, value.ndim - len(self.event_shape))]
        if value.shape[len(outer) :] != self.event_shape:
            raise ShapeError(
                f"value has shape {tuple(value.shape)}, but it must end in the event's shape {tuple(self.event_shape)}; reshape it."
            )
        batch = torch.broadcast_shapes(outer, self.batch_shape)
        rows = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        return self.model.log_prob(rows, self._repeated(len(rows))).reshape(batch)

    def _repeated(self, n: int) -> Any:
        """Return the condition for n rows, in which the batch is the last axis."""
        return repeated(self.cond, n // max(1, self.batch_shape.numel()))
