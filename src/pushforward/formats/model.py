"""Saving and loading models: weights in safetensors, configuration in YAML; neither can run code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pushforward import paths, registry
from pushforward._files import regular
from pushforward.errors import CheckpointError, ConfigError, NoCheckpointError, PushforwardError, UserError
from pushforward.families.checks import misfit
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.formats.config import call_checked, dump_yaml, from_plain, load_yaml, to_plain
from pushforward.formats.diffusers_folder import check_diffusers, diffusers_config, fill_diffusers, is_diffusers
from pushforward.formats.files import MANIFEST, check_folder, check_replaceable, write_folder
from pushforward.formats.hub import downloaded, hub_errors, is_remote
from pushforward.formats.packages import check_packages, stamped
from pushforward.formats.run import FINETUNE, POINTERS, Checkpoints, checkpoints
from pushforward.formats.wrapped import (
    check_described,
    frozen_names,
    own_names,
    own_state,
    state_to_save,
    unwrapped,
    without_random,
)
from pushforward.registry import export

CONFIG, WEIGHTS, RAW = "config.yaml", "model.safetensors", "raw.safetensors"
# Of a repository of the Hub: first what describes a model, then, if it can be built, its weights in safetensors. Pickles never.
DESCRIBING = (CONFIG, MANIFEST, "model_index.json", "config.json", "scheduler_config.json", "unet/*.json", "scheduler/*.json")
WEIGHING = ("unet/diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors")
TRAINING = ("teacher",)  # settings that only training reads, kept in the configuration: a trained model is built without them


def model_config(model: GenerativeModel) -> dict[str, Any]:
    """Return a model's configuration as plain data with the sections preset, model, versions and, of plugins, packages.

    Raises:
        ConfigError: the model was not built by a preset, or it was given a live network instead of its settings.
    """
    if model.config is None:
        raise ConfigError("this model was not built by a preset, so config.yaml cannot describe it; save its state_dict() instead.")
    arguments = model.config["model"]
    if arguments.get("sampler") is not None:
        arguments = {**arguments, "sampler": model.sampler}  # as it is now: another may have been assigned
    return stamped(to_plain({**model.config, "model": arguments}))


def build(config: Mapping[str, Any], where: str = "config.yaml") -> GenerativeModel:
    """Return the untrained model described by the sections preset and model, along the paths of the section follow.

    Raises:
        ConfigError: a section is missing, or a name, key or type is wrong.
    """
    preset, arguments = config.get("preset"), config.get("model")
    if preset is None and FINETUNE in config:
        raise ConfigError(
            f"{where} is of a fine-tuning, whose result is used with the model that it was made of: `pushforward generate RUN` states how."
        )
    if not isinstance(preset, str) or not isinstance(arguments, Mapping):
        raise ConfigError(f"{where} has no sections preset (a name) and model (a mapping); give a file written by pushforward.")
    check_packages(config, where)
    name = f"models.{preset}"
    known = registry.names("models")
    if name not in known:
        raise ConfigError(f"{where}: {registry.unknown('preset', preset, [one.removeprefix('models.') for one in known])}")
    kept = {key: one for key, one in arguments.items() if key in TRAINING}
    model = call_checked(registry.get(name), {key: one for key, one in arguments.items() if key not in kept}, f"model ({preset})")
    if kept and model.config is not None:
        model.config["model"].update(kept)
    for path in from_plain(config.get("follow", []), tuple[paths.Path, ...], "follow"):
        if not isinstance(model, PathModel):
            raise ConfigError(f"{where} has a section follow, but {preset} has no path to replace; leave it out.")
        model = model.follow(path)
    return model


@export("save")
def save(model: GenerativeModel, folder: str | Path) -> Path:
    """Write a model's weights and configuration atomically to a folder that `load` reads.

    Args:
        model: built by a preset; of one that is compiled, averaged (`swa_utils.AveragedModel`) or in DDP the model inside is saved, and
            parametrised weights (`torch.nn.utils.parametrize`) as the values that they have.
        folder: where; a folder that `save` wrote is replaced, one that holds anything else never.

    Returns:
        The folder.

    Raises:
        ConfigError: no preset built the model, or a part of it was replaced by one of another type.
        UserError: it is no GenerativeModel, nor a wrapper of torch around one; or the folder holds something else.
        CheckpointError: its weights are sharded over processes.

    Example:
        >>> import pushforward as pf, tempfile
        >>> model = pf.models.rectified_flow(shape=(2,))
        >>> folder = pf.save(model, tempfile.mkdtemp() + "/moons")
        >>> pf.load(folder).shape
        (2,)
    """
    folder, model = Path(folder), unwrapped(model)
    check_replaceable(folder, (CONFIG, WEIGHTS, MANIFEST), WEIGHTS)
    config, state = model_config(model), state_to_save(model)
    check_described(model, without_random(lambda: build(config)), state)
    write_folder(folder, lambda temporary: write_model(temporary, config, state))
    return folder


def write_model(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], raw: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write configuration, weights, and the raw weights in addition to averaged ones, into a folder."""
    (folder / CONFIG).write_text(dump_yaml(config), encoding="utf-8")
    for name, tensors in ((WEIGHTS, weights), (RAW, raw)):
        if tensors is not None:
            write_weights(folder / name, tensors)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors into a safetensors file."""
    path.touch()
    mode = path.stat().st_mode  # as the umask allows: safetensors makes files that only their owner may read
    save_file({key: one.detach().contiguous() for key, one in tensors.items()}, path)
    if path.stat().st_mode != mode:
        path.chmod(mode)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file.
    """
    try:
        return load_file(regular(path, CheckpointError))
    except FileNotFoundError:
        raise CheckpointError(f"there is no weights file {path}; copy the folder again, or train the run again.") from None
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: of a shape that torch cannot have
        raise CheckpointError(f"{path} is not a complete safetensors file ({error}); copy it again.") from None


