"""The options --lora and --lora-weight: checked before a model is loaded, merged into it, and stored by their digests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pushforward._checks import real
from pushforward.errors import UserError
from pushforward.formats.lora import check_lora, lora_file
from pushforward.sd3.lora import Adapting
from pushforward.sd3.lora_hub import local_lora
from pushforward.sd3.png import digest

DIGESTS = "lora_sha256"  # the entry of an image's settings


def check_loras(files: Sequence[str], weights: Sequence[float]) -> None:
    """Raise for files that are no LoRA, and for weights that do not belong to them; files are downloaded, but tensors not read."""
    for weight in weights:
        real("--lora-weight", weight, hint="1 is full strength")
    if not files and list(weights) != [1.0]:
        raise UserError(f"--lora-weight is {' '.join(f'{one:g}' for one in weights)}, but no --lora is given; give one, or leave it out.")
    if len(weights) not in (1, len(files)):
        raise UserError(f"--lora-weight has {len(weights)} numbers for {len(files)} files of --lora; give one for all, or one each.")
    if len(set(files)) < len(files):
        raise UserError("--lora has a file twice; give it once, with the sum of its weights.")
    known: dict[Path, str] = {}
    for file in files:
        check_lora(local_lora(file))
        path = lora_file(local_lora(file)).resolve()
        if path in known:
            raise UserError(f"--lora has {file}, which is the file of {known[path]}; give it once, with the sum of its weights.")
        known[path] = file


def apply_loras(model: Adapting, files: Sequence[str], weights: Sequence[float], merge: bool) -> None:
    """Load LoRAs onto a model, with one weight for all or one each, and merge them, which weights in 8 bits would round."""
    for file, weight in zip(files, weights if len(weights) > 1 else [weights[0]] * len(files), strict=True):
        model.load_lora(file, weight, name=file)
    if files and merge:
        model.merge_lora()


def digests(files: Sequence[str]) -> dict[str, Any]:
    """Return what the settings of an image hold of the files besides their names."""
    return {DIGESTS: [digest(lora_file(local_lora(file))) for file in files]} if files else {}


def check_unchanged(source: str, settings: Mapping[str, Any], files: Sequence[str]) -> None:
    """Raise if a file that an image was made with has changed since."""
    stored = settings.get("lora"), settings.get(DIGESTS)
    known = dict(zip(*stored, strict=False)) if all(isinstance(one, list) for one in stored) else {}  # type: ignore[arg-type]
    for file in files:
        if file in known and digest(lora_file(local_lora(file))) != known[file]:
            raise UserError(f"--from is {source}, made with --lora {file}, which has changed since; give the file as it was.")
