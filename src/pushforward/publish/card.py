"""The card of a published model: README.md with the Hub's metadata, what the model is, its results, how to repeat and load it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pushforward import registry
from pushforward._files import json_of, text_of
from pushforward.errors import UserError
from pushforward.evaluation.units import BITS, DATA, per_bit, unit_of_distances
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import dump_yaml
from pushforward.training.progress import read_metrics

EVALUATION = "evaluation.json"
LIBRARY = "pushforward"


def card(
    name: str, model: GenerativeModel, config: Mapping[str, Any], run: Path | None, licence: str | None, picture: str | None = None
) -> str:
    """Return the text of README.md.

    Args:
        name: owner/name of the repository.
        model: what is published, for its shape, conditions and verbs; its weights are not read.
        config: the published configuration.
        run: the run folder, None for a model that no run has trained.
        licence: the Hub's identifier of a licence, such as "mit"; None states none.
        picture: name of a file with samples in the repository.
    """
    preset = str(config["preset"])
    metrics = read_metrics(run / "metrics.jsonl") if run is not None else []
    parts = [
        f"---\n{yaml.safe_dump(_metadata(model, config, licence), sort_keys=False, allow_unicode=True)}---",
        f"# {name}",
        _described(preset, model, config),
        *([f"![samples]({picture})"] if picture else []),
        f"## Use\n\n```python\n{_snippet(name, model)}\n```",
        *_section("Results", _table(_results(run))),
        *_section("Training", _training(config, metrics)),
        f"## Settings\n\n```yaml\n{dump_yaml(config).rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(model: GenerativeModel, config: Mapping[str, Any], licence: str | None) -> dict[str, Any]:
    """Return what the Hub indexes; it takes the kind of a task only if there is one for these data."""
    data = str(_data(config).get("name", ""))
    return {
        "library_name": LIBRARY,
        **({"license": licence} if licence else {}),
        "tags": [LIBRARY, str(config["preset"]).replace("_", "-"), "generative-model", "pytorch"],
        **({"pipeline_tag": "unconditional-image-generation"} if len(model.shape) == 3 else {}),
        **({"datasets": [data.removeprefix("hf:")]} if data.startswith("hf:") else {}),
    }


def _data(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = config.get("data")
    return section if isinstance(section, Mapping) else {}


def _described(preset: str, model: GenerativeModel, config: Mapping[str, Any]) -> str:
    parameters = sum(one.numel() for one in model.parameters())
    kinds = {"classes": model.classes, "conditions of width": model.cond_features}
    given = [f"{value} {kind}" if kind == "classes" else f"{kind} {value}" for kind, value in kinds.items() if value]
    data = _data(config).get("name")
    trained = f", trained on `{data}`" if data else ""
    return (
        f"A model of the preset `{preset}` of {LIBRARY} with {parameters:,} parameters{trained}: "
        f"events of shape {tuple(model.shape)}{''.join(f', {one}' for one in given)}.\n\n"
        f"{registry.summary(f'models.{preset}')}"
    )


def _snippet(name: str, model: GenerativeModel) -> str:
    """Return code that loads the model and calls what it has."""
    lines, cond = ["import pushforward as pf"], ""
    if model.classes:
        lines, cond = ["import torch", *lines], f", torch.arange(16) % {model.classes}"
    elif model.conditioning.shape is not None:
        lines, cond = ["import torch", *lines], f", torch.zeros(16, {', '.join(map(str, model.conditioning.shape))})"
    lines += ["", f'model = pf.load("{name}")  # safetensors and YAML: loading runs no code of the repository']
    lines += [f"x = model.sample(16{cond})  # (16, {', '.join(map(str, model.shape))})"]
    if "log_prob" in model.verbs:
        lines += [f"model.log_prob(x{cond})  # (16,), in nats"]
    return "\n".join(lines)


def _section(title: str, text: str) -> Iterable[str]:
    return [f"## {title}\n\n{text}"] if text else []


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {question} | {answer} |" for question, answer in rows)]) if rows else ""


def _results(run: Path | None) -> list[tuple[str, str]]:
    """Return the results of a run's evaluation.json, none if there is none, or one that is incomplete."""
    file = None if run is None else run / EVALUATION
    if file is None or not file.is_file():
        return []
    try:
        return _judged(json_of(text_of(file, UserError), finite=False))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return []


def _judged(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    unit = numbers.get("likelihood_unit", BITS)
    times = per_bit(unit, numbers.get("dimensions", 1))
    rows = [("evaluated on", f"{numbers['examples']} {numbers['split']} examples")]
    for part in ("pooled", "conditional", "mixture"):
        value = numbers["likelihood"][0][part] if numbers["likelihood"] else None
        if value is not None:
            rows.append((f"{unit}, {part}", f"{times * value:.3f} ± {times * numbers['likelihood'][0][part + '_error']:.3f}"))
    where = unit_of_distances(numbers.get("distance_unit", DATA))
    for title, key in (("sliced Wasserstein distance to data", "distance"), ("the same of training data", "distance_train")):
        rows.append((f"{title}, in {where}", f"{numbers[key]:.3f} ± {numbers[key + '_std']:.3f}"))
    if numbers["recognised"] is not None:
        rows.append(("recognised by a classifier", f"{numbers['recognised']:.1%}"))
    rows.append(("closer to training data than to test data", f"{numbers['closer_to_train']:.1%} (50 % is no copying)"))
    return [*rows, ("sampler", str(numbers["sampler"]))]


def _training(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return the progress of the run and the command that repeats it, nothing for a model that no run has trained."""
    if not isinstance(config.get("training"), Mapping):
        return ""
    steps, judged = ([row for row in metrics if key in row] for key in ("loss", "validation_loss"))
    rows = [("steps", f"{steps[-1]['step']}, {steps[-1]['seconds']:.0f} s"), ("loss", f"{steps[-1]['loss']:.4f}")] if steps else []
    if judged:
        best = min(judged, key=lambda row: row["validation_loss"])
        rows.append(("validation loss", f"{best['validation_loss']:.4f} at step {best['step']}"))
    rows += [(package, str(version)) for section in ("packages", "versions") for package, version in (config.get(section) or {}).items()]
    command = "The settings are those of `config.yaml`, which repeats the run:\n\n```sh\npushforward train --config config.yaml\n```"
    return "\n\n".join([*([_table(rows)] if rows else []), command])