@export("load")
def load(run_or_folder: str | Path, weights: Literal["ema", "raw"] = "ema", checkpoint: str = "best") -> GenerativeModel:
    """Load the model of a run, a checkpoint, a folder written by `save`, or a DDPM pipeline of diffusers, in eval mode.

    Only model.safetensors (or raw.safetensors) and config.yaml are read; nothing in them can run code. A pipeline folder of diffusers
    (model_index.json, a UNet2DModel and a scheduler) becomes a model of the preset `ddpm` on the levels 0 ... 255, with the scheduler as
    its sampler; of it only JSON and tensors are read.

    Args:
        run_or_folder: a run folder, one of its checkpoints (also as RUN/checkpoints/best or last), a saved model, or a pipeline folder;
            or "owner/name", a repository of the Hugging Face Hub written by `push_to_hub` or by diffusers, which is downloaded once.
        weights: "ema" for the averaged weights (the raw ones if there is no average), "raw" for the trained ones.
        checkpoint: checkpoint of a run: "best" on validation, "last", or its name, such as "step-000500".

    Returns:
        The model, built from the configuration.

    Raises:
        NoCheckpointError: there is no run, checkpoint, saved model or repository of this name.
        UserError: the repository is gated and you are not logged in.
        CheckpointError: it is damaged; the message suggests an older checkpoint if one is intact.
        ConfigError: the configuration cannot be read; a pipeline's network or scheduler has no counterpart here.
    """
    if weights not in ("ema", "raw"):
        raise UserError(f"weights is {weights!r}, but it must be 'ema' or 'raw'.")
    folder = located(run_or_folder, checkpoint)
    check_intact(folder)
    return with_weights(described(folder), folder, weights)


