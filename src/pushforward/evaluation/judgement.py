"""The metrics of an evaluation, as evaluation.json stores them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pushforward.evaluation.reconstruction import Reconstruction
from pushforward.evaluation.units import BITS, DATA, per_bit


@dataclass(frozen=True)
class Likelihood:
    """One row of the likelihood table, in bits per dimension on test data; None if not available."""

    density: str
    pooled: float | None = None
    pooled_error: float | None = None
    conditional: float | None = None
    conditional_error: float | None = None
    mixture: float | None = None
    mixture_error: float | None = None


@dataclass(frozen=True)
class Comparison:
    """How much worse the model is than a baseline on the same examples, in bits per dimension; negative where it is better.

    Args:
        part: the column of the model's likelihood, "pooled", "conditional" or "mixture".
        density: the baseline.
        difference: mean over the examples.
        error: standard error of that mean, of the paired differences.
        share: share of the examples on which the baseline is better.
    """

    part: str
    density: str
    difference: float
    error: float
    share: float


@dataclass(frozen=True)
class Quality:
    """Sample quality at one number of network evaluations."""

    evaluations: int | str
    recognised: float | None
    distance: float
    distance_std: float


@dataclass
class Judgement:
    """All metrics of an evaluation, in the order of the report.

    Likelihoods are held in bits per dimension whatever the data, and reported in `likelihood_unit`: `per_bit` converts them. Distances are
    in `distance_unit`: the data's, or for tables standard deviations of the training data. An autoencoder has reconstructions in place of
    likelihoods.
    """

    split: str
    examples: int
    recognised: float | None = None
    recognised_of: int = 0
    classifier: str | None = None
    classifier_accuracy: float | None = None
    likelihood: list[Likelihood] = field(default_factory=list)
    likelihood_unit: str = BITS
    dimensions: int = 1
    comparisons: list[Comparison] = field(default_factory=list)
    distance: float = 0.0
    distance_std: float = 0.0
    distance_train: float = 0.0
    distance_train_std: float = 0.0
    distance_size: int = 0
    distance_unit: str = DATA
    neighbours: dict[str, float] = field(default_factory=dict)
    closer_to_train: float = 0.0
    closer_to_train_error: float = 0.0
    quality: list[Quality] = field(default_factory=list)
    seconds_per_1000_samples: float = 0.0
    sampler: str = ""
    divergence: str | None = None
    scored: int = 0
    scored_draws: int = 1
    verdict: list[str] = field(default_factory=list)
    reconstruction: Reconstruction | None = None

    @property
    def per_bit(self) -> float:
        """What a likelihood in bits per dimension is multiplied by to be in `likelihood_unit`."""
        return per_bit(self.likelihood_unit, self.dimensions)

    def plain(self) -> dict[str, Any]:
        """Return the metrics as mappings and lists, as stored in evaluation.json."""
        return asdict(self)
