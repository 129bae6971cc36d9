"""What peft and diffusers state about a LoRA apart from its tensors: alpha by module, in the header or in adapter_config.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pushforward._checks import is_real, shown
from pushforward._files import json_of, text_of
from pushforward.errors import CheckpointError, NoCheckpointError
from pushforward.formats.tensor_file import TensorFile

HEADER = "lora_adapter_metadata"  # diffusers: a JSON object, whose keys begin with the part's prefix
CONFIG = "adapter_config.json"  # peft, next to its adapter_model.safetensors
RAW = "base_model.model."
PREFIXED = ("transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
# Initialisations of peft that also change the weights that the LoRA is added to, which the file does not hold.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
LITERAL = ".^$*+?{}[]()|\\"
ALPHA = 8  # of peft's LoraConfig where lora_alpha is left out, whatever r is; diffusers passes a header on to it


@dataclass(frozen=True)
class LoRASettings:
    """The settings of a file by prefix, empty where it states none.

    Args:
        where: name of the file, for messages.
        by_prefix: peft's settings (lora_alpha, alpha_pattern, use_rslora) by the prefix of the names that they are for.
    """

    where: Path
    by_prefix: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def scale(self, name: str, rank: int) -> float:
        """Return alpha / rank (alpha / sqrt(rank) of rank-stabilised ones) of a module; alpha is the rank where no settings are stated."""
        prefix = next((one for one in sorted(self.by_prefix, key=len, reverse=True) if name.startswith(one)), None)
        settings = {} if prefix is None else self.by_prefix[prefix]
        if not settings:
            return 1.0
        alpha = self._by_pattern(settings, name.removeprefix(prefix or ""))
        return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    def _by_pattern(self, settings: Mapping[str, Any], name: str) -> Any:
        """Return alpha of a module: peft's patterns are the end of its path, or all of it after a ^."""
        patterns = settings.get("alpha_pattern") or {}
        if not isinstance(patterns, Mapping):
            raise CheckpointError(f"{self.where} has alpha_pattern {shown(patterns)}, which is no JSON object; download it again.")
        for pattern, alpha in patterns.items():
            path = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
            if any(letter in path for letter in LITERAL[1:]):
                raise NoCheckpointError(f"{self.where} has the alpha_pattern {pattern!r}, but only paths of modules are supported.")
            if name == path or (name.endswith(f".{path}") and not pattern.startswith("^")):
                return self._number(alpha)
        return self._number(settings.get("lora_alpha", ALPHA))

    def _number(self, alpha: Any) -> Any:
        if not is_real(alpha):
            raise CheckpointError(f"{self.where} has alpha {shown(alpha)}, but it must be a finite number; download it again.")
        return alpha


def read_settings(file: TensorFile, raw: bool) -> LoRASettings:
    """Return the settings of an open file; `raw` is whether its names are peft's own, so that its config is a file next to it.

    Raises:
        CheckpointError: the settings cannot be read.
        NoCheckpointError: an initialisation that also changed the model's weights.
    """
    by_prefix: dict[str, Mapping[str, Any]] = {}
    if HEADER in file.metadata:
        stated = _object(file.path, file.metadata[HEADER], f"the header entry {HEADER}")
        for prefix in PREFIXED:
            own = {key.removeprefix(prefix): value for key, value in stated.items() if key.startswith(prefix)}
            if own:
                by_prefix[prefix] = own
        if not by_prefix:
            by_prefix[""] = stated
    config = file.path.with_name(CONFIG)
    if raw and config.is_file():
        try:
            by_prefix[RAW] = _object(file.path, text_of(config, CheckpointError), CONFIG)
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{config} cannot be read ({error}); download it again.") from None
    for settings in by_prefix.values():
        start = settings.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
            raise NoCheckpointError(
                f"{file.path} is a LoRA that began with {start}, which also changes the model's weights; convert it to an ordinary LoRA "
                "by peft's save_pretrained(path_initial_model_for_weight_conversion=...)."
            )
    return LoRASettings(file.path, by_prefix)


def _object(path: Path, text: str, what: str) -> Mapping[str, Any]:
    try:
        value = json_of(text, finite=False)  # alpha is checked where it is used
    except ValueError as error:
        raise CheckpointError(f"{path}: {what} is not JSON ({error}); download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {what} is {shown(value)}, but it must be a JSON object; download it again.")
    return value
