"""Upload of a run or a model to the Hugging Face Hub: safetensors, config.yaml and a card."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from pushforward.errors import CheckpointError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import dump_yaml, load_yaml
from pushforward.formats.diffusers_folder import is_diffusers
from pushforward.formats.files import write_folder
from pushforward.formats.hub import is_hub_id, page, status_of
from pushforward.formats.model import CONFIG, WEIGHTS, check_intact, described, load, located, save
from pushforward.formats.run import FINETUNE, checkpoints
from pushforward.publish.card import EVALUATION, card
from pushforward.registry import export
from pushforward.sd3.text_latents import TextLatents

CARD, PICTURE = "README.md", "samples.png"


@export("push_to_hub")
def push_to_hub(
    run_or_model: str | Path | GenerativeModel,
    name: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    license: str | None = None,
    checkpoint: str = "best",
    message: str | None = None,
) -> str:
    """Upload a run, a saved model or a model to the Hugging Face Hub, where `pf.load("owner/name")` reads it.

    Uploaded are model.safetensors (the averaged weights), config.yaml, and README.md, the model's card: metadata, data, settings, the
    results of the run's metrics.jsonl and evaluation.json, the command that repeats the run, and code that loads the model. Of paths
    in config.yaml only the last part is uploaded. Everything is checked and written here before the repository is created.

    Args:
        run_or_model: a run folder, one of its checkpoints, a folder written by `save`, or a model built by a preset.
        name: "owner/name" of the repository, which is created if it does not exist.
        private: whether a new repository is private; None leaves it to the owner's settings.
        token: with the permission to write; None uses HF_TOKEN, or that of `hf auth login`.
        license: the Hub's identifier of a licence, such as "mit" or "cc-by-4.0", for the card.
        checkpoint: checkpoint of a run: "best", "last", or its name.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        UserError: the name is no "owner/name", there is no token, or it does not permit to write; or the model needs further files.
        NoCheckpointError: there is no run or model at this path.
        ConfigError: no preset built the model.
        CheckpointError: the run is damaged, or the Hub cannot be reached.

    Example:
        >>> import pushforward as pf
        >>> pf.push_to_hub(pf.models.rectified_flow(shape=(2,)), "moons")
        Traceback (most recent call last):
        pushforward.errors.UserError: name is 'moons', but a repository of the Hub is OWNER/NAME, such as 'alice/moons'.
    """
    if not isinstance(name, str) or not is_hub_id(name):
        raise UserError(f"name is {name!r}, but a repository of the Hub is OWNER/NAME, such as 'alice/{str(name).rpartition('/')[2]}'.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write(run_or_model, folder, name, license, checkpoint)
        return _upload(folder, name, private, token, message or f"Upload {name.partition('/')[2]}")


def write(run_or_model: str | Path | GenerativeModel, folder: Path, name: str, licence: str | None, checkpoint: str = "best") -> None:
    """Write the files of a repository to a new folder, the run or model checked; see `push_to_hub`."""
    source = None
    if isinstance(run_or_model, str | Path):
        source = located(run_or_model, checkpoint)
        check_intact(source)
        _check_tuning(source)
        if is_diffusers(source):
            run_or_model, source = load(source), None
    if source is None:
        assert not isinstance(run_or_model, str | Path)
        _check_complete(run_or_model)
        save(run_or_model, folder)
        (folder / CARD).write_text(card(name, run_or_model, load_yaml(folder / CONFIG), None, licence), encoding="utf-8")
        return
    model, config = described(source), _without_paths(load_yaml(source / CONFIG))
    _check_complete(model)
    run = source.parent.parent if source.name in checkpoints(source.parent.parent).names() else source

    def fill(temporary: Path) -> None:
        (temporary / CONFIG).write_text(dump_yaml(config), encoding="utf-8")
        shutil.copyfile(source / WEIGHTS, temporary / WEIGHTS)

    write_folder(folder, fill)
    if (run / EVALUATION).is_file():
        shutil.copyfile(run / EVALUATION, folder / EVALUATION)
    drawn = _picture(run)
    if drawn is not None:
        shutil.copyfile(drawn, folder / PICTURE)
    (folder / CARD).write_text(card(name, model, config, run, licence, None if drawn is None else PICTURE), encoding="utf-8")


def _check_tuning(folder: Path) -> None:
    config = load_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if FINETUNE in config and "preset" not in config:
        raise UserError(f"{folder} is a fine-tuning, whose result is a file that other programs read; upload that file with `hf upload`.")


def _check_complete(model: object) -> None:
    if isinstance(model, TextLatents):
        raise UserError(
            "this model makes images of texts and needs its autoencoder and text encoders, which are no part of it; upload the run's "
            "folder with `hf upload`."
        )


def _picture(run: Path) -> Path | None:
    """Return the run's newest picture of samples: that of its evaluation, else that of its last step, None if there is none."""
    steps = sorted((run / "samples").glob("step-*.png"))
    return next((one for one in (run / PICTURE, *reversed(steps)) if one.is_file()), None)


def _without_paths(value: Any) -> Any:
    """Return plain data in which paths of this machine are reduced to their last part: folders may be named after users or customers."""
    if isinstance(value, Mapping):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute() or _exists(value)):
        return PurePath(value).name
    return value


def _exists(text: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return "/" in text and Path(text).exists()
    return False


def _upload(folder: Path, name: str, private: bool | None, token: str | None, message: str) -> str:
    from huggingface_hub import HfApi, constants, get_token

    if token is None and get_token() is None:
        raise UserError(
            f"there is no token to write {name} with; log in with `hf auth login` (a write token from "
            "https://huggingface.co/settings/tokens), or set HF_TOKEN."
        )
    api = HfApi(endpoint=constants.ENDPOINT, token=token, library_name="pushforward")
    with _upload_errors(name):
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    return page(name)


@contextlib.contextmanager
def _upload_errors(name: str) -> Iterator[None]:
    """Convert the Hub's refusals into one-sentence messages.

    Raises:
        UserError: the token may not write there, or the Hub refuses a name or a file.
        CheckpointError: the Hub cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The client that this version of huggingface_hub uses; before 1.0 it is requests, whose errors are OSErrors.
    clients = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    unreached = (HfHubHTTPError, *(one.HTTPError for one in clients), OSError, ValueError)
    try:
        yield
    except HFValidationError as error:
        raise UserError(
            f"name is {name!r}, which the Hub does not allow ({str(error).splitlines()[0].rstrip('.')}); choose another."
        ) from None
    except unreached as error:
        status = status_of(error)
        if status in (401, 403, 404):
            owner = name.partition("/")[0]
            raise UserError(
                f"the Hub does not let this token write {page(name)} (status {status}); check that {owner} is your name or an "
                "organisation of yours, and that the token may write."
            ) from None
        reason = str(error).strip().splitlines()[-1].rstrip(".") if str(error).strip() else type(error).__name__
        if (status is not None and status < 500) or isinstance(error, ValueError):
            raise UserError(f"the Hub refuses {name} ({reason}); correct it and push again.") from None
        raise CheckpointError(f"{page(name)} cannot be written ({reason}); nothing on this machine has changed, so push again.") from None
