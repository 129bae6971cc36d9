"""Settings of a Stable Diffusion 3 that its tensors do not show, in the header of a single file: those that differ from the public models.

Other programs take a single file to be a public model and do not read them; a diffusers folder has them where every program looks.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pushforward._files import json_of
from pushforward.errors import CheckpointError
from pushforward.formats.sd3_shift import STEPS_SHIFT, grid_shift, shift_settings
from pushforward.formats.tensor_file import Stored
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.joint_block import Stream
from pushforward.nn.mmdit import MMDiT

if TYPE_CHECKING:
    from pushforward.formats.sd3 import SD3Files

HEADER = "pushforward_settings"
SCALE, SHIFT, GROUPS = 1.5305, 0.0609, 32  # of the public autoencoder
HEAD = 64  # channels of a head, in the transformer and in both CLIPs
OF_CLIP = {"eos_token_id": 2, "layer_norm_eps": 1e-5}
OF_T5 = {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}
ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}


def stated_settings(files: "SD3Files") -> dict[str, str]:
    """Return the header entries of a single file with these parts, none for a public model."""
    found: dict[str, Any] = {}
    if files.transformer is not None:
        found["transformer"] = _of_transformer(files.transformer)
    if files.vae is not None:
        found["vae"] = _of_autoencoder(files.vae)
    shift = grid_shift(files.scheduler)
    found["scheduler"] = {} if shift == STEPS_SHIFT else shift_settings(shift)
    found |= {kind: _of_encoder(kind, files.text_configs.get(kind) or {}) for kind in files.text_encoders}
    found = {part: one for part, one in found.items() if one}
    return {HEADER: json.dumps(found)} if found else {}


def read_stated(stored: Mapping[str, Stored]) -> dict[str, dict[str, Any]]:
    """Return the settings by part that the headers of the parts' files state.

    Raises:
        CheckpointError: a header is damaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for part, one in stored.items():
        texts = {file.path: file.metadata[HEADER] for file, _ in one.places.values() if HEADER in file.metadata}
        for path, text in texts.items():
            try:
                held = json_of(text)
            except ValueError as error:
                raise CheckpointError(f"{path}: the header entry {HEADER} is not JSON ({error}); save the model again.") from None
            held = held if isinstance(held, dict) else {}
            for name in (part, *(["scheduler"] if part == "transformer" else [])):
                found[name] = held[name] if isinstance(held.get(name), dict) else {}
    return found


def _of_transformer(net: MMDiT) -> dict[str, Any]:
    first = net.blocks[0].image
    assert isinstance(first, Stream)
    head = net.width // first.attention.heads
    return {} if head == HEAD or first.attention.norm_q is not None else {"attention_head_dim": head}


def _of_autoencoder(vae: AutoencoderKL) -> dict[str, Any]:
    if (vae.scale, vae.shift, vae.groups) == (SCALE, SHIFT, GROUPS):
        return {}
    return {"scaling_factor": vae.scale, "shift_factor": vae.shift, "norm_num_groups": vae.groups}


def _of_encoder(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole config.json of a text encoder, if it is not what is inferred from its tensors."""
    usual: dict[str, Any] = dict(OF_T5)
    if kind != "t5":
        heads = max(1, int(config.get("hidden_size", HEAD)) // HEAD)
        usual = {**OF_CLIP, "num_attention_heads": heads, "hidden_act": ACTIVATIONS[kind]}
    return dict(config) if any(config.get(name, one) != one for name, one in usual.items()) else {}
