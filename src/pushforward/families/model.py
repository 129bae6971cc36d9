"""The verbs that every generative model has, and what they share: checks at the door, the user's units, chunks, temperature."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pushforward import _random
from pushforward._checks import event_shape, per_sample, shown, whole
from pushforward.bijections.bijection import Bijection, pushed
from pushforward.bijections.divergences import Divergence
from pushforward.errors import CheckpointError, NotInvertibleError, ShapeError, UserError
from pushforward.families import checks
from pushforward.families.map import Map
from pushforward.functional.levels import Levels, cells, spread
from pushforward.guidance.guidance import Guidance
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler
from pushforward.types import HasLogProb


@export("families.GenerativeModel")
class GenerativeModel(nn.Module):
    """A map between noise and data with five verbs: loss, sample, log_prob, encode, decode.

    All verbs speak the data's own units: `preprocess` maps them to the model's, and its log-determinant is part of every likelihood.
    No verb changes train or eval mode; `sample` runs without gradients and the others can be differentiated.

    A family writes `_loss` and `_map`, its one map between data and noise, in the model's units; the other verbs follow from it.

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
        self.shape = event_shape(shape)
        self.base, self.preprocess, self.sampler = base, preprocess, sampler
        self.classes, self.levels = checks.class_count(classes), checks.level_counts(levels, self.shape)
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
        _random.checked(generator, len(x))
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
            generator: randomness; a list of n makes each sample independent of its batch. Samples of a list, of n or fewer, do not
                depend on batch_size; those of one generator only where a stochastic sampler draws from it chunk after chunk.
            batch_size: how many at once; None is all.
        """
        whole("n", n, 0, 2**63 - 1)
        if log_prob:
            self._check_density()
        temperature = checks.checked_temperature(temperature)
        if temperature != 1 and not isinstance(self.base, HasLogProb):
            raise UserError(f"temperature is {temperature}, but the base {type(self.base).__name__} is data and no noise to scale; use 1.")
        _random.checked(generator, n)
        chunks = _random.chunks(n, batch_size, generator)
        cond = self._checked_cond(cond, n)
        parts, values = [], []
        start = self._base_sample(n, cond, generator)  # all of it at once, so that it does not depend on batch_size
        for rows, part_generator in chunks:
            noise, part_cond = start[rows], None if cond is None else cond[rows]
            part_guidance = guidance.rows(rows, n) if isinstance(guidance, Guidance) else guidance
            if log_prob:
                mapped = self._bound(part_cond, sampler, part_guidance, generator=part_generator)
                x, log_abs_det = mapped.inverse(noise * temperature)
                tempered = self._base_log_prob(noise, part_cond) - math.prod(self.shape) * math.log(temperature)
                values.append(tempered - log_abs_det)
            else:
                x = self._from_model(self._sampled(noise * temperature, part_cond, sampler, part_guidance, part_generator))
            checks.check_finite(x, rows.start, sampler or self.sampler)
            parts.append(x)
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
        self._check_density()
        cond = self._checked_cond(cond, x.shape[0])
        n, parts = len(x), []
        _random.checked(generator, n)
        tied = [generator] if isinstance(generator, torch.Generator) else generator  # one draw, which then is that of all rows at once
        for rows, part in _random.chunks(n, batch_size, generator if batch_size is None else tied):
            whole_batch = rows == slice(0, n)
            some, part_cond = (x, cond) if whole_batch else (x[rows], None if cond is None else cond[rows])
            parts.append(self._density(some, part_cond, sampler, divergence, part))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _density(
        self, x: Tensor, cond: Any, sampler: Sampler | None, divergence: "str | Divergence | None", generator: _random.Generators
    ) -> Tensor:
        z, log_abs_det = self._bound(cond, sampler, None, divergence, generator)(x)
        return self._base_log_prob(z, cond) + log_abs_det

    def encode(self, x: Tensor, cond: Any = None, *, sampler: Sampler | None = None) -> Tensor:
        """Return the noise z (n, *shape) that data x (n, *shape) comes from; differentiable."""
        self._check(x, "x")
        return self._bound(self._checked_cond(cond, len(x)), sampler).pull(x)

    def decode(self, z: Tensor, cond: Any = None, *, sampler: Sampler | None = None, guidance: Guidance | float | None = None) -> Tensor:
        """Return the data x (n, *shape) that noise z (n, *shape) becomes, the inverse of `encode`; differentiable."""
        self._check(z, "z")
        return self._bound(self._checked_cond(cond, len(z)), sampler, guidance).push(z)

    def map(
        self,
        cond: Any = None,
        *,
        sampler: Sampler | None = None,
        guidance: Guidance | float | None = None,
        divergence: "str | Divergence | None" = None,
        generator: _random.Generators = None,
    ) -> Bijection:
        """Return the model's one map between data, in their own units, and noise: a bijection, from which the verbs follow.

            z, log_abs_det = model.map(cond)(x),    log p(x) = log p_base(z) + log_abs_det

        Args:
            cond: condition of each row that the map will be given, or None.
            sampler: what solves the ODE; None is the model's own.
            guidance: what steers the map; a number is the scale of classifier-free guidance.
            divergence: "exact" (None means it), "hutchinson", or an object with its settings.
            generator: randomness of an estimated divergence.
        """
        n = next((len(leaf) for leaf in tree_leaves(cond) if isinstance(leaf, Tensor) and leaf.ndim), 0)
        return self._bound(self._checked_cond(cond, n), sampler, guidance, divergence, generator)

    def _bound(
        self,
        cond: Any,
        sampler: Sampler | None = None,
        guidance: Guidance | float | None = None,
        divergence: "str | Divergence | None" = None,
        generator: _random.Generators = None,
    ) -> Map:
        """Return the map under a condition that was checked."""
        return Map(*self._map(cond, sampler, guidance, divergence), self.preprocess, generator)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over weights, as every Module does.

        Raises:
            CheckpointError: they are another architecture's; the first name or shape that does not fit is named.
        """
        if not isinstance(state_dict, Mapping):
            raise UserError(f"state_dict is {shown(state_dict)}, but it must be a mapping of names to tensors, such as model.state_dict().")
        try:
            return super().load_state_dict(state_dict, strict, assign)  # its hooks may rename what is given, so it is asked first
        except RuntimeError:
            problem = checks.misfit(self.state_dict(), state_dict)
            if problem:
                raise CheckpointError(f"these weights do not fit the model: {problem}; it was trained with another architecture.") from None
            raise

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

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        """Return the bijection from data to noise, and what it is to read for each sample."""
        raise NotImplementedError

    def _sampled(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, generator: _random.Generators
    ) -> Tensor:
        """Return data from noise, (n, *shape) both; a family overrides it whose samples need not come from the map."""
        bijection, read = self._map(cond, sampler, guidance, None)
        return pushed(bijection, noise, read)

    def _base_sample(self, n: int, cond: Any, generator: _random.Generators) -> Tensor:
        return self._checked_noise(self.base.sample(n, generator=generator), n)

    def _checked_noise(self, noise: Tensor, n: int) -> Tensor:
        if not isinstance(noise, Tensor) or tuple(noise.shape) != (n, *self.shape):
            what = f"of shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else type(noise).__name__
            raise ShapeError(f"the base {type(self.base).__name__} drew {what}, but {n} events of this model need {(n, *self.shape)}.")
        return noise

    def _check_density(self) -> None:
        if not isinstance(self.base, HasLogProb):
            raise NotInvertibleError(
                f"the base {type(self.base).__name__} has no log_prob, so the model has none; use a base with a density."
            )

    def _base_log_prob(self, z: Tensor, cond: Any) -> Tensor:
        return per_sample(self.base.log_prob(z), z, f"the log_prob of the base {type(self.base).__name__}")

    # Units and checks.

    def _to_model(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        return (x, 0.0) if self.preprocess is None else self.preprocess(x)

    def _from_model(self, z: Tensor) -> Tensor:
        return z if self.preprocess is None else pushed(self.preprocess, z, None)

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the parameters, which data must have."""
        first = checks.first_floating(self)
        return torch.get_default_dtype() if first is None else first.dtype

    def _check(self, x: Tensor, name: str, n: int | None = None) -> None:
        checks.check_states(x, name, self, n)

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        return checks.checked_cond(cond, n, self, look)
