"""`pushforward evaluate RUN`: evaluate a run on held-out data, and write evaluation.json, pictures and report.html."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from pushforward._checks import whole
from pushforward.cli.conditions import labels_of
from pushforward.cli.drawing import check_clip, check_drawing, check_sampler, clip_of
from pushforward.cli.guidance import guidance_of
from pushforward.cli.joined import joined
from pushforward.cli.options import check_whole, parse
from pushforward.cli.output import result
from pushforward.cli.run import check_folder, data_section, described_run, device_of, load_data, notify, run_config
from pushforward.cli.samplers import SamplerOptions, own_sampler
from pushforward.errors import UserError
from pushforward.evaluation.judge import EVALUATIONS, HELD, judge
from pushforward.evaluation.judgement import Judgement
from pushforward.evaluation.pictures import loss_curve
from pushforward.evaluation.reconstruction import Reconstruction
from pushforward.evaluation.report import write_report
from pushforward.evaluation.run_pictures import draw
from pushforward.evaluation.units import STANDARDISED
from pushforward.evaluation.verdict import verdict
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import dump_yaml
from pushforward.formats.files import write_text
from pushforward.formats.model import check_intact, located, with_weights
from pushforward.formats.run import checkpoints, step_of
from pushforward.guidance.guidance import Guidance
from pushforward.training.leading import lead
from pushforward.training.progress import read_metrics

CHANGED = "The data have changed since the training: rows of it may be among these, so that the results look better than they are."


@dataclass(frozen=True)
class Evaluate(SamplerOptions):
    """Evaluate a run on held-out data.

    Args:
        run: run folder, or with --data a saved model or a pipeline of diffusers.
        data: name or path of the data of a model that no run has trained; its report is written into --out.
        out: folder of the report; by default the run's.
        split: split to evaluate on; choose on validation, report on test.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        samples: number of samples, spread over the classes.
        draws: dequantisation draws per example of quantised data.
        compared: number of test examples for distances, compared with as many samples out of four times as many.
        scored: number of test examples for likelihoods; 0 for all.
        evaluations: numbers of network evaluations at which samples are evaluated.
        guidance: guidance of the samples, as `pushforward sample --guidance` states it: a scale, or a name, its scale and its options.
        clip: keep the predicted data in a range, as `pushforward sample --clip` does. Likelihoods are without guidance and clipping.
        divergence: "exact" for an ODE's likelihood, or "hutchinson" for an unbiased estimate; "auto" is exact up to 256 dimensions.
        seed: seed of all draws.
        device: "auto", "cpu", "cuda", ...
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    out: Path | None = None
    split: Literal["test", "validation"] = "test"
    checkpoint: str = "best"
    samples: int = 1000
    draws: int = 2
    compared: int = 2000
    scored: int = 0
    evaluations: tuple[int, ...] = EVALUATIONS
    guidance: tuple[str, ...] = ()
    clip: tuple[str, ...] = ()
    divergence: Literal["auto", "exact", "hutchinson"] = "auto"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, {"samples": 1, "draws": 1, "compared": 1, "scored": 0, "seed": 0})
        for count in self.evaluations:
            whole("--evaluations", count, 1)
        clip_of(self.clip, guidance_of(self.guidance))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Evaluate, arguments, prog="pushforward evaluate", description="Evaluate a run on held-out data.")
    command = "pushforward evaluate " + " ".join(shlex.quote(one) for one in arguments)
    judged = evaluate(options, command, {}, lambda text: notify(f"{text} ..."))
    if judged is not None:
        show(judged, options.out or options.run)
    return 0


def evaluate(options: Evaluate, command: str, facts: Mapping[str, str], say: Callable[[str], None]) -> Judgement | None:
    """Evaluate a run, write its evaluation.json, pictures and report.html, and return the metrics; None in other processes than the first.

    They compute their rows of samples and likelihoods.
    """
    with joined() as among:
        with among.agreed("reading the run"):
            judging = _checked(options, among.local_rank)
        return lead(among, judging.loaded, lambda load: _judged(options, judging, load, command, facts, say), "evaluating")


