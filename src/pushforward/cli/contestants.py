"""What `pushforward compare` compares: run folders, and presets to train, each with its options in quotes."""

import dataclasses
import hashlib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushforward import registry
from pushforward.cli.options import from_data
from pushforward.cli.run import CONFIG, data_section, run_config
from pushforward.cli.train import Run, arguments_of, suited_options
from pushforward.data.dataset import Dataset
from pushforward.errors import ConfigError, PushforwardError, UserError
from pushforward.formats.config import dump_yaml
from pushforward.training.defaults import Defaults, defaults
from pushforward.training.settings import Settings

DECIDED = ("steps", "seed", "patience", "validate_every")  # training settings that the comparison decides
COLUMNS = ("given", "categorical", "exclude")  # options that name columns of a table, whose order has no effect
LONGEST = 160  # bytes of a folder's name


@dataclass(frozen=True)
class Contestant:
    """A preset to train, with its options.

    Args:
        typed: the preset and its options as they were typed.
        label: its name in the table: the preset, and the options in which it differs from others of the preset.
        preset: the preset's name.
        arguments: its keyword arguments that the data does not determine.
        settings: how it is trained, apart from what the comparison decides.
        chosen: settings that were chosen for the data.
    """

    typed: str
    label: str
    preset: str
    arguments: Mapping[str, Any]
    settings: Settings
    chosen: Defaults

    @property
    def name(self) -> str:
        """What was typed, as the name of a folder."""
        return name_of(self.typed)


def name_of(typed: str) -> str:
    """Return a preset with its options as the name of a folder; a long one is cut and ends in a digest."""
    name = re.sub(r"[^\w.+]+", "-", typed).strip("-")
    return name if len(name.encode()) <= LONGEST else f"{name[: LONGEST // 4]}-{digest_of(typed)}"


def digest_of(typed: str) -> str:
    """Return the first 8 characters of a text's digest."""
    return hashlib.sha256(typed.encode()).hexdigest()[:8]


def labels_of(typed: Sequence[str]) -> list[str]:
    """Return a label for each preset with its options, without the first words that all of the same preset have in common."""
    split_up = [_words(one) for one in typed]
    labels = []
    for words in split_up:
        others = [one for one in split_up if one[0] == words[0]]
        equal = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*others, strict=False))
        common = len(list(equal)) if len(others) > 1 else len(words)
        if any(not _begins_option(one[common]) for one in others if common < len(one)):  # an option whose values differ
            common = max((place for place in range(1, common) if _begins_option(words[place])), default=1)
        labels.append(" ".join([words[0], *words[common:]]))
    return labels


def _begins_option(word: str) -> bool:
    """Whether a word is an option or a component (net:mlp), and no value."""
    return (word.startswith("-") and not word[1:2].isdigit()) or ":" in word


