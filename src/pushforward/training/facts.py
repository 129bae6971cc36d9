"""What must be equal in all processes of a run."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import torch

from pushforward.errors import ConfigError
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import to_plain
from pushforward.training.settings import Settings
from pushforward.types import HasFingerprint


def facts(model: GenerativeModel, settings: Settings, data: Any, validation: Any, out: Path | None) -> dict[str, Any]:
    """Return what must be equal in all processes, or they would exchange different things.

    Args:
        model: the model to train.
        settings: the training settings.
        data: training data.
        validation: validation data, or None.
        out: run folder, or None.
    """
    config: Any = {}
    with contextlib.suppress(ConfigError):  # a live network is described by its parameters only
        config = to_plain(model.config or {})
    return {
        "training": to_plain(vars(settings)),
        **config,
        "parameters": {name: _described(p) for name, p in model.named_parameters()},
        "data": _identified(data),
        "validation data": _identified(validation),
        "run folder": "none" if out is None else "one",
        "code": code_digest(),
        "torch": str(torch.__version__),
    }


def _described(parameter: torch.nn.Parameter) -> str:
    of = f"{tuple(parameter.shape)} of {str(parameter.dtype).removeprefix('torch.')} on {parameter.device.type}"
    return of if parameter.requires_grad else f"{of}, frozen"


def _identified(data: Any) -> str | int | None:
    """Return the fingerprint of data, or their number."""
    if data is None:
        return None
    return data.fingerprint() if isinstance(data, HasFingerprint) else len(data)


def code_digest() -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of this package's source."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
