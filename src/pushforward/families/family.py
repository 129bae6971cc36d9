"""What a family implements, in the model's units, and what the verbs share: the base, the units, and checks of arguments."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import per_sample
from pushforward.bijections.bijection import Bijection, pushed
from pushforward.bijections.divergences import Divergence
from pushforward.conditions import Conditioning
from pushforward.errors import NotInvertibleError, ShapeError
from pushforward.families import checks
from pushforward.guidance.guidance import Guidance
from pushforward.samplers.sampler import Sampler
from pushforward.types import has_log_prob


class Family(nn.Module):
    """The part of a generative model below its verbs (see `GenerativeModel`)."""

    shape: tuple[int, ...]
    base: Any  # a distribution: torch types attributes of a Module as tensors
    preprocess: Bijection | None
    sampler: Sampler | None
    conditioning: Conditioning  # the kind of condition: labels, vectors, images, or none of them
    drop_cond: float = 0.0  # share of conditions left out in training, of families that can
    row_weights: Tensor | None = None  # factors (n,) of the losses of a batch's rows, while a weighted loss is computed

    @property
    def verbs(self) -> tuple[str, ...]:
        """The methods that the model has: "loss", "sample", "log_prob", "encode" and "decode"; it refuses the others by name."""
        return ("loss", "sample", "log_prob", "encode", "decode")

    @property
    def invertible(self) -> bool:
        """Whether decode(encode(x)) is x, up to a solver's tolerance; of an autoencoder it is only close to x."""
        return True

    @property
    def gaussian(self) -> bool:
        """Whether stochastic samplers find the noise that they add: Gaussian, of the deviation that the path has at its end."""
        return True

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of what `encode` returns, and the base draws, for one event: the event's own, except for an autoencoder."""
        return self.shape

    @property
    def solved(self) -> bool:
        """Whether a sampler solves the map in steps; otherwise it is exact, in one pass, and a sampler at most finishes samples."""
        return self.sampler is not None

    # Implemented by a family, in the model's units.

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        raise NotImplementedError

    def _mean(self, losses: Tensor) -> Tensor:
        """Return the mean of losses (n, ...), each row times its weight if there are any."""
        if self.row_weights is None:
            return losses.mean()
        return (losses.flatten(1).mean(1) if losses.ndim > 1 else losses).mul(self.row_weights).mean()

    def _in_data_units(self, loss: Tensor, pre: Tensor | float, log_q: Tensor | None) -> Tensor:
        """Return the loss with the terms of `preprocess` (log-determinant) and dequantisation (log-density); by default without them."""
        return loss

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        """Return the bijection from data to noise, and its per-sample condition."""
        raise NotImplementedError

    def _sampled(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, generator: _random.Generators
    ) -> Tensor:
        """Return data from noise, both (n, *shape); override it if samples do not have to come from the map."""
        bijection, read = self._map(cond, sampler, guidance, None)
        return pushed(bijection, noise, read)

    def _guided(self, guidance: Guidance | float | None, sampler: Sampler | None, log_prob: bool) -> Guidance | float | None:
        """Return the guidance of samples after checking it against the model, before anything is computed."""
        return guidance

    def networks(self) -> list[nn.Module]:
        """Return the Modules that do most of the computation, which the Trainer compiles or converts to channels_last."""
        return []

    def conditional_networks(self) -> list[nn.Module]:
        """Return the Modules that receive the condition, whose units are fitted to those of training data."""
        return self.networks()

    def _base_sample(self, n: int, cond: Any, generator: _random.Generators) -> Tensor:
        return self._checked_noise(self.base.sample(n, generator=generator), n)

    def _checked_noise(self, noise: Tensor, n: int) -> Tensor:
        if not isinstance(noise, Tensor) or tuple(noise.shape) != (n, *self.latent_shape):
            what = f"of shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else type(noise).__name__
            needed = (n, *self.latent_shape)
            raise ShapeError(f"the base {type(self.base).__name__} drew {what}, but {n} events of this model need {needed}.")
        return noise

    def _check_density(self) -> None:
        if not has_log_prob(self.base):
            raise NotInvertibleError(
                f"the base {type(self.base).__name__} has no log_prob, so the model has none; use a base with a density."
            )

    def _base_log_prob(self, z: Tensor, cond: Any) -> Tensor:
        return per_sample(self.base.log_prob(z), z, f"the log_prob of the base {type(self.base).__name__}")

    # Units and checks.

    @property
    def cond_features(self) -> int | None:
        """Length of the condition vectors, or None."""
        return self.conditioning.cond_features

    @property
    def cond_image(self) -> tuple[int, ...] | None:
        """Shape of the condition images, or None."""
        return None if self.conditioning.cond_image is None else tuple(self.conditioning.cond_image)

    def _to_model(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return (x, 0.0) if self.preprocess is None else self.preprocess(x)

    def _from_model(self, z: Tensor) -> Tensor:
        return z if self.preprocess is None else pushed(self.preprocess, z, None)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point dtype of the parameters, which data must have."""
        first = checks.first_floating(self)
        return torch.get_default_dtype() if first is None else first.dtype

    @property
    def side_multiple(self) -> int | None:
        """Of what heights and widths of images are multiples that may differ from `shape`, which samples have; None: they may not."""
        return None

    def shape_with(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of examples with these sides (height, width): the model's, unless it takes others."""
        shape: tuple[int, ...] = self.shape
        multiple = self.side_multiple
        fit = multiple and len(sides) == 2 and all(side and side % multiple == 0 for side in sides)
        return (shape[0], *sides) if fit else shape

    def _check(self, x: Tensor, name: str, n: int | None = None, shape: tuple[int, ...] | None = None) -> None:
        if shape is None and isinstance(x, Tensor):
            shape = self.shape_with(x.shape[2:])
        checks.check_states(x, name, self, n, shape)

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        return checks.checked_cond(cond, n, self, look)