def split(given: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return what are run folders, and what are presets with their options.

    Raises:
        UserError: one is neither, or given twice.
    """
    known = [name.removeprefix("models.") for name in registry.names("models")]
    runs, presets = list[Path](), list[str]()
    for one in given:
        word = one if Path(one).exists() else (_words(one) or [""])[0]
        if word in known and not (Path(one) / CONFIG).is_file():
            presets.append(one)
        elif Path(one).is_dir():
            runs.append(Path(one))
        elif one == word and (Path(one).suffix or "/" in one):
            raise UserError(f"{one} is not a run folder; train one with `pushforward train`, or give the name of a preset to be trained.")
        else:
            near = registry.unknown("preset", word, known)
            raise UserError(f"{word} is not a run folder, and as a preset: {near}")
    for kind in (presets, [run.resolve() for run in runs]):
        twice = next((one for place, one in enumerate(kind) if one in kind[:place]), None)
        if twice is not None:
            raise UserError(f"{twice} is given twice; give each model once (other seeds of a preset by --seeds).")
    return runs, presets


def _words(typed: str) -> list[str]:
    """Return a preset and its options as words.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return shlex.split(typed)
    except ValueError as error:
        raise UserError(f"{typed!r} is not a preset with its options: {error}; check the quotes.") from None


def check_same_data(runs: Sequence[Path], section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the section data that all runs have, and that is the given one if any.

    Raises:
        UserError: runs differ in it, or have other data than the given.
        ConfigError: one has no readable configuration.
    """
    sections = {str(run): dict(data_section(run_config(run))) for run in runs}
    first, expected = ("--data", dict(section)) if section is not None else next(iter(sections.items()))
    for run, own in sections.items():
        if not _same(own, expected):
            what = "is" if first == "--data" else "was trained on"
            raise UserError(
                f"{run} was trained on {_described(own)}, but {first} {what} {_described(expected)}; compare models of the same data."
            )
    return expected


def check_unchanged(runs: Sequence[Path], section: Mapping[str, Any]) -> None:
    """Raise if the data are no longer those that a run was trained on: its training examples may be test examples now.

    Raises:
        UserError: they have changed since.
    """
    for run in runs:
        if data_section(run_config(run)).get("fingerprint") not in (None, section["fingerprint"]):
            raise UserError(
                f"{run} was trained on {section['name']}, whose content has changed since; train the models again, in a new folder."
            )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    prints = {section["fingerprint"] for section in (one, other) if "fingerprint" in section}
    if len(prints) > 1:
        return False
    return _written(one) == _written(other)


def _written(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section without its fingerprint and with columns, of which one may be written without a list, in one order."""
    columns = {key: value for key, value in section.items() if key in COLUMNS}
    listed = {key: sorted(map(str, [one] if isinstance(one, str | int) else one)) for key, one in columns.items()}
    return {**section, **listed, "fingerprint": 0}


def _described(section: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in section.items() if key != "name")
    return f"{section['name']}" + (f" ({options})" if options else "")


def contestants(presets: Sequence[str], data: str, train: Dataset) -> list[Contestant]:
    """Return the presets to train on data, each of which has been built once.

    Raises:
        UserError: an option is unknown or decided by the comparison, or a preset does not fit the data.
    """
    found = [_contestant(one, label, data, train) for one, label in zip(presets, labels_of(presets), strict=True)]
    names = [one.name for one in found]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise UserError(f"two of the models would be the run {twice}; give each model once.")
    return found


def _contestant(typed: str, label: str, data: str, train: Dataset) -> Contestant:
    preset, *words = _words(typed)
    chosen, run = defaults(preset, train), Run(data=data)
    parsed = suited_options(preset, words, run, chosen)
    flags = {word.partition("=")[0].replace("_", "-") for word in words}
    decided = next((f"--{name}" for name in (one.replace("_", "-") for one in DECIDED) if f"--{name}" in flags), None)
    if decided or dataclasses.replace(parsed.run, sampler_options={}) != run:
        what = decided or "an option of the run"
        raise UserError(
            f"{typed!r} gives {what}, which is equal for all models of a comparison; give options of the preset and its training."
        )
    arguments = arguments_of(parsed)
    try:
        build_preset(preset, arguments, train)
    except (PushforwardError, ValueError, TypeError) as error:
        raise UserError(f"{preset} does not fit {data}, events of shape {train.shape}: {str(error).rstrip('.')}; leave it out.") from None
    return Contestant(
        " ".join([preset, *words]), label, preset, arguments, parsed.training, chosen.among({**vars(parsed.model), **vars(parsed.training)})
    )


def build_preset(preset: str, arguments: Mapping[str, Any], train: Dataset) -> Any:
    """Return a preset built for data."""
    function = registry.get(f"models.{preset}")
    decided = {name: getattr(train, of) for name, of in from_data(function).items() if of is not None}
    return function(**arguments, **decided)


def grouped(runs: Sequence[Path], taken: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Return runs by name: those that differ in the seed only are one model.

    The name is the preset's; where several models are of one preset, or the name is taken, that of the group's first folder.
    """
    groups: dict[str, list[Path]] = {}
    presets: dict[str, str] = {}
    for run in runs:
        config = run_config(run)
        training = config.get("training")
        if not isinstance(config.get("preset"), str) or not isinstance(config.get("model"), Mapping):
            raise ConfigError(
                f"{run} has a config.yaml without sections preset and model, so it is not a run; train one with `pushforward train`."
            )
        training = {key: value for key, value in training.items() if key != "seed"} if isinstance(training, Mapping) else training
        others = {key: value for key, value in config.items() if key not in ("training", "versions", "data", "reflow", "distill")}
        kind = {
            key: {k: v for k, v in config[key].items() if k != "of"}
            for key in ("reflow", "distill")
            if isinstance(config.get(key), Mapping)
        }
        key = dump_yaml({**others, **kind, "training": training})
        groups.setdefault(key, []).append(run)
        presets[key] = str(config["preset"])
    of_preset = list(presets.values())
    named = {
        key: presets[key] if of_preset.count(presets[key]) == 1 and presets[key] not in taken else str(members[0])
        for key, members in groups.items()
    }
    return {named[key]: members for key, members in groups.items()}
