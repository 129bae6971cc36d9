"""Evaluate a trained model on held-out data: likelihood, distances, recognition, memorisation, and quality against cost."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.data.given import for_model
from pushforward.errors import NotInvertibleError
from pushforward.evaluation.baselines import fit_baselines
from pushforward.evaluation.classifier import Classifier, classifier
from pushforward.evaluation.distances import Spread, memorisation, nearest_neighbours, sliced_wasserstein_draws
from pushforward.evaluation.given import given
from pushforward.evaluation.judgement import Comparison, Judgement, Likelihood, Quality
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.evaluation.quantise import quantise
from pushforward.evaluation.reconstruction import reconstruction
from pushforward.evaluation.units import distance_unit, likelihood_unit
from pushforward.families.autoencoder import Autoencoder
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.guidance.cfg import CFG
from pushforward.guidance.guidance import Guidance
from pushforward.registry import export

EVALUATIONS = (1, 2, 4, 8, 16, 64)
DRAWS = 20
HELD = 10_000  # examples used of a set on disk; an in-memory set is used in full
EXACT = 256  # largest dimension for which an ODE's divergence is exact rather than estimated


@export("evaluation.judge")
def judge(
    model: GenerativeModel,
    train: Any,
    validation: Any,
    test: Any,
    *,
    split: str = "test",
    samples: int = 1000,
    draws: int = 2,
    compared: int = 2000,
    scored: int | None = None,
    evaluations: Sequence[int] = EVALUATIONS,
    divergence: str | None = None,
    guidance: Guidance | float | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Judgement, Tensor, Tensor | None]:
    """Evaluate a model on test data; selections (the classifier, the baselines' regularisation) use validation.

    Args:
        model: any model; it is evaluated in eval mode.
        train: its training set, of any kind that `data.load` takes (a DataFrame is read by the model's schema); of sets on disk the first
            10,000 examples are used.
        validation: the set for selections.
        test: the set to evaluate on.
        split: name of the split that `test` is, for the record.
        samples: number of samples, spread evenly over the classes, or over the vectors or images that are the conditions of test data.
        draws: dequantisation draws per test example.
        compared: number of test examples for distances, compared with as many samples out of four times as many.
        scored: number of test examples for likelihoods; None for all.
        evaluations: numbers of network evaluations at which samples are evaluated, of models that solve an ODE.
        divergence: divergence of an ODE's likelihood; None is "exact" up to 256 dimensions, above that one "hutchinson" estimate each.
        guidance: guidance of the samples; likelihoods are those of the model without it.
        seed: seed of all draws.
        say: called with a status line before each part.

    Returns:
        (numbers, samples (n, *shape) in the data's units, their labels (n,) or None). The numbers' likelihoods are in bits per dimension
        (times `per_bit` in `likelihood_unit`), their distances in `distance_unit`: "data", or "standardised" for tables. An autoencoder
        has a `reconstruction` and no likelihoods.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), shape=(2,))
        >>> parts = [pf.data.load("moons", part, n=60) for part in ("train", "validation", "test")]
        >>> pf.evaluation.judge(model, *parts, samples=50)[0].distance > 0
        True
    """
    was_training = model.training
    model.eval()
    try:
        train, validation, test = (for_model(data, model).in_memory(HELD) for data in (train, validation, test))
        settings = _Settings(samples, draws, compared, scored, tuple(evaluations), divergence, guidance, seed)
        return _Judge(model, train, validation, test, split, settings, say).run()
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class _Settings:
    samples: int
    draws: int
    compared: int
    scored: int | None
    evaluations: tuple[int, ...]
    divergence: str | None
    guidance: Guidance | float | None
    seed: int


class _Judge:
    def __init__(
        self, model: GenerativeModel, train: Dataset, validation: Dataset, test: Dataset, split: str, settings: _Settings,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.model, self.train, self.validation, self.test = model, train, validation, test
        self.draws, self.seed, self.say = settings.draws, settings.seed, say
        self.device, self.guidance = device_of(model), settings.guidance
        conditional = model.classes is not None and test.classes is not None
        self.labels = torch.arange(settings.samples) % model.classes if conditional and model.classes else None
        self.cond = self.labels if model.classes is not None else given(model, test, settings.samples)
        one_step = isinstance(model, PathModel) and model.one_step
        by_ode = model.solved
        self.samples, self.evaluations = settings.samples, settings.evaluations if by_ode else ()  # an exact map takes one pass
        if one_step and self.evaluations:
            self.evaluations = (1,)
        self.compared = test if len(test) <= settings.compared else test.take(settings.compared)
        self.scored = test if settings.scored is None or len(test) <= settings.scored else test.take(settings.scored)
        large = math.prod(model.shape) > EXACT
        self.divergence = (settings.divergence or ("hutchinson" if large else "exact")) if by_ode else None
        self.rows = max(64, 2**18 // math.prod(model.shape))  # samples per batch: larger batches of large images only cost memory
        unit, self.measured = distance_unit(train)
        self.per_example: dict[tuple[str, str], Tensor] = {}  # bits per dimension by density and column of the table
        self.judged = Judgement(
            split, len(test), sampler=sampling(model, self.guidance), divergence=self.divergence, scored=len(self.scored),
            scored_draws=self.draws, likelihood_unit=likelihood_unit(test), dimensions=math.prod(test.shape), distance_unit=unit,
        )  # fmt: skip

    def run(self) -> tuple[Judgement, Tensor, Tensor | None]:
        self.say(f"drawing {self.samples} samples")
        started = time.perf_counter()
        made = self.draw(self.cond, self.samples)
        self.judged.seconds_per_1000_samples = (time.perf_counter() - started) * 1000 / self.samples
        judge_of_classes = self.recognise(made)
        if isinstance(self.model, Autoencoder):
            self.say(f"reconstructing {len(self.scored)} test examples")
            self.judged.reconstruction = reconstruction(self.model, self.scored)
        else:
            self.likelihoods()
        self.distances(made)
        if self.evaluations:
            self.by_evaluations(judge_of_classes)
        return self.judged, made, self.labels

    def generator(self, place: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + place)

    def draw(self, cond: Tensor | None, n: int, place: int = 0, **options: Any) -> Tensor:
        cond = None if cond is None else cond.to(self.device)
        made = self.model.sample(n, cond, guidance=self.guidance, generator=self.generator(place), batch_size=self.rows, **options).cpu()
        return quantise(made, self.model.levels)

    def recognise(self, made: Tensor) -> Classifier | None:
        if self.labels is None:
            return None
        self.say("training a classifier on real data only")
        fitted = classifier(self.train, self.validation, seed=self.seed)
        self.judged.classifier = fitted.name
        assert self.test.cond is not None
        self.judged.classifier_accuracy = fitted.recognised(self.test.x, self.test.cond)
        self.judged.recognised, self.judged.recognised_of = fitted.recognised(made, self.labels), len(made)
        return fitted

    def likelihoods(self) -> None:
        estimated = self.divergence not in (None, "exact")
        self.say(f"measuring likelihoods of {len(self.scored)} test examples" + (" by an estimated divergence" if estimated else ""))
        options: dict[str, Any] = {} if self.divergence is None else {"divergence": self.divergence, "batch_size": min(512, self.rows)}
        # The logarithm of a mean of estimates is biased, so a mixture over classes needs exact log-likelihoods.
        parts = ("pooled",) if self.cond is None else ("conditional",) if estimated or self.labels is None else ("conditional", "mixture")
        try:
            own = self.likelihood("this model", self.model, parts, **options)
        except NotInvertibleError as error:
            self.say(f"leaving out this model's likelihood: {error}")
            own, self.judged.divergence = Likelihood("this model"), None
        self.judged.likelihood.append(own)
        self.say("fitting baselines: a Gaussian, a kernel density and a Gaussian mixture")
        for name, density in fit_baselines(self.train, self.validation, self.generator(1)).items():
            label = name.replace("_per_class", ", per class").replace("_given", ", given the condition").replace("_", " ")
            parts = ("conditional", "mixture") if "per_class" in name else ("conditional",) if "_given" in name else ("pooled",)
            self.judged.likelihood.append(self.likelihood(label, density, parts))
        self.judged.comparisons = [
            _compared(part, name, bits, others)
            for (own_name, part), bits in self.per_example.items()
            if own_name == own.density
            for (name, other), others in self.per_example.items()
            if name != own.density and (part == "conditional") == (other == "conditional")  # whether the class is given
        ]

    def likelihood(self, name: str, density: Any, parts: Sequence[str], **options: Any) -> Likelihood:
        found = {}
        for part in parts:
            cond = {"conditional": "given", "mixture": "mixture", "pooled": "none"}[part]
            draws = self.draws if self.scored.levels else 1
            bits = bits_per_dim(density, self.scored, draws, cond=cond, generator=self.generator(2), **options)
            found[part], found[f"{part}_error"] = bits.mean, bits.standard_error
            self.per_example[name, part] = bits.per_example
        return Likelihood(name, **found)

    def distances(self, made: Tensor) -> None:
        self.say("measuring distances between samples, training and test data")
        test = self.compared
        found = self.distance_of(test)
        real, train = self.measured(test.x), self.measured(self.train.x)
        reference = sliced_wasserstein_draws(train, real, draws=DRAWS, size=min(len(test), len(train)), generator=self.generator(4))
        judged = self.judged
        judged.distance, judged.distance_std, judged.distance_size = found.mean, found.std, len(test)
        judged.distance_train, judged.distance_train_std = reference.mean, reference.std
        samples = self.measured(made)
        near = memorisation(samples, train, self.measured(self.test.x), generator=self.generator(5))
        judged.neighbours = {**near.medians, "samples to all of train": float(nearest_neighbours(samples, train).median())}
        judged.closer_to_train, judged.closer_to_train_error = near.closer_to_train, near.chance

    def by_evaluations(self, fitted: Classifier | None) -> None:
        self.say(f"evaluating samples at {', '.join(map(str, self.evaluations))} network evaluations")
        test = self.compared
        for evaluations in self.evaluations:
            made = self.draw(self.cond, self.samples, sampler=self.model.sampler_of(evaluations))
            distance = self.distance_of(test, sampler=self.model.sampler_of(evaluations))
            share = None if fitted is None or self.labels is None else fitted.recognised(made, self.labels)
            self.judged.quality.append(Quality(evaluations, share, distance.mean, distance.std))

    def distance_of(self, test: Dataset, **options: Any) -> Spread:
        """Return the distance between test data and equally many samples under the same conditions, redrawn from four times as many."""
        cond = None if self.cond is None or test.cond is None else torch.cat([test.cond.to(self.cond.dtype)] * 4)
        samples = self.draw(cond, 4 * len(test), place=3, **options)
        return sliced_wasserstein_draws(
            self.measured(samples), self.measured(test.x), draws=DRAWS, size=len(test), generator=self.generator(4)
        )


def sampling(model: GenerativeModel, guidance: Guidance | float | None) -> str:
    """Return what samples are drawn with, as text."""
    exact = "a decoder" if isinstance(model, Autoencoder) else "an exact map"
    own = exact if not model.solved else f"{model.sampler}"
    own += f", then {model.sampler}" if not model.solved and model.sampler is not None else ""
    return own if guidance is None else f"{own} with {guidance if isinstance(guidance, Guidance) else CFG(guidance)} (likelihoods without)"


def _compared(part: str, name: str, bits: Tensor, others: Tensor) -> Comparison:
    """Return the comparison of two densities on the same examples; where both are infinite, they are equal."""
    difference = torch.where(bits == others, 0.0, bits - others)
    error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
    return Comparison(part, name, float(difference.mean()), error, float((difference > 0).double().mean()))
