"""Which data a model finds unusual: scores by likelihood and by typicality."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from pushforward._checks import is_real, shown, whole
from pushforward.data.given import for_model
from pushforward.errors import DataError, UserError
from pushforward.evaluation.likelihood import Density, bits_per_dim
from pushforward.registry import export, unknown

Score = Literal["typicality", "likelihood"]


@dataclass(frozen=True)
class OutlierScores:
    """Scores of examples, or of groups of them; higher is more unusual.

    Attributes:
        likelihood: -log2 p(x) / D (n,), in bits per dimension: low density scores high.
        entropy: the mean of that over the reference.
    """

    likelihood: Tensor
    entropy: float

    @property
    def typicality(self) -> Tensor:
        """|-log2 p(x) / D - entropy| (n,): density that is too low or too high scores high."""
        return (self.likelihood - self.entropy).abs()

    def grouped(self, size: int) -> "OutlierScores":
        """Return the scores of groups of this many consecutive examples, from their mean; a rest is left out."""
        whole("size", size, 1, len(self.likelihood), hint="it is the number of examples in a group")
        return replace(self, likelihood=self.likelihood[: len(self.likelihood) // size * size].view(-1, size).mean(1))


class OutlierDetector:
    """A model with a reference set: the result of `evaluation.outlier_detector`.

    Attributes:
        reference: the `OutlierScores` of the reference set.
    """

    def __init__(self, model: Density, reference: OutlierScores, options: dict[str, Any]) -> None:
        self.model, self.reference, self.options = model, reference, options

    def score(self, data: Any, *, generator: Generator | None = None) -> OutlierScores:
        """Return the scores of data (n, *shape), a set, tensor, array or DataFrame."""
        bits = bits_per_dim(self.model, data, generator=generator, **self.options).per_example
        return OutlierScores(bits, self.reference.entropy)

    def threshold(
        self,
        score: Score = "typicality",
        size: int = 1,
        *,
        false_alarms: float = 0.01,
        rounds: int = 10_000,
        generator: Generator | None = None,
    ) -> float:
        """Return the score that this share of groups from the data's own distribution exceed.

        For single examples it is a quantile of the reference, otherwise of `rounds` groups drawn from it with replacement.

        Args:
            score: "typicality" or "likelihood".
            size: number of examples in a group.
            false_alarms: the share, above 0 and below 1.
            rounds: number of groups.
            generator: randomness of the groups.
        """
        if score not in ("typicality", "likelihood"):
            raise UserError(unknown("score", str(score), ("typicality", "likelihood")))
        if not is_real(false_alarms) or not 0 < false_alarms < 1:
            raise UserError(f"false_alarms is {shown(false_alarms)}, but it is a share above 0 and below 1, such as 0.01.")
        whole("size", size, 1)
        bits = self.reference.likelihood
        if size > 1:
            bits = torch.stack(
                [bits[torch.randint(len(bits), (size,), generator=generator)].mean() for _ in range(whole("rounds", rounds, 1))]
            )
        scores: Tensor = getattr(OutlierScores(bits, self.reference.entropy), score)
        return float(scores.quantile(1 - false_alarms))


@export("evaluation.outlier_detector")
def outlier_detector(
    model: Density,
    reference: Any,
    *,
    draws: int = 1,
    cond: str = "none",
    batch_size: int = 512,
    generator: Generator | None = None,
    **options: Any,
) -> OutlierDetector:
    """Return a detector of data that are unlike a reference set, by the log-density of a model.

        likelihood   -log2 p(x) / D
        typicality   |-log2 p(x) / D - H|,    H = the mean of -log2 p(x) / D over the reference

    In many dimensions samples do not lie where the density is highest, but where it is about 2^(-D H). A simpler image may have a higher
    density than any real one: by its likelihood it then looks normal, and its typicality shows that it is not. But data whose density
    happens to be that of the reference are not found by either, and single examples vary: a group of n has a spread of 1 / sqrt(n).

    Args:
        model: has log_prob(x, cond) -> (n,) nats in the units of the data.
        reference: data of the distribution that the model was not trained on, such as the validation split; (n, *shape) as a set, tensor,
            array or DataFrame.
        draws: dequantisation draws per example of quantised data.
        cond: "none", or "mixture" for a model that needs a class: log sum_c p(x | c) / classes; "given" for labelled data.
        batch_size: examples per call of log_prob.
        generator: randomness of the draws.
        options: passed on to log_prob, such as `sampler` and `divergence`.

    Returns:
        A detector: `score(data)` returns scores with `likelihood` and `typicality` (n,), and `grouped(size)`; `threshold(score, size)` the
        score that a given share of groups from the reference exceeds; `reference` are its own scores.

    Raises:
        DataError: the reference has fewer than 2 examples, or one that the model gives no density.
        UserError: an argument has an invalid value.

    Example:
        >>> from pushforward import data, evaluation
        >>> truth = data.GaussianMixture(torch.zeros(1, 100), 1.0)
        >>> detector = evaluation.outlier_detector(truth, truth.sample(1000, generator=torch.Generator().manual_seed(0)))
        >>> mode = detector.score(torch.zeros(1, 100))  # the most likely point of all, and no typical one
        >>> bool(mode.likelihood < detector.reference.likelihood.min()), bool(mode.typicality > detector.threshold(false_alarms=0.001))
        (True, True)

    Source: Nalisnick, Matsukawa, Teh and Lakshminarayanan, Detecting out-of-distribution inputs to deep generative models using typicality,
    2019, arXiv 1906.02994, section 3 (typicality, the entropy from data, thresholds by bootstrap).
    """
    reference = for_model(reference, model, "reference")
    if len(reference) < 2:
        raise DataError(f"reference has {len(reference)} examples, but an entropy is estimated from at least 2, better hundreds.")
    options = {"draws": draws, "cond": cond, "batch_size": batch_size, **options}
    bits = bits_per_dim(model, reference, generator=generator, **options).per_example
    if not bool(bits.isfinite().all()):
        count = int((~bits.isfinite()).sum())
        raise DataError(
            f"reference has {count} of {len(bits)} examples of density 0, so that it has no entropy; they are no data of this model."
        )
    return OutlierDetector(model, OutlierScores(bits, float(bits.mean())), options)
