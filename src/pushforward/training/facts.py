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


def facts(model: GenerativeModel, settings: Settings, data: str | int) -> dict[str, Any]:
    """Return what must be equal in all processes.

    Args:
        model: the model to train.
        settings: the training settings.
        data: fingerprint of the training data, or their number.
    """
    config: Any = {}
    with contextlib.suppress(ConfigError):  # a live network is described by its parameters only
        config = to_plain(model.config or {})
    return {
        "training": to_plain(vars(settings)),
        **config,
        "parameters": {name: list(p.shape) for name, p in model.named_parameters()},
        "data": data,
        "code": code_digest(),
        "torch": str(torch.__version__),
    }


def code_digest() -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of this package's source."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
