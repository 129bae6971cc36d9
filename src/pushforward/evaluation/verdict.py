"""What a reader of an evaluation should know first: where the model is worse than it should be, in one sentence each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pushforward.evaluation.judgement import Comparison, Judgement

GAUSSIANS = ("gaussian", "gaussian, per class", "gaussian, given the condition")
ERRORS = 2.0  # standard errors of a mean difference, or of a share, beyond which it is no chance
COPYING = 3.0  # the same for the share of samples closer to training data, of which every report has one
MATERIAL = 0.6  # that share below which copying is not worth a sentence
WORSENED = 0.1  # of the improvement before the best step; and at least
NOTICED = 0.01  # of a loss that is of order 1 for paths, and in nats per dimension for flows


def verdict(
    judged: Judgement, metrics: Sequence[Mapping[str, Any]], *, steps: int | None = None, evaluated: int | None = None
) -> list[str]:
    """Return one sentence for each thing that is wrong with a model; an empty list if nothing is.

    - Its likelihood is worse than a baseline's on the same examples: the mean of the paired differences is positive, and either 2 standard
      errors from 0 or so is the share of examples on which the baseline is better (some outliers alone make a mean uncertain).
    - Training continued to its last step although the validation loss had risen by more than a tenth of what it had fallen.
    - Samples are closer to training data than to test data: in more than 60 % of cases, and by more than 3 standard deviations of chance.

    Args:
        judged: the metrics of the evaluation.
        metrics: rows of the run's metrics.jsonl.
        steps: the number of steps of the run's settings; one that ended before is not reported to have continued. None for any number.
        evaluated: the step of the evaluated checkpoint, None if it is unknown.
    """
    validated = [
        (row["step"], row["validation_loss"]) for row in metrics if "validation_loss" in row and math.isfinite(row["validation_loss"])
    ]
    return [*_behind(judged, validated), *_worsened(validated, steps, evaluated), *_copied(judged)]


def _behind(judged: Judgement, validated: Sequence[tuple[int, float]]) -> Iterator[str]:
    """Yield a sentence on the worst of a Gaussian and the best baseline, for the first of the model's likelihoods that is behind one."""
    for part in ("pooled", "mixture", "conditional"):
        behind = [one for one in judged.comparisons if one.part == part and _is_behind(one, judged.scored)]
        if not behind:
            continue
        best = max(behind, key=lambda one: one.difference)
        gaussian = max((one for one in behind if one.density in GAUSSIANS), key=lambda one: one.difference, default=None)
        first = gaussian or best
        given = " given the condition" if part == "conditional" else ""
        other = (
            ""
            if best.difference - first.difference <= first.error
            else f", and than the best baseline, a {_name(best)}, by {_size(best, judged)}"
        )
        yield (
            f"On {judged.split} data{given} the model is worse than a {_name(first)} by {_size(first, judged)}{other}; "
            f"{_advice(validated)}."
        )
        return


def _is_behind(one: Comparison, examples: int) -> bool:
    if one.difference == math.inf:
        return True
    # A share of n examples has a standard error of 1 / (2 sqrt(n)) around a half.
    return one.difference > 0 and (one.difference > ERRORS * one.error or one.share > 0.5 + ERRORS / (2 * math.sqrt(max(examples, 1))))


def _name(one: Comparison) -> str:
    return one.density.replace(",", "").replace("gaussian", "Gaussian")


def _size(one: Comparison, judged: Judgement) -> str:
    if one.difference == math.inf:
        return f"infinitely many {judged.likelihood_unit} (the model gives probability 0 to some examples)"
    difference, error = judged.per_bit * one.difference, judged.per_bit * one.error
    if not error > 0:  # of one example it is NaN
        return f"{difference:.3g} {judged.likelihood_unit}"
    decimals = max(0, 1 - math.floor(math.log10(error)))  # two digits of the error
    return f"{difference:.{decimals}f} ± {error:.{decimals}f} {judged.likelihood_unit}"


def _advice(validated: Sequence[tuple[int, float]]) -> str:
    """Return what to try, by when validation was best."""
    steps = [step for step, _ in validated]
    best = _best(validated)
    if best is None:
        return "train with a validation set to see when it overfits, or use a smaller network"
    if len(steps) == 1:
        return f"validation was only measured at step {steps[0]}, so measure it more often (--validate-every) to keep the best weights"
    if best[0] == steps[0]:
        return (
            f"validation was best at its first measurement, step {best[0]}, so validate earlier (--validate-every) or use a smaller network"
        )
    if best[0] == steps[-1]:
        return "validation was still improving at the end, so train longer (--steps)"
    return "try a smaller network, more weight decay (--weight-decay) or more data"


def _best(validated: Sequence[tuple[int, float]]) -> tuple[int, float] | None:
    return min(validated, key=lambda one: one[1], default=None)


def _worsened(validated: Sequence[tuple[int, float]], steps: int | None, evaluated: int | None) -> Iterator[str]:
    best = _best(validated)
    if best is None or (steps is not None and validated[-1][0] < steps):
        return
    (step, lowest), (last, final), first = best, validated[-1], validated[0][1]
    if final - lowest <= max(WORSENED * (first - lowest), NOTICED):
        return
    which = "" if evaluated is None else f"; the weights of step {evaluated} are evaluated here"
    yield (
        f"Training continued while validation worsened, from a loss of {lowest:.4g} at step {step} of {last} to {final:.4g} at the "
        f"end, {final - lowest:.3g} more{which}."
    )


def _copied(judged: Judgement) -> Iterator[str]:
    excess = judged.closer_to_train - 0.5
    if judged.closer_to_train > MATERIAL and excess > COPYING * judged.closer_to_train_error:
        yield (
            f"{judged.closer_to_train:.0%} of samples are closer to training data than to as much {judged.split} data, where "
            f"50 ± {100 * judged.closer_to_train_error:.0f} % is chance; train fewer steps or use a smaller network."
        )
