"""The prompts of `pushforward generate`: one, or a file with one in each line, and n images of each; and the files that encode them."""

from pathlib import Path

from pushforward._files import text_of
from pushforward.errors import UserError
from pushforward.formats.hub import is_hub_id


def prompts_of(prompt: str | None, file: Path | None, n: int) -> list[str]:
    """Return the prompt of each image.

    Raises:
        UserError: both are given, or the file cannot be read or has no prompts.
    """
    if file is None:
        return [prompt or ""] * n
    if prompt is not None:
        raise UserError(f"--prompts is {file}, but there is a prompt too ({prompt!r}); give one of them.")
    try:
        lines = text_of(file, UserError, encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"--prompts is {file}, which cannot be read ({reason}); give a text file with a prompt in each line.") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"--prompts is {file}, which is empty; write a prompt in each line.")
    return [text for text in texts for _ in range(n)]


def check_encoders(option: str, encoders: Path | None, tokenizers: str | None) -> None:
    """Raise unless separate text encoders and tokenizers exist, or may be on the Hub.

    Raises:
        UserError: they do not; `option` is how the encoders were given.
    """
    if encoders is not None and not encoders.exists():
        raise UserError(f"{option} is {encoders}, which does not exist; give the folder with clip_l, clip_g and t5xxl.")
    if tokenizers is not None and not Path(tokenizers).is_dir() and not is_hub_id(tokenizers):
        raise UserError(f"--tokenizers is {tokenizers}, but there is no such folder; give the one of a diffusers model.")
