"""Repositories of the Hugging Face Hub: their names, downloads, and error messages for what the Hub answers."""

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pushforward.errors import CheckpointError, NoCheckpointError, UserError

RUNS = "runs"  # where runs are written by default: no owner of repositories


def is_hub_id(name: str) -> bool:
    """Return whether this may be a Hub repository: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def is_remote(name: str | Path) -> bool:
    """Return whether a string can only be a Hub repository: there is no such path, nor the folder it would be in."""
    if isinstance(name, Path) or not is_hub_id(name):
        return False
    owner = name.partition("/")[0]
    return owner != RUNS and not Path(owner).exists()


def downloaded(name: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> str:
    """Return the local folder with a repository's files that match these patterns."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=list(ignored) or None))


def page(name: str) -> str:
    """Return the address of a repository, on the Hub or on the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


@contextlib.contextmanager
def hub_errors(name: str, what: str, remedy: str) -> Iterator[None]:
    """Convert Hub errors into one-sentence messages: a gated or unknown repository, or no network.

    Raises:
        UserError: the repository is gated.
        NoCheckpointError: it does not exist.
        CheckpointError: the Hub could not be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    gated = (
        f"{what} is at {page(name)}, which is gated; accept its licence there, then log in with `hf auth login` "
        "(a read token from https://huggingface.co/settings/tokens), or set HF_TOKEN."
    )
    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError) as error:
        if isinstance(error, GatedRepoError):
            raise UserError(gated) from None
        raise NoCheckpointError(f"{what} should be at {page(name)}, but there is no such repository, or it is private; {remedy}.") from None
    except (HfHubHTTPError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise  # a local error
        if "gated repo" in str(error).lower() or status_of(error) in (401, 403):
            raise UserError(gated) from None
        raise CheckpointError(f"{what} is not on this machine and {page(name)} cannot be reached; {remedy}.") from None


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error of huggingface_hub, or of the one that caused it."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        error = error.__cause__
    return None
