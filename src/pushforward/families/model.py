"""The base class of generative models: their methods, with argument checks, units, chunks and temperature."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pushforward import _random
from pushforward._checks import event_shape, shown
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence
from pushforward.conditions import Conditioning
from pushforward.errors import CheckpointError, UserError
from pushforward.families import checks
from pushforward.families.drawing import densities, drawn
from pushforward.families.family import Family
from pushforward.families.map import Map, mapped
from pushforward.families.sharing import among_processes
from pushforward.functional.levels import Levels, cells, spread
from pushforward.guidance.guidance import Guidance
from pushforward.nn.embedding import fit_condition
from pushforward.registry import export
from pushforward.samplers.euler import Euler
from pushforward.samplers.sampler import Sampler
from pushforward.schema import Schema


class Sampling(TypedDict, total=False):
    """The options of `GenerativeModel.sample` that do not change what it returns."""

    sampler: Sampler | None
    guidance: Guidance | float | None
    temperature: float
    generator: _random.Generators
    batch_size: int | None


@export("families.GenerativeModel")
class GenerativeModel(Family):
    """A map between noise and data with five methods, called verbs: loss, sample, log_prob, encode, decode.

    All verbs use the data's own units: `preprocess` maps them to the model's, and its log-determinant is part of every likelihood.
    No verb changes train or eval mode; `sample` runs without gradients, and the others are differentiable.

    A family implements `_loss` and `_map`, its map between data and noise, in the model's units; the other verbs follow from it.

    Args:
        shape: shape of one event, such as (2,) or (1, 8, 8).
        base: the noise's distribution, with `.sample(n, generator=)` and `.log_prob(z)`.
        preprocess: bijection from the data's units to the model's; None is the identity.
        sampler: the default sampler of all verbs.
        classes: number of class labels, or None for a model without labels.
        cond_features: length of condition vectors, or None; with none of the three a network of your own may take any condition.
        cond_image: shape (channels, height, width) of condition images, or None.
        levels: number of integer values 0, 1, ... of quantised data, for a table one entry per column: such a number, (lowest,
            highest) for integers, None for continuous ones; `loss` dequantises them.
    """

    def __init__(
        self,
        shape: Sequence[int],
        base: Any,
        *,
        preprocess: Bijection | None = None,
        sampler: Sampler | None = None,
        classes: int | None = None,
        cond_features: int | None = None,
        cond_image: Sequence[int] | None = None,
        levels: Levels = None,
    ) -> None:
        super().__init__()
        self.shape = event_shape(shape)
        self.base, self.preprocess, self.sampler = base, preprocess, sampler
        self.classes, self.levels = checks.class_count(classes), checks.level_counts(levels, self.shape)
        self.conditioning = Conditioning(self.classes, cond_features, cond_image)
        self.schema: Schema | None = None  # the table's columns and the names of classes, if a preset was given them
        self.config: dict[str, Any] | None = None  # the configuration, if a preset built the model: see `formats`
        self.input_noise = 0.0  # deviation of the noise that `loss` adds in train mode, in the model's units; the Trainer sets it
        self.progress = 1.0  # share of the training that is done, which some losses depend on; the Trainer sets it

    # The verbs.

    def forward(self, x: Tensor, cond: Any = None, *, noise: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        """Return the loss, so that DDP, FSDP and compile wrap training unchanged."""
        return self.loss(x, cond, noise=noise, generator=generator)

    def loss(self, x: Tensor, cond: Any = None, *, noise: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        """Return the training loss of a batch, a scalar.

        Args:
            x: data (n, *shape) in its own units; quantised data as integers in a floating dtype.
            cond: condition of each row, or None.
            noise: the noise (n, *shape) paired with each row; drawn and paired by the model if None. Rows with given noise are samples of a
                model, so quantised data are not dequantised again.
            generator: randomness; a list of k splits the batch into k blocks of n / k rows, each with its own generator and pairing.
        """
        self._check(x, "x")
        _random.checked(generator, x.shape[0])
        cond = self._checked_cond(cond, x.shape[0], look=x.device.type == "cpu")  # on other devices a check of labels would synchronise
        log_q = None
        if self.levels is not None and noise is None:
            x, log_q = self.dequantised(x, generator)
        if noise is not None:
            self._check(noise, "noise", x.shape[0], tuple(x.shape[1:]))
        z, pre = self._to_model(x)
        if self.training and self.input_noise:
            z = torch.add(z, _random.normal(z.shape, generator, z.device, z.dtype), alpha=self.input_noise)
        return self._in_data_units(self._loss(z, cond, noise, generator), pre, log_q)

    def dequantised(self, x: Tensor, generator: _random.Generators = None) -> tuple[Tensor, Tensor | None]:
        """Return dequantised data x (n, *shape), and the log-density (n,) of the noise, None for 0."""
        return spread(x, self.levels, _random.uniform(x.shape, generator, x.device, x.dtype)), None

    @overload
    def sample(self, n: int, cond: Any = None, *, log_prob: Literal[False] = False, **options: Unpack[Sampling]) -> Tensor: ...

    @overload
    def sample(self, n: int, cond: Any = None, *, log_prob: Literal[True], **options: Unpack[Sampling]) -> tuple[Tensor, Tensor]: ...

    @overload
    def sample(self, n: int, cond: Any = None, *, log_prob: bool, **options: Unpack[Sampling]) -> Any: ...

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
        """Return n samples (n, *shape), with their log-probabilities (n,) if `log_prob` is set.

        Args:
            n: number of samples.
            cond: condition of each sample (leading dimension n), or None.
            sampler: sampler from noise to data; None is the model's own.
            guidance: guidance of the samples; a number is the scale of classifier-free guidance.
            temperature: factor on the noise's standard deviation.
            log_prob: whether to return (samples, log_prob), computed in one pass.
            generator: randomness; a list of n makes each sample independent of its batch. With a list (of n or fewer) samples do not
                depend on batch_size; with one generator they do only for a stochastic sampler, which draws for one chunk after another.
            batch_size: samples per chunk; None is all.
        """
        options: dict[str, Any] = {"sampler": sampler, "guidance": guidance, "temperature": temperature, "log_prob": log_prob}
        shared = among_processes(self, "sample", n, generator, batch_size, cond=cond, **options)
        x, values = drawn(self, n, cond, **options, generator=generator, batch_size=batch_size) if shared is None else shared
        return (x, values) if log_prob else x

    def rsample_and_log_prob(
        self, n: int, cond: Any = None, *, sampler: Sampler | None = None, generator: _random.Generators = None
    ) -> tuple[Tensor, Tensor]:
        """Return n samples (n, *shape) and their log-probabilities (n,) in nats, both differentiable by the parameters of the model.

        What training from an energy needs (`energies.reverse_kl`). Arguments as in `sample`, whose random numbers it draws.
        """
        x, values = drawn(self, n, cond, sampler, None, 1.0, True, generator, None)
        assert values is not None
        return x, values

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

        If you need no gradient, call it under `torch.no_grad()`: an exact divergence otherwise stores the graph of all directions, which
        is gigabytes for an image network.

        Args:
            x: data (n, *shape). No noise is added: dequantise quantised data first (`evaluation.bits_per_dim` does).
            cond: condition of each row, or None.
            sampler: sampler that solves the ODE; None is the model's own.
            divergence: "exact" (the default), "hutchinson", or a `Divergence` object.
            generator: randomness of an estimated divergence.
            batch_size: rows per chunk; None is all.
        """
        self._check(x, "x")
        self._check_density()
        cond = self._checked_cond(cond, x.shape[0])
        shared = among_processes(
            self, "log_prob", x.shape[0], generator, batch_size, x=x, cond=cond, sampler=sampler, divergence=divergence
        )
        return densities(self, x, cond, sampler, divergence, generator, batch_size) if shared is None else shared[0]

    def _density(
        self, x: Tensor, cond: Any, sampler: Sampler | None, divergence: "str | Divergence | None", generator: _random.Generators
    ) -> Tensor:
        bijection, read = self._map(cond, sampler, None, divergence)
        z, log_abs_det = mapped(bijection, read, self.preprocess, generator, x)
        value = self._base_log_prob(z, cond) + log_abs_det
        # Rows outside the support of `preprocess` have no gradient.
        return value if self.preprocess is None else torch.where(log_abs_det == -math.inf, -math.inf, value)

    def encode(self, x: Tensor, cond: Any = None, *, sampler: Sampler | None = None) -> Tensor:
        """Return the noise z (n, *shape) that data x (n, *shape) comes from; differentiable."""
        self._check(x, "x")
        return self._bound(self._checked_cond(cond, x.shape[0]), sampler).pull(x)

    def decode(self, z: Tensor, cond: Any = None, *, sampler: Sampler | None = None, guidance: Guidance | float | None = None) -> Tensor:
        """Return the data x (n, *shape) that noise z (n, *shape) becomes, the inverse of `encode`; differentiable."""
        self._check(z, "z")
        return self._bound(self._checked_cond(cond, z.shape[0]), sampler, guidance).push(z)

    def map(
        self,
        cond: Any = None,
        *,
        sampler: Sampler | None = None,
        guidance: Guidance | float | None = None,
        divergence: "str | Divergence | None" = None,
        generator: _random.Generators = None,
    ) -> Bijection:
        """Return the model's map between data, in their own units, and noise: a bijection, from which the verbs follow.

            z, log_abs_det = model.map(cond)(x),    log p(x) = log p_base(z) + log_abs_det

        Args:
            cond: condition of each row to be mapped, or None.
            sampler: sampler that solves the ODE; None is the model's own.
            guidance: guidance of the map; a number is the scale of classifier-free guidance.
            divergence: "exact" (the default), "hutchinson", or a `Divergence` object.
            generator: randomness of an estimated divergence.
        """
        n = next((len(leaf) for leaf in tree_leaves(cond) if isinstance(leaf, Tensor) and leaf.ndim), 0)
        return self._bound(self._checked_cond(cond, n), sampler, guidance, divergence, generator)

    def sampler_of(self, evaluations: int) -> Sampler:
        """Return the sampler with this many network evaluations a sample, for comparisons: Euler's method, of a flow map jumps."""
        return Euler(evaluations)

    def _bound(
        self,
        cond: Any,
        sampler: Sampler | None = None,
        guidance: Guidance | float | None = None,
        divergence: "str | Divergence | None" = None,
        generator: _random.Generators = None,
    ) -> Map:
        """Return the map for a condition that was checked."""
        return Map(*self._map(cond, sampler, guidance, divergence), self.preprocess, generator)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, as for any Module.

        Raises:
            CheckpointError: they belong to another architecture; the message states the first name or shape that does not fit.
        """
        if not isinstance(state_dict, Mapping):
            raise UserError(f"state_dict is {shown(state_dict)}, but it must be a mapping of names to tensors, such as model.state_dict().")
        try:
            return super().load_state_dict(state_dict, strict, assign)  # called first, as its hooks may rename keys
        except RuntimeError:
            problem = checks.misfit(self.state_dict(), state_dict)
            if problem:
                raise CheckpointError(f"these weights do not fit the model: {problem}; it was trained with another architecture.") from None
            raise

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit `preprocess` (and other data-dependent parts) to training data x (n, *shape) in its own units, with their conditions."""
        cond = self._fit_condition(x, cond)
        if self.preprocess is not None:
            self.preprocess.initialise(x + 0.5 * cells(self.levels, x), cond)

    def _fit_condition(self, x: Tensor, cond: Any) -> Any:
        """Fit the units of conditions to those of training data x (n, *shape), and return them on the data's device."""
        self._check(x, "x")
        if cond is not None:
            cond = self._checked_cond(tree_map_only(Tensor, lambda leaf: leaf.to(x.device), cond), x.shape[0])
            for network in self.conditional_networks():
                fit_condition(network, cond)
        return cond

    def settle(self, x: Tensor, cond: Any = None) -> None:
        """Fit what follows from the weights to training data x (n, *shape): nothing by default.

        The Trainer calls it before it keeps weights, where a family defines it.
        """
