"""The verbs that every generative model has, and what they share: checks at the door, the user's units, chunks, temperature."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pushforward import _random
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence
from pushforward.errors import ConditionError, DtypeError, NotInvertibleError, ShapeError, SolverError, UserError
from pushforward.functional.levels import Levels, cells, spread
from pushforward.guidance.guidance import Guidance
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler


@export("families.GenerativeModel")
class GenerativeModel(nn.Module):
    """A map between noise and data with five verbs: loss, sample, log_prob, encode, decode.

    All verbs speak the data's own units: `preprocess` maps them to the model's, and its log-determinant is part of every likelihood.
    No verb changes train or eval mode; `sample` runs without gradients and the others can be differentiated.

    A family writes `_loss`, `_log_prob`, `_encode` and `_decode`, in the model's units.

    Args:
        shape: shape of one event, such as (2,) or (1, 8, 8).
        base: the noise's distribution, with `.sample(n, generator=)` and `.log_prob(z)`.
        preprocess: bijection from the data's units to the model's; None leaves them.
        sampler: what `sampler=None` means in every verb.
        classes: number of class labels, or None for a model without them.
        levels: number of integer values 0, 1, ... that quantised data takes, for a table one entry a column, None for continuous
            ones; `loss` spreads them over unit cells.
    """

    base: Any  # a distribution: torch types the methods of a bare Module as tensors
    preprocess: Bijection | None

    def __init__(
        self,
        shape: Sequence[int],
        base: Any,
        *,
        preprocess: Bijection | None = None,
        sampler: Sampler | None = None,
        classes: int | None = None,
        levels: Levels = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.base, self.preprocess, self.sampler = base, preprocess, sampler
        self.classes, self.levels = classes, tuple(levels) if isinstance(levels, list) else levels
        if isinstance(self.levels, tuple) and self.shape != (len(self.levels),):
            raise ShapeError(f"levels is {levels}, one entry a column, but an event has shape {self.shape}; give ({len(self.levels)},).")
        self.config: dict[str, Any] | None = None  # what built the model, if a preset did: see `formats`

    # The verbs.

    def forward(self, x: Tensor, cond: Any = None, *, noise: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        """Return the loss, so that DDP, FSDP and compile wrap training unchanged."""
        return self.loss(x, cond, noise=noise, generator=generator)

    def loss(self, x: Tensor, cond: Any = None, *, noise: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        """Return the training loss of a batch, a scalar.

        Args:
            x: data (n, *shape) in its own units; quantised data as integers in a floating dtype.
            cond: condition of each row, or None.
            noise: the noise (n, *shape) that each row is paired with; drawn and paired by the model if None. Rows with noise of their
                own are a model's samples, so that those of quantised data are not spread over cells once more.
            generator: randomness; a list of k makes k blocks of n / k rows, each with its own generator and paired within itself.
        """
        self._check(x, "x")
        cond = self._checked_cond(cond, len(x), look=x.device.type == "cpu")  # elsewhere a look at labels would stall the queue
        log_q = None
        if self.levels is not None and noise is None:
            x, log_q = self.dequantised(x, generator)
        if noise is not None:
            self._check(noise, "noise", len(x))
        z, pre = self._to_model(x)
        return self._in_data_units(self._loss(z, cond, noise, generator), pre, log_q)

    def dequantised(self, x: Tensor, generator: _random.Generators = None) -> tuple[Tensor, Tensor | None]:
        """Return quantised data x (n, *shape) spread over their unit cells, and the log-density (n,) of the draw, None for 0."""
        return spread(x, self.levels, _random.uniform(x.shape, generator, x.device, x.dtype)), None

    @torch.no_grad()
    def sample(
        self,
        n: int,
        cond: Any = None,
        *,
        sampler: Sampler | None = None,
        guidance: Guidance | float | None = None,
        temperature: float = 1.0,
        log_prob: bool = False,
        generator: _random.Generators = None,
        batch_size: int | None = None,
    ) -> Any:
        """Return n samples (n, *shape), with their log-probabilities (n,) when asked.

        Args:
            n: how many.
            cond: condition of each sample (leading dimension n), or None.
            sampler: how noise becomes data; None is the model's own.
            guidance: what steers the samples; a number is the scale of classifier-free guidance.
            temperature: factor on the noise's standard deviation.
            log_prob: whether to return (samples, log_prob), solved in one pass.
            generator: randomness; a list of n makes each sample independent of its batch.
            batch_size: how many at once; None is all.
        """
        if n < 0:
            raise UserError(f"n is {n}, but it must be at least 0.")
        if not temperature > 0:
            raise UserError(f"temperature is {temperature}, but it must be positive; 1 is the model's own distribution.")
        if temperature != 1 and not hasattr(self.base, "log_prob"):
            raise UserError(f"temperature is {temperature}, but the base {type(self.base).__name__} is data and no noise to scale; use 1.")
        cond = self._checked_cond(cond, n)
        parts, values = [], []
        for rows in _chunks(n, batch_size):
            count, part_generator = rows.stop - rows.start, _random.select(generator, rows, n)
            part_cond = None if cond is None else cond[rows]
            noise = self._base_sample(count, part_cond, part_generator)
            part_guidance = guidance.rows(rows, n) if isinstance(guidance, Guidance) else guidance
            x, log_abs_det = self._generate(noise * temperature, part_cond, sampler, part_guidance, log_prob, part_generator)
            x, pre = self._from_model(x)
            _check_finite(x, rows.start, sampler or self.sampler)
            parts.append(x)
            if log_prob:
                tempered = self._base_log_prob(noise, part_cond) - math.prod(self.shape) * math.log(temperature)
                values.append(tempered - log_abs_det - pre)
        x = torch.cat(parts)
        return (x, torch.cat(values)) if log_prob else x

    def log_prob(
        self,
        x: Tensor,
        cond: Any = None,
        *,
        sampler: Sampler | None = None,
        divergence: "str | Divergence | None" = None,
        generator: _random.Generators = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the log-density (n,) of x in nats, in the data's own units; differentiable.

        Where no gradient is wanted, call it under `torch.no_grad()`: an exact divergence otherwise keeps the graph of all directions,
        which for a network over images is gigabytes.

        Args:
            x: data (n, *shape). No noise is added: spread quantised data over its cells first (`evaluation.bits_per_dim` does).
            cond: condition of each row, or None.
            sampler: what solves the ODE; None is the model's own.
            divergence: "exact" (None means it), "hutchinson", or an object with its settings.
            generator: randomness of an estimated divergence.
            batch_size: how many rows at once; None is all.
        """
        self._check(x, "x")
        cond = self._checked_cond(cond, x.shape[0])
        if batch_size is None:
            return self._density(x, cond, sampler, divergence, generator)
        n, parts = x.shape[0], []
        for rows in _chunks(n, batch_size):
            part_cond, part_generator = None if cond is None else cond[rows], _random.select(generator, rows, n)
            parts.append(self._density(x[rows], part_cond, sampler, divergence, part_generator))
        return torch.cat(parts)

    def _density(
        self, x: Tensor, cond: Any, sampler: Sampler | None, divergence: "str | Divergence | None", generator: _random.Generators
    ) -> Tensor:
        z, pre = self._to_model(x)
        value = self._log_prob(z, cond, sampler, divergence, generator)
        return value if self.preprocess is None else value + pre

    def encode(self, x: Tensor, cond: Any = None, *, sampler: Sampler | None = None) -> Tensor:
        """Return the noise z (n, *shape) that data x (n, *shape) comes from; differentiable."""
        self._check(x, "x")
        return self._encode(self._to_model(x)[0], self._checked_cond(cond, len(x)), sampler)

    def decode(self, z: Tensor, cond: Any = None, *, sampler: Sampler | None = None, guidance: Guidance | float | None = None) -> Tensor:
        """Return the data x (n, *shape) that noise z (n, *shape) becomes, the inverse of `encode`; differentiable."""
        self._check(z, "z")
        return self._from_model(self._decode(z, self._checked_cond(cond, len(z)), sampler, guidance))[0]

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit `preprocess` (and whatever else starts from data) to training data x (n, *shape) in its own units."""
        self._check(x, "x")
        if self.preprocess is not None:
            self.preprocess.initialise(x + 0.5 * cells(self.levels, x), cond)

    def networks(self) -> list[nn.Module]:
        """Return the Modules that do most of the work: what the Trainer compiles and lays out."""
        return []

    # What a family writes, in the model's units.

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        raise NotImplementedError

    def _in_data_units(self, loss: Tensor, pre: Tensor | float, log_q: Tensor | None) -> Tensor:
        """Return the loss with what it owes to the log-determinant of `preprocess` and to the density of the dequantisation: nothing."""
        return loss

    def _generate(
        self,
        noise: Tensor,
        cond: Any,
        sampler: Sampler | None,
        guidance: Guidance | float | None,
        log_det: bool,
        generator: _random.Generators,
    ) -> tuple[Tensor, Tensor]:
        """Return data from noise, and log|det| of that map (n,) if asked."""
        raise NotImplementedError

    def _log_prob(
        self, x: Tensor, cond: Any, sampler: Sampler | None, divergence: "str | Divergence | None", generator: _random.Generators
    ) -> Tensor:
        raise NotImplementedError

    def _base_sample(self, n: int, cond: Any, generator: _random.Generators) -> Tensor:
        return self.base.sample(n, generator=generator)

    def _base_log_prob(self, z: Tensor, cond: Any) -> Tensor:
        if not hasattr(self.base, "log_prob"):
            raise NotInvertibleError(
                f"the base {type(self.base).__name__} has no log_prob, so the model has none; use a base with a density."
            )
        return self.base.log_prob(z)

    def _encode(self, x: Tensor, cond: Any, sampler: Sampler | None) -> Tensor:
        raise NotImplementedError

    def _decode(self, z: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None) -> Tensor:
        raise NotImplementedError

    # Units and checks.

    def _to_model(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return (x, 0.0) if self.preprocess is None else self.preprocess(x)

    def _from_model(self, z: Tensor) -> tuple[Tensor, Tensor | float]:
        return (z, 0.0) if self.preprocess is None else self.preprocess.inverse(z)

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the parameters, which data must have."""
        first = _first_floating(self, "_parameters")
        first = _first_floating(self, "_buffers") if first is None else first
        return torch.get_default_dtype() if first is None else first.dtype

    def _check(self, x: Tensor, name: str, n: int | None = None) -> None:
        if tuple(x.shape[1:]) != self.shape or x.ndim == 0 or (n is not None and len(x) != n):
            rows = "n" if n is None else n
            raise ShapeError(
                f"{name} has shape {tuple(x.shape)}, but this model needs ({', '.join(map(str, (rows, *self.shape)))}); reshape it."
            )
        if x.dtype != self.dtype:
            raise DtypeError(
                f"{name} is {x.dtype}, but the model's parameters are {self.dtype}; use {name}.to({self.dtype}) or model.to({x.dtype})."
            )

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        if cond is None:
            return None
        for leaf in tree_leaves(cond):
            if isinstance(leaf, Tensor) and (leaf.ndim == 0 or len(leaf) != n):
                raise ConditionError(f"cond has shape {tuple(leaf.shape)}, but its leading dimension must be {n}, one condition a sample.")
        if self.classes is None:
            return cond
        if not isinstance(cond, Tensor) or cond.ndim != 1 or cond.is_floating_point() or cond.dtype == torch.bool:
            what = f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else type(cond).__name__
            raise ConditionError(f"cond is {what}, but this model needs integer labels ({n},) from 0 to {self.classes - 1}.")
        cond = cond.long()
        if look and not torch.compiler.is_compiling():
            wrong = (cond < 0) | (cond >= self.classes)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0, 0])
                raise ConditionError(
                    f"cond[{row}] is {int(cond[row])}, but labels go from 0 to {self.classes - 1}; use cond=None for no condition."
                )
        return cond


