"""What `pushforward compare --reported RUN RUN ...` prints: the evaluations that runs already have, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pushforward._files import json_of, text_of
from pushforward.cli.output import result
from pushforward.cli.run import notify, run_config
from pushforward.errors import UserError
from pushforward.evaluation.units import BITS, DATA, NATS, STANDARDISED, per_bit
from pushforward.families.model import GenerativeModel
from pushforward.formats.model import build
from pushforward.training.progress import read_metrics

EVALUATION = "evaluation.json"
DISTANCES = {DATA: "sliced Wasserstein", STANDARDISED: "standardised sliced Wasserstein"}


def show_reported(runs: Sequence[Path]) -> None:
    """Print the table of runs, from their config.yaml, metrics.jsonl and evaluation.json; results in different units are different rows."""
    for folder in runs:
        run_config(folder)  # all of them, before anything is read
    judged = {folder: _evaluated(folder) for folder in runs}
    known = [answers for answers in judged.values() if answers is not None]
    if all(_has(NATS, answers) for answers in known if _has(BITS, answers)):  # else bits are what all have
        judged = {folder: answers and _without(BITS, answers) for folder, answers in judged.items()}
    columns = {str(folder): _reached(folder) | (answers or {}) for folder, answers in judged.items()}
    questions = list(dict.fromkeys(question for answers in columns.values() for question in answers))
    show({question: {name: answers.get(question, "–") for name, answers in columns.items()} for question in questions})
    if len({_has(DISTANCES[STANDARDISED], answers) for answers in known}) > 1:
        notify("distances in different units are in different rows; evaluate older runs of the same table again to compare them.")
    missing = [folder for folder, answers in judged.items() if answers is None]
    damaged = [str(folder / EVALUATION) for folder in missing if (folder / EVALUATION).is_file()]
    if damaged:
        notify(f"not readable: {', '.join(damaged)}; run `pushforward evaluate RUN` again.")
    absent = [str(folder) for folder in missing if not (folder / EVALUATION).is_file()]
    if absent:
        notify(f"not evaluated yet: {', '.join(absent)}; run `pushforward evaluate RUN`.")


def _reached(folder: Path) -> dict[str, str]:
    """Return a run's configuration and progress, from its files."""
    config = run_config(folder)
    model: GenerativeModel = build(config, str(folder / "config.yaml"))
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    return {
        "preset": str(config.get("preset")),
        "data": str(config.get("data", {}).get("name", "–")),
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "trained": f"{steps[-1]['step']} steps, {steps[-1]['seconds']:.0f} s" if steps else "–",
    }


def _evaluated(folder: Path) -> dict[str, str] | None:
    """Return a run's results, or None if it has no evaluation.json, or one that is incomplete or of another tool."""
    try:
        return _judged(json_of(text_of(folder / EVALUATION, UserError), finite=False))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None


def _judged(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the results by question; those in different units are different questions, likelihoods have an answer in bits in any case."""
    unit, measured = numbers.get("likelihood_unit", BITS), DISTANCES[numbers.get("distance_unit", DATA)]
    answers = {"evaluated on": f"{numbers['examples']} {numbers['split']} examples"}
    for part in ("pooled", "conditional", "mixture"):
        value = numbers["likelihood"][0][part]
        for one in dict.fromkeys((unit, BITS)) if value is not None else ():
            times = per_bit(one, numbers.get("dimensions", 1))
            answers[f"{one}, {part}"] = f"{times * value:.3f} ± {times * numbers['likelihood'][0][part + '_error']:.3f}"
    answers[f"{measured} to data"] = f"{numbers['distance']:.3f} ± {numbers['distance_std']:.3f}"
    answers[f"{measured} of training data"] = f"{numbers['distance_train']:.3f} ± {numbers['distance_train_std']:.3f}"
    if numbers["recognised"] is not None:
        answers["recognised"] = f"{numbers['recognised']:.1%}"
    answers["closer to training data" + (", standardised" if measured == DISTANCES[STANDARDISED] else "")] = (
        f"{numbers['closer_to_train']:.1%}"
    )
    answers["sampler"] = str(numbers["sampler"])
    answers["seconds per 1000 samples"] = f"{numbers['seconds_per_1000_samples']:.2f}"
    for row in numbers["quality"]:
        answers[
            f"{measured.replace('sliced Wasserstein', 'distance')} at {row['evaluations']} evaluation{'s' * (row['evaluations'] != 1)}"
        ] = f"{row['distance']:.3f}"
    return answers


def _has(start: str, answers: Mapping[str, str]) -> bool:
    return any(question.startswith(start) for question in answers)


def _without(start: str, answers: Mapping[str, str]) -> dict[str, str]:
    return {question: answer for question, answer in answers.items() if not question.startswith(start)}


def show(rows: Mapping[str, Mapping[str, str]]) -> None:
    """Print a table of answers by question and column."""
    names = list(next(iter(rows.values())))
    result(None, models=names, rows=rows)
    table = Table("", *names, show_lines=True)
    for question, answers in rows.items():
        table.add_row(question, *(answers[name] for name in names))
    Console().print(table, highlight=False)
