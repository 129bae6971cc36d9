"""A network's prediction along a path, converted to the quantity that is asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.prediction import Kind, combine, per_row
from pushforward.paths.path import Path


class Prediction:
    """A network's prediction at (x, t), available as velocity, data, noise, score or v: the path converts it on access."""

    __slots__ = ("kind", "path", "share", "t", "value", "x")

    def __init__(self, path: Path, kind: Kind, value: Tensor, x: Tensor, t: Tensor, share: Tensor | None = None) -> None:
        self.path, self.kind, self.value, self.x, self.t = path, kind, value, x, t
        self.share = share  # interpolation of the reverse variance, if the network predicts one: see `nn.WithVariance`

    def to(self, kind: Kind) -> Tensor:
        """Return the prediction of this kind, (n, *shape)."""
        if kind == self.kind:
            return self.value
        a, b = self.path.coefficients(self.kind, kind, self.t)
        return combine(a, self.x, b, self.value)

    def with_data(self, change: Callable[[Tensor], Tensor]) -> "Prediction":
        """Return a prediction of the same kind with changed data: the noise follows from it and x; where sigma is 0 nothing changes."""
        # In the dtype of x or wider, whatever dtype autocast lets the network return.
        value = self.value.to(torch.promote_types(self.x.dtype, self.value.dtype))
        data = Prediction(self.path, self.kind, value, self.x, self.t).data
        if self.kind == "data":
            value = change(data)
        else:  # what is not changed keeps its value exactly
            _, b = self.path.coefficients("data", self.kind, self.t)
            b = torch.as_tensor(b)
            value = torch.addcmul(value, change(data) - data, per_row(torch.where(b.isfinite(), b, 0.0), value))
        return Prediction(self.path, self.kind, value, self.x, self.t, self.share)

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability-flow ODE: alpha' data + sigma' noise."""
        return self.value if self.kind == "velocity" else self.to("velocity")

    @property
    def data(self) -> Tensor:
        """The expected data given x_t."""
        return self.to("data")

    @property
    def noise(self) -> Tensor:
        """The expected noise given x_t."""
        return self.to("noise")

    @property
    def score(self) -> Tensor:
        """The gradient of log p_t at x_t: -noise / sigma_t.

        Raises:
            UserError: sigma_t is 0, where the score is not defined.
        """
        if bool((self.path.sigma(self.t) == 0).any()):
            raise UserError(
                f"the score is not defined at t = {float(self.t.min()):g}, where sigma is 0; ask for it inside the path's interval."
            )
        return self.to("score")

    @property
    def v(self) -> Tensor:
        """alpha_t noise - sigma_t data.

        Raises:
            UserError: the path is not variance preserving.
        """
        return self.to("v")