def _first_floating(module: nn.Module, kind: str) -> Tensor | None:
    """Return the first floating-point one of a module's parameters or buffers; torch's own iterators take ten times as long."""
    for one in getattr(module, kind).values():
        if one is not None and one.is_floating_point():
            return one
    for child in module._modules.values():
        found = None if child is None else _first_floating(child, kind)
        if found is not None:
            return found
    return None


def _chunks(n: int, size: int | None) -> Iterator[slice]:
    if size is not None and size < 1:
        raise UserError(f"batch_size is {size}, but it must be at least 1.")
    size = max(1, n if size is None else size)
    yield from (slice(start, min(start + size, n)) for start in range(0, max(n, 1), size))


def row_not_finite(x: Tensor) -> int | None:
    """Return the first row of x (n, ...) that is not finite, or None."""
    if bool(x.sum().isfinite()):  # a tenth of the time that a look at each number takes
        return None
    finite = x.flatten(1).isfinite().all(1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0, 0])


def _check_finite(x: Tensor, start: int, sampler: Sampler | None) -> None:
    """Refuse samples of which one is not finite; the first row has the number `start`."""
    row = row_not_finite(x)
    if row is not None:
        raise SolverError(
            f"sample {start + row} is not finite: the network says NaN, or the steps of {sampler} are too few; take more of them, or "
            "Dopri5(), which names the time."
        )
