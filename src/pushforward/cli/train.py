"""`pushforward train PRESET --data NAME|PATH`: train a preset and write the run to a folder."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from pushforward import registry
from pushforward.cli.configuration import base_config, model_defaults, refuse_preset, section_of, settings_of, settled
from pushforward.cli.helping import HELPS
from pushforward.cli.options import parse, preset_record
from pushforward.cli.recipe import with_recipe
from pushforward.cli.rehearse import check_alone, rehearse
from pushforward.cli.run import check_folder, data_options, device_of, load_data
from pushforward.cli.samplers import SamplerOptions
from pushforward.cli.starting import built, finish, start
from pushforward.data.dataset import Dataset
from pushforward.data.load import options_from_text
from pushforward.data.splits import LEAST
from pushforward.data.webdataset import SHARDS
from pushforward.errors import DataError, UserError
from pushforward.formats.run import check_free, checkpoints, is_launched
from pushforward.training.defaults import Defaults, defaults, standardised
from pushforward.training.loggers import MLflow, WandB
from pushforward.training.processes import processes
from pushforward.training.progress import Callback
from pushforward.training.settings import Settings
from pushforward.training.tracing import Profile, TensorBoard

TEXT_TO_IMAGE = "sd3"  # the preset whose data are encoded first


@dataclass(frozen=True)
class RunOptions:
    """Data source and output options of a training run.

    Args:
        data: name of a data set (`pushforward list data`), path of a .npy, .npz, .csv or .parquet file or of a folder of images or
            arrays, or hf:OWNER/NAME for a set of the Hugging Face Hub.
        data_options: options of the data set, as NAME VALUE pairs, such as `label species` or `given "[age, sex]"` for a .csv.
        out: run folder; by default runs/PRESET-DATA.
        dry_run: print what the run would be, with its memory and time, and write nothing.
        device: "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", "mps".
        overwrite: replace an existing run.
        resume: continue from the newest intact checkpoint of the run, with its settings; `--resume auto` begins the run if there is none.
        tensorboard: write metrics for TensorBoard into the run's folder tensorboard (needs the extra `log`).
        wandb: log to Weights & Biases (needs the extra `wandb`); WANDB_MODE=offline writes into the run's folder wandb only.
        mlflow: log to MLflow (needs the extra `mlflow`), where MLFLOW_TRACKING_URI points.
        profile: steps that torch's profiler traces into the run's trace.json; 0 for none.
    """

    data: str = ""
    data_options: dict[str, str] = field(default_factory=dict)
    out: Path | None = None
    device: str = "auto"
    overwrite: bool = False
    resume: bool = False
    tensorboard: bool = False
    wandb: bool = False
    mlflow: bool = False
    profile: int = 0
    dry_run: bool = False


@dataclass(frozen=True)
class Run(RunOptions):
    """Data source and output options of the training of a preset.

    Args:
        sampler_options: options of the model's sampler as NAME VALUE pairs, such as `grid karras grid.rho 5`; `pushforward list
            samplers.ddim` explains those of ddim.
        config: a config.yaml to take settings from; other options override it.
        recipe: a measured run to repeat (`pushforward list recipes`); other options override it.
    """

    sampler_options: dict[str, str] = field(default_factory=dict)
    config: Path | None = None
    recipe: str | None = None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    given = settled(with_recipe(arguments))
    config = base_config(given)
    known = [name.removeprefix("models.") for name in registry.names("models")]
    place = _place_of_preset(given, known)
    preset = config.get("preset") if place is None else given.pop(place)
    if preset is None:
        if set(HELPS) & set(given):
            parsed_records({"run": Run(), "training": Settings()}, given, prog="pushforward train PRESET", description=_overview(known))
        raise UserError(f"train needs a preset: one of {', '.join(known)}; for instance `pushforward train rectified_flow --data moons`.")
    if preset not in known:
        raise UserError(registry.unknown("preset", str(preset), known))
    if config.get("preset", preset) != preset:
        refuse_preset(str(preset), config, "--resume" in given)
    if preset == TEXT_TO_IMAGE:
        from pushforward.cli import train_sd3  # imports this module, and text encoders that no other run needs

        return train_sd3.train(given, config)
    return _train(str(preset), given, config)


def _overview(known: Sequence[str]) -> str:
    presets = ", ".join(known)
    return f"Train a preset on data, or a recipe (`pushforward list recipes`); --help after a PRESET shows its own options: {presets}."


def _place_of_preset(given: Sequence[str], known: Sequence[str]) -> int | None:
    """Return where the preset stands: first, or as a known name that is no option's value."""
    if given and not given[0].startswith("-"):
        return 0
    flags = ("--overwrite", "--resume", "--tensorboard", "--wandb", "--mlflow", "--dry-run")  # options without a value
    for place, one in enumerate(given):
        if one in known and (not given[place - 1].startswith("-") or "=" in given[place - 1] or given[place - 1] in flags):
            return place
    return None


def _train(preset: str, given: Sequence[str], config: Mapping[str, Any]) -> int:
    defaulted = standardised(inspect.signature(registry.get(f"models.{preset}")).parameters)
    parsed = asked(preset, given, config, defaulted)
    options: Run = parsed.run
    source = opened(preset, options, parsed.training, config)
    chosen = Defaults()
    if not config:  # a configuration states what it was made for
        chosen = defaults(preset, source.train)
        if chosen.training or chosen.model != defaulted:  # else they have been read over these; reading them takes 0.1 s
            parsed = suited_options(preset, given, Run(), chosen)
        chosen = chosen.among({**vars(parsed.model), **vars(parsed.training)})
    if options.dry_run:
        model = built(preset, arguments_of(parsed), parsed.training, source.train).to(source.device)
        return rehearse(preset, model, parsed.training, source, options.overwrite, chosen=chosen)
    trainer = start(
        preset, arguments_of(parsed), parsed.training, source.train, source.validation, source.out,
        section=source.section, device=source.device, resume=source.resume, overwrite=options.overwrite,
        callbacks=watching(options, source.out), chosen=chosen,
    )  # fmt: skip
    trainer.fit()
    return finish(trainer)


def asked(preset: str, given: Sequence[str], config: Mapping[str, Any], defaults: Mapping[str, Any], **sections: Any) -> Any:
    """Return the options of a command line over those of a configuration, checked: sections run, training, model and further ones.

    Raises:
        UserError: there is no data, or an option cannot be used.
    """
    model = model_defaults(registry.get(f"models.{preset}"), section_of(config, "model"))
    run = Run(data=str(section_of(config, "data").get("name", "")))
    parsed = parsed_options(preset, given, run, settings_of(config.get("training", {})), {**defaults, **model}, **sections)
    if not parsed.run.data:
        raise UserError(f"train {preset} needs data: give --data moons (`pushforward list data` shows all), or the path of a file.")
    arguments_of(parsed)
    return parsed


@dataclass(frozen=True)
class Source:
    """What a run is trained on and where: its data, the section of the configuration that names them, its folder and device.

    `resume` is whether it continues a run, which may be one that this launch of torchrun began; `launched` is whether this launch began
    it, even if there is no checkpoint yet.
    """

    train: Dataset
    validation: Dataset
    section: dict[str, Any]
    out: Path
    device: torch.device
    resume: bool
    launched: bool


def short_name(data: str) -> str:
    """Return what the folder of a run calls its data: the name of the last file or folder that stands for only one."""
    plain = [one for one in data.removeprefix(SHARDS).rpartition("://")[2].split("/") if one and not set(one) & set("{}*?[]")]
    return Path(plain[-1]).stem if plain else "data"


def opened(preset: str, options: RunOptions, settings: Settings, config: Mapping[str, Any], few: bool = False) -> Source:
    """Return the data of a run, after checking its folder, in all processes.

    With `few`, training data that are too few to be split are their own validation data.
    """
    section: dict[str, Any] = {"name": options.data}
    before = section_of(config, "data")
    if options.data_options:
        section |= options_from_text(options.data, options.data_options)
    elif options.data == before.get("name"):
        section |= data_options(before)
    out = options.out or Path("runs") / f"{preset}-{short_name(options.data)}"
    among = processes(settings.timeout)
    if options.dry_run:
        check_alone(among)
    with among.watched():
        resume, launched = among.of_main(lambda: _continued(out, options, among.launch), "checking the run folder")
        with among.agreed("loading the data"):
            device = device_of(options.device, among.local_rank)
            train = load_data(section, "train")
            try:
                validation = load_data(section, "validation")
            except DataError:
                if not few or len(train) >= LEAST:
                    raise
                validation = train
            section["fingerprint"] = train.fingerprint()
    return Source(train, validation, section, out, device, resume, launched)


def watching(options: RunOptions, out: Path) -> list[Callback]:
    """Return the callbacks that the options ask for."""
    return [
        *([TensorBoard(out / "tensorboard")] if options.tensorboard else []),
        *([WandB()] if options.wandb else []),
        *([MLflow()] if options.mlflow else []),
        *([Profile(out / "trace.json", options.profile)] if options.profile else []),
    ]


def arguments_of(parsed: Any) -> dict[str, Any]:
    """Return the arguments of the preset, the sampler with the options that are given.

    Raises:
        UserError: the sampler has no such options, or the preset no sampler.
    """
    arguments = dict(vars(parsed.model))
    if parsed.run.sampler_options:
        chosen = SamplerOptions(sampler_options=parsed.run.sampler_options)
        arguments["sampler"] = chosen.chosen(arguments.get("sampler"))
    return arguments


def _continued(out: Path, options: RunOptions, launch: str) -> tuple[bool, bool]:
    """Return whether a run is continued, and whether its own launch began it, after checking its folder."""
    launched = is_launched(out, launch)
    if not launched and not options.resume:
        check_free(out, options.overwrite)
        check_folder(out, f"--out is {out}")
    return bool(options.resume) or (launched and bool(checkpoints(out).names())), launched


def parsed_options(preset: str, given: Sequence[str], run: Run, settings: Settings, model: Mapping[str, Any], **sections: Any) -> Any:
    """Return the options of a command line, with these defaults of its sections run, training and model, and of further ones."""
    record = preset_record(registry.get(f"models.{preset}"), model)
    every = {"run": run, "training": settings, "model": record(), **sections}
    parsed = parsed_records(every, given, prog=f"pushforward train {preset}", description=registry.summary(f"models.{preset}"))
    if vars(parsed.model).get("circular") and model.get("preprocess", "none") != "none":  # angles keep their own units
        return parsed_options(preset, given, run, settings, {**model, "preprocess": "none"}, **sections)
    return parsed


def suited_options(preset: str, given: Sequence[str], run: Run, chosen: Defaults) -> Any:
    """Return the options of a command line over those that were chosen for its data; a student without one has its teacher's network."""
    parsed = parsed_options(preset, given, run, Settings(**chosen.training), chosen.model)
    if "net" not in chosen.model or vars(parsed.model).get("teacher") is None:
        return parsed
    model = {name: value for name, value in chosen.model.items() if name != "net"}
    return parsed_options(preset, given, run, Settings(**chosen.training), model)


def parsed_records(records: Mapping[str, Any], given: Sequence[str], *, prog: str, description: str) -> Any:
    """Return records with the options of a command line over their values."""
    fields = [(name, Annotated[type(one), tyro.conf.arg(name="")], field(default=one)) for name, one in records.items()]
    return parse(dataclasses.make_dataclass("Records", fields, frozen=True), given, prog=prog, description=description)
