"""LoRAs from the Hugging Face Hub: owner/name, or hf:owner/name:file.safetensors; only safetensors files are downloaded."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from pushforward.errors import NoCheckpointError, UserError
from pushforward.formats.hub import downloaded, hub_errors, is_hub_id, is_remote, page, status_of
from pushforward.formats.lora import FILES
from pushforward.formats.sd3_find import PICKLES

SCHEME = "hf:"
SUFFIX = ".safetensors"
SETTINGS = "adapter_config.json"  # of peft, which states alpha
SHOWN = 10  # files in a message


def hub_lora(given: str | Path) -> tuple[str, str | None] | None:
    """Return repository and file (or None) of a LoRA on the Hub; None of what can only be a path on this machine.

    Raises:
        UserError: it begins with hf:, but names no repository, or a file that is no .safetensors.
    """
    text = str(given)
    if isinstance(given, Path) or Path(text).expanduser().exists():
        return None
    name, mark, file = text.removeprefix(SCHEME).partition(":")
    if not text.startswith(SCHEME) and (not is_remote(name) or name.endswith((SUFFIX, *PICKLES))):
        return None
    if not is_hub_id(name) or (mark and (not file or ".." in Path(file).parts)):
        raise UserError(f"{text} is no LoRA of the Hub, which is hf:OWNER/NAME or hf:OWNER/NAME:FILE{SUFFIX}.")
    if mark and not file.endswith(SUFFIX):
        raise UserError(f"{text} names a file that is no {SUFFIX}; others, which may be pickles and run code, are never downloaded.")
    return name, file or None


def local_lora(given: str | Path) -> Path:
    """Return the path of a LoRA: one on this machine unchanged, the downloaded file of one on the Hub.

    Raises:
        UserError: it names no LoRA of the Hub, or the repository is gated.
        NoCheckpointError: there is no such repository or file, or it has several files or only pickles.
        CheckpointError: the Hub cannot be reached, and the file is not in its cache.
    """
    asked = hub_lora(given)
    if asked is None:
        return Path(given).expanduser()
    name, file = asked
    with hub_errors(name, f"the LoRA {name}", "download it elsewhere and give its .safetensors file"):
        files = _files(name)
        file = _chosen(name, files, file)
        settings = (Path(file).parent / SETTINGS).as_posix()
        return Path(downloaded(name, [glob.escape(one) for one in (file, settings) if one in files])) / file


def default_name(given: str | Path) -> str:
    """Return the name of a LoRA if none is given: that of its file or folder, or of its repository."""
    asked = hub_lora(given)
    if asked is not None:
        return asked[0].partition("/")[2] if asked[1] is None else Path(asked[1]).stem
    path = Path(given)
    return path.name if path.is_dir() else path.stem


def _files(name: str) -> list[str]:
    """Return the files of a repository, of its copy in the cache if the Hub cannot be reached."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = HfApi(endpoint=constants.ENDPOINT).model_info(name).siblings  # list_repo_files waits half a minute without a network
        return [one.rfilename for one in found or ()]
    except RepositoryNotFoundError:  # a gated one is its subclass
        raise
    except Exception as error:  # of huggingface_hub, and of either HTTP client that its versions use
        if status_of(error) in (401, 403):
            raise
        here = Path(snapshot_download(name, local_files_only=True))
        return [path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()]


def _chosen(name: str, files: Sequence[str], file: str | None) -> str:
    """Return the file of a repository that is the LoRA."""
    inside = [one for one in files if ".." not in Path(one).parts and not Path(one).is_absolute()]
    there = sorted(one for one in inside if one.endswith(SUFFIX) and not re.search(r"-\d+-of-\d+\.", one))
    listed = f"{', '.join(there[:SHOWN])}{', ...' if len(there) > SHOWN else ''}"
    if file is not None:
        if file not in there:
            raise NoCheckpointError(f"{page(name)} has no file {file}; it has {listed or 'no ' + SUFFIX + ' file'}.")
        return file
    if not there:
        pickle = next((one for one in files if one.endswith(PICKLES)), None)
        why = f"only {pickle}, a pickle, which can run code and is never downloaded" if pickle else f"{len(files)} others"
        raise NoCheckpointError(f"{page(name)} holds no {SUFFIX} file, but {why}; give another repository.")
    usual = [one for one in there if one in FILES]
    if len(there) > 1 and len(usual) != 1:
        raise NoCheckpointError(
            f"{page(name)} holds {len(there)} files that may be the LoRA: {listed}; give one of them, {SCHEME}{name}:{there[0]}."
        )
    return usual[0] if usual else there[0]