@dataclass(frozen=True)
class _Judging:
    """What is evaluated, whose options fit it.

    Args:
        config: the run's configuration.
        section: the section that names the data.
        model: the model without its weights, with the sampler that the options choose.
        weights: their folder.
        device: where the model is to be.
        guidance: guidance of the samples, or None.
        evaluations: numbers of network evaluations; none of an exact map.
    """

    config: Mapping[str, Any]
    section: Mapping[str, Any]
    model: GenerativeModel
    weights: Path
    device: torch.device
    guidance: Guidance | float | None
    evaluations: tuple[int, ...]

    def loaded(self) -> GenerativeModel:
        """Return the model with its weights."""
        return with_weights(self.model, self.weights).to(self.device)


def _checked(options: Evaluate, local_rank: int) -> _Judging:
    """Return what is evaluated, before data and weights are read.

    Raises:
        UserError: an option does not fit the run.
    """
    folder, out = options.run, options.out or options.run
    device, config = device_of(options.device, local_rank), run_config(folder)
    if options.data is not None and "data" in config:
        raise UserError(f"--data is {options.data}, but {folder} was trained on {data_section(config)['name']}; leave it out.")
    if options.data is None and "data" not in config:
        raise UserError(f"{folder} names no data, as no run has trained it; give --data NAME or PATH.")
    section = data_section(config) if options.data is None else {"name": options.data}
    check_folder(out, f"the report of {folder} is written into {out}")
    weights = located(folder, options.checkpoint)
    model = described_run(folder, options.checkpoint)
    by_ode = model.solved
    if not by_ode and (options.sampler or options.steps or options.sampler_options or options.divergence != "auto"):
        raise UserError(f"--sampler, --steps or --divergence is given, but {config.get('preset')} does not solve an ODE; leave them out.")
    model.sampler = options.chosen(own_sampler(model)) or model.sampler
    check_clip(model, options.clip)
    guidance = clip_of(options.clip, guidance_of(options.guidance))
    evaluations = options.evaluations if by_ode else ()  # an exact map takes one pass
    for sampler in (None, *map(model.sampler_of, evaluations)):
        check_sampler(model, sampler)
    if guidance is not None:
        shape = model.conditioning.shape
        none = labels_of(None, 1, model) if shape is None else torch.empty(0, *shape, dtype=model.dtype)
        check_drawing(model, none, None, guidance, 1.0)
    check_intact(weights)
    return _Judging(config, section, model, weights, device, guidance, evaluations)


def _judged(
    options: Evaluate,
    judging: _Judging,
    load: Callable[[], GenerativeModel],
    command: str,
    facts: Mapping[str, str],
    say: Callable[[str], None],
) -> Judgement:
    """Evaluate the model, write what is found, and return it."""
    folder, out, config, section = options.run, options.out or options.run, judging.config, judging.section
    model, guidance, evaluations = judging.model, judging.guidance, judging.evaluations
    parts = [load_data(section, part) for part in ("train", "validation", options.split)]
    if options.data is not None and (parts[0].shape != model.shape or parts[0].levels != model.levels):
        raise UserError(
            f"--data is {options.data}, whose events have shape {parts[0].shape} and levels {parts[0].levels}, but the model's have "
            f"{model.shape} and {model.levels}; they must be equal."
        )
    model = load()
    changed = section.get("fingerprint") not in (None, parts[0].fingerprint())
    if changed:
        notify(CHANGED)
    train, validation, test = (part.in_memory(HELD) for part in parts)
    judged, made, labels = judge(
        model, train, validation, test, split=options.split, samples=options.samples, draws=options.draws, compared=options.compared,
        scored=options.scored or None, evaluations=evaluations, seed=options.seed, say=say, guidance=guidance,
        divergence=None if options.divergence == "auto" else options.divergence,
    )  # fmt: skip
    metrics = read_metrics(folder / "metrics.jsonl")
    judged.verdict = verdict(judged, metrics, steps=config.get("training", {}).get("steps"), evaluated=_step(folder, options.checkpoint))
    judged.verdict = [CHANGED] * changed + judged.verdict
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "evaluation.json", json.dumps(judged.plain(), indent=1) + "\n")
    say("drawing pictures")
    pictures = draw(out, model, judged, made, labels, train=train, test=test, evaluations=evaluations, seed=options.seed, guidance=guidance)
    if metrics:
        loss_curve(metrics, out / "loss.png")
        pictures["loss"] = (out / "loss.png", "Loss against optimisation steps.")
    write_report(
        out / "report.html",
        title=f"{config.get('preset')} on {section.get('name')}",
        judgement=judged,
        pictures=pictures,
        settings=dump_yaml(config),
        command=command,
        facts={**facts, "samples a second": f"{1000 / judged.seconds_per_1000_samples:,.0f}"},
    )
    return judged


