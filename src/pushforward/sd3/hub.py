"""Models and tokenizers from the Hugging Face Hub, with error messages for failed downloads."""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from pushforward.errors import CheckpointError, UserError

EXAMPLE = "stabilityai/stable-diffusion-3.5-medium"
# Only the diffusers folder of a repository: safetensors weights (pickles are not downloaded), in full precision if there are two
# variants, without the single file at the top level and the duplicate encoders next to it.
WANTED = ["model_index.json", *(f"*/*.{ending}" for ending in ("json", "txt", "model", "safetensors"))]
LEFT = ["text_encoders/*", "*.fp16*"]


def local(path: str | Path) -> Path:
    """Return the local path of a model: a file or folder unchanged, the downloaded diffusers folder of a Hub id.

    Raises:
        UserError: there is no such file, folder or repository, or it is gated; the message explains how to log in.
    """
    here, name = Path(path).expanduser(), str(path)
    check_place(path)
    if here.exists():
        return here
    with hub_errors(name, "the model", "download it elsewhere and give its folder or its .safetensors file"):
        return Path(downloaded(name, WANTED))


def check_place(path: str | Path) -> None:
    """Raise unless a path exists or may be a Hub id; nothing is downloaded.

    Raises:
        UserError: it does not exist, and cannot be one.
    """
    name = str(path)
    if Path(path).expanduser().exists():
        return
    if isinstance(path, Path) or not is_hub_id(name) or name.endswith((".safetensors", ".ckpt")):
        raise UserError(f"{path} does not exist; give a .safetensors file, a diffusers folder, or a Hub id such as {EXAMPLE}.")


def is_hub_id(name: str) -> bool:
    """Return whether this may be a Hub repository: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def downloaded(name: str, patterns: list[str]) -> str:
    """Return the local folder with a repository's files that match these patterns."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=patterns, ignore_patterns=LEFT))


@contextlib.contextmanager
def hub_errors(name: str, what: str, remedy: str) -> Iterator[None]:
    """Convert Hub errors into one-sentence messages: a gated or unknown repository, or no network.

    Raises:
        UserError: the repository is gated or does not exist.
        CheckpointError: the Hub could not be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    gated = (
        f"{what} is at https://huggingface.co/{name}, which is gated; accept its licence there, then log in with `hf auth login` "
        "(a read token from https://huggingface.co/settings/tokens), or set HF_TOKEN."
    )
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError) as error:
        if isinstance(error, GatedRepoError):
            raise UserError(gated) from None
        raise UserError(
            f"{what} should be at https://huggingface.co/{name}, but there is no such repository, or it is private; {remedy}."
        ) from None
    except (HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # a local error
        if "gated repo" in str(error).lower() or "401" in str(error) or "403" in str(error):
            raise UserError(gated) from None
        raise CheckpointError(f"{what} is not on this machine and https://huggingface.co/{name} cannot be reached; {remedy}.") from None
