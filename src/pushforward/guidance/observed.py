"""A measurement seen from an estimate of the data: what differs from it, and products with its Jacobian and the Jacobian's transpose."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pushforward.measurements.measurement import Measurement


class Observed:
    """A measurement y at data z (n, *shape) in the model's units: the residual y - h(z), h = A(units(z)), and products with H = dh/dz.

    Elements of y that were not measured have residual 0 and no part in the products.

    Args:
        measurement: A with its noise.
        units: maps the model's units to those of the measurement.
        y: what was measured (n, *measured), or (1, *measured) for all rows.
        data: z, an estimate of the data.
    """

    def __init__(self, measurement: Measurement, units: Callable[[Tensor], Tensor], y: Tensor, data: Tensor) -> None:
        self._differentiable = torch.is_grad_enabled()  # then everything is a function of the estimate, for further derivatives
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention (of an autoencoder) has no second derivative
            self._data = data if self._differentiable and data.requires_grad else data.detach().requires_grad_()
            self._value = measurement(units(self._data)).to(data.dtype)
        y = y.to(self._value).expand_as(self._value)
        self.known = measurement.known(y)
        value = self._value if self._differentiable else self._value.detach()
        self.residual = torch.where(self.known, y - value, 0)
        self.variance = measurement.deviation(y).square()
        self._pulled: tuple[Tensor, Tensor] | None = None

    def transpose(self, u: Tensor) -> Tensor:
        """Return H' u (n, *shape) for u (n, *measured)."""
        u = torch.where(self.known, u, 0)
        return torch.autograd.grad(self._value, self._data, u, retain_graph=True, create_graph=self._differentiable)[0]

    def product(self, w: Tensor) -> Tensor:
        """Return H w (n, *measured) for w (n, *shape): the derivative of H' u in u, as reverse mode is what every function has."""
        if self._pulled is None:
            with torch.enable_grad():
                u = torch.zeros_like(self._value).requires_grad_()
                self._pulled = u, torch.autograd.grad(self._value, self._data, u, create_graph=True)[0]
        u, pulled = self._pulled
        made = torch.autograd.grad(pulled, u, w, retain_graph=True, create_graph=self._differentiable)[0]
        return torch.where(self.known, made, 0)