def _step(folder: Path, checkpoint: str) -> int | None:
    """Return the step of a run's checkpoint, None for a saved model."""
    return step_of(checkpoints(folder).path(checkpoint).name) if checkpoints(folder).names() else None


def show(judged: Judgement, folder: Path) -> None:
    """Print the main metrics and the path of the report."""
    result(folder / "report.html", report=folder / "report.html", evaluation=judged.plain())
    console = Console()
    for sentence in judged.verdict:
        console.print(sentence, highlight=False, markup=False)
    table = Table("measured on", judged.split + " data", box=None, pad_edge=False, show_header=False)
    rows: list[tuple[str, Any]] = []
    if judged.recognised is not None and judged.classifier_accuracy is not None:
        rows.append(
            (
                f"recognised, of {judged.recognised_of}",
                f"{judged.recognised:.1%} (real {judged.split} data: {judged.classifier_accuracy:.1%})",
            )
        )
    if judged.reconstruction is not None:
        rows += _of_reconstruction(judged.reconstruction)
    own = judged.likelihood[0] if judged.likelihood else None
    for name in ("pooled", "conditional", "mixture"):
        value = getattr(own, name, None)
        if value is not None:
            comparable = ("pooled", "mixture") if name != "conditional" else (name,)  # densities that do not see the class
            others = [getattr(row, one) for row in judged.likelihood[1:] for one in comparable]
            best = min((other for other in others if other is not None), default=None)
            others_best = "" if best is None else f" (best of the others: {judged.per_bit * best:.3f})"
            rows.append((f"{judged.likelihood_unit}, {name}", f"{judged.per_bit * value:.3f}{others_best}"))
    ratio = judged.distance / judged.distance_train
    measured = "standardised sliced Wasserstein" if judged.distance_unit == STANDARDISED else "sliced Wasserstein to data"
    rows.append(
        (
            measured,
            f"{judged.distance:.3f} ± {judged.distance_std:.3f}, {ratio:.2f}x that of training data",
        )
    )
    rows.append(("closer to training data", f"{judged.closer_to_train:.1%} (50 % is no copying)"))
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    print(f"report: {folder / 'report.html'}")


def _of_reconstruction(found: Reconstruction) -> list[tuple[str, Any]]:
    """Return the rows of an autoencoder's reconstructions."""
    return [
        ("reconstruction", f"PSNR {found.psnr:.2f} dB, mean absolute error {found.mean_absolute_error:.4f} of the range"),
        ("latents", f"{' x '.join(map(str, found.latent_shape))}, mean {found.latent_mean:.3f}, standard deviation {found.latent_std:.3f}"),
        ("KL to N(0, I)", f"{found.kl_per_dimension:.3f} nats per number of a latent"),
    ]