def located(run_or_folder: str | Path, checkpoint: str = "best") -> Path:
    """Return the folder with the weights and configuration of a run, a checkpoint or a saved model; nothing in it is read.

    Raises:
        NoCheckpointError: there is none.
    """
    folder = at_hand(run_or_folder)
    if folder.name in POINTERS and not folder.is_dir() and Checkpoints(folder.parent).names():
        folder = Checkpoints(folder.parent).find(folder.name)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise NoCheckpointError(f"{folder} {what}; give a run folder, a checkpoint, or a folder written by pushforward.save.")
    if (folder / "checkpoints").is_dir():
        return checkpoints(folder).find(checkpoint)
    if not (folder / WEIGHTS).exists() and not is_diffusers(folder):
        raise NoCheckpointError(
            f"{folder} holds neither checkpoints/ nor {WEIGHTS}; give a run folder, a folder written by pushforward.save, or a pipeline "
            "folder of diffusers with its model_index.json."
        )
    return folder


def at_hand(run_or_folder: str | Path) -> Path:
    """Return the path of a model: as it is, or, of "owner/name" where there is no such folder, that of the downloaded repository.

    What describes the model is downloaded and read before its weights, so that nothing large is fetched in vain.

    Raises:
        NoCheckpointError: the repository does not exist, or holds no model of this library or of diffusers.
        UserError: it is gated.
        CheckpointError: the Hub cannot be reached.
    """
    if not is_remote(run_or_folder):
        return Path(run_or_folder)
    name = str(run_or_folder)
    with hub_errors(name, f"there is no folder {name} here; the model", "give the path of a run or of a saved model, or check the name"):
        folder = Path(downloaded(name, DESCRIBING))
        if (folder / CONFIG).is_file():
            return Path(downloaded(name, (*DESCRIBING, WEIGHTS)))
    if not is_diffusers(folder):
        raise NoCheckpointError(f"{name} on the Hub holds neither {CONFIG} nor model_index.json; it is no model that `push_to_hub` wrote.")
    diffusers_config(folder)
    with hub_errors(name, f"the model {name}", "try again"):
        return Path(downloaded(name, (*DESCRIBING, *WEIGHING), ["*.fp16*"]))


def described(folder: Path) -> GenerativeModel:
    """Return the model of a folder (see `located`) as its configuration describes it, without its weights, in eval mode.

    That the tensors of a pipeline of diffusers fit is checked here, as nothing else of it is known to belong together.

    Raises:
        ConfigError: the configuration cannot be read.
        CheckpointError: nor is the folder intact.
    """
    if is_diffusers(folder):
        model = build(diffusers_config(folder), str(folder)).eval()
        check_diffusers(folder, model)
        return model
    try:
        return build(load_yaml(folder / CONFIG), str(folder / CONFIG)).eval()
    except (PushforwardError, OSError):
        check_intact(folder)
        raise


def with_weights(model: GenerativeModel, folder: Path, weights: Literal["ema", "raw"] = "ema") -> GenerativeModel:
    """Return a model of `described` with the weights of its folder, which `check_intact` has checked."""
    if is_diffusers(folder):
        fill_diffusers(folder, model)
        return model
    file = folder / (RAW if weights == "raw" and (folder / RAW).exists() else WEIGHTS)
    tensors = read_weights(file)
    stored, built = ({one.dtype for one in some.values() if one.is_floating_point()} for some in (tensors, own_state(model)))
    if len(stored) == len(built) == 1:  # a model that was saved in float64 comes back in float64
        model.to(stored.pop())
    load_weights(model, tensors, file)
    return model


def check_intact(folder: Path) -> None:
    """Raise unless the files of a folder of weights are as they were written.

    Raises:
        CheckpointError: they are not; the message suggests an older checkpoint of the run if one is intact.
    """
    if folder.name in (run := Checkpoints(folder.parent)).names():
        run.path(folder.name)
    elif not is_diffusers(folder):
        check_folder(folder)


def load_weights(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy tensors into a model, or report which of them do not match.

    Raises:
        CheckpointError: names or shapes differ; the message gives the first of each kind.
    """
    optional = frozen_names(model) - tensors.keys()
    problem = misfit({key: one for key, one in own_state(model).items() if key not in optional}, tensors)
    if problem:
        raise CheckpointError(f"{source} does not fit the model: {problem}; it was trained with another architecture.")
    names = own_names(model)
    model.load_state_dict({names[key]: one for key, one in tensors.items()}, strict=not optional)
