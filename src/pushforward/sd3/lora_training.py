"""A LoRA that is being trained, in layers of peft."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pushforward._checks import is_real, real, shown, whole
from pushforward.errors import UserError
from pushforward.formats.lora import LoRA
from pushforward.formats.lora_names import linears
from pushforward.nn.lora import LowRank

ATTENTION = ("attention.qkv", "attention.out")  # what diffusers trains by default: to_q, to_k, to_v, to_out.0, add_*_proj, to_add_out
ENCODER_TARGETS = {
    "clip_l": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    "clip_g": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    "t5": ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
}
ADAPTER = "default"


class Trained:
    """The layers of peft in some networks.

    Args:
        components: networks by part.
        rank, alpha, targets, text_encoders, dropout, dora, seed: as in `StableDiffusion3.add_lora`.

    Raises:
        UserError: peft is not installed, or an option is not allowed.
    """

    def __init__(
        self,
        components: Mapping[str, nn.Module],
        rank: int,
        alpha: float | None,
        targets: Sequence[str],
        text_encoders: bool | Sequence[str],
        dropout: float,
        dora: bool,
        seed: int,
    ) -> None:
        peft = imported_peft()
        whole("rank", rank, 1, hint="16 is usual")
        alpha = float(rank if alpha is None else real("alpha", alpha, hint="None is the rank"))
        if alpha == 0:
            raise UserError("alpha is 0, which switches the LoRA off; None is the rank, its full strength.")
        if not is_real(dropout) or not 0 <= dropout < 1:
            raise UserError(f"dropout is {shown(dropout)}, but it must be from 0 to below 1; 0 is usual.")
        whole("seed", seed, 0, 2**63 - 1)
        chosen = {"transformer": matching(components["transformer"], targets)}
        for kind in _encoders(text_encoders, components):
            chosen[kind] = matching(components[kind], ENCODER_TARGETS[kind])
        self.components = {part: components[part] for part in chosen}
        self._required = [(p, p.requires_grad) for one in self.components.values() for p in one.parameters()]
        # alpha may be any number, but its type in peft is int
        settings: dict[str, Any] = {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "use_dora": dora,
            "init_lora_weights": "gaussian",
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part, paths in chosen.items():
                peft.inject_adapter_in_model(peft.LoraConfig(**settings, target_modules=paths), self.components[part])
        self.parameters: list[nn.Parameter] = []
        for module in self.components.values():
            for p in module.parameters():
                if p.requires_grad:
                    p.data = p.data.to(torch.promote_types(p.dtype, torch.float32))
                    self.parameters.append(p)

    def lora(self, model: Any = None) -> LoRA:
        """Return its present values, of the transformer those in the network of a model.

        Raises:
            UserError: the model's network has no LoRA of these Linears.
        """
        components: dict[str, Any] = dict(self.components)
        if model is not None:
            net = getattr(model, "net", None)
            components |= getattr(net, "components", {"transformer": net})
        parts = {}
        for part, own in self.components.items():
            network = components[part]
            layers = _layers(network) if isinstance(network, nn.Module) else {}
            if layers.keys() != _layers(own).keys():
                raise UserError(f"model is {shown(model)}, which does not have this LoRA; give what the Trainer made of sd3.model.")
            parts[part] = tuple(_low_rank(path, layer) for path, layer in layers.items())
        return LoRA(parts)

    def remove(self) -> None:
        """Restore the Linears, and which parameters require gradients."""
        for network in self.components.values():
            for path, layer in _layers(network).items():
                network.set_submodule(path, layer.base_layer)
            del network.peft_config  # peft's mark that there are adapters
        for p, required in self._required:
            p.requires_grad_(required)


def imported_peft() -> Any:
    """Return the module peft, or raise with installation instructions."""
    try:
        import peft
    except ImportError:
        raise UserError("training a LoRA needs peft, which is not installed; run: pip install 'pushforward[sd3]'.") from None
    return peft


def matching(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Return the paths of Linears that end with one of the targets."""
    if isinstance(targets, str) or not targets:
        raise UserError(f"targets is {targets!r}, but it must be a list of ends of paths, such as {list(ATTENTION)}.")
    paths = list(linears(network))
    for target in targets:
        if not any(f".{path}".endswith(f".{target}") for path in paths):
            example = ", ".join(dict.fromkeys(".".join(path.split(".")[-2:]) for path in paths))
            raise UserError(f"targets has {target!r}, but no Linear of this network ends with it; its Linears end with {example}.")
    return [path for path in paths if any(f".{path}".endswith(f".{target}") for target in targets)]


def _encoders(text_encoders: bool | Sequence[str], components: Mapping[str, nn.Module]) -> list[str]:
    if isinstance(text_encoders, bool):
        kinds = ["clip_l", "clip_g"] if text_encoders else []
    else:
        kinds = [text_encoders] if isinstance(text_encoders, str) else list(text_encoders)
    for kind in kinds:
        if kind not in ENCODER_TARGETS or kind not in components:
            there = [one for one in ENCODER_TARGETS if one in components]
            raise UserError(f"text_encoders has {kind!r}, but the model's text encoders are {', '.join(there) or 'none'}; leave it out.")
    return kinds


def _layers(network: nn.Module) -> dict[str, Any]:
    """Return the layers of peft in a network, by path."""
    return {path: one for path, one in network.named_modules() if hasattr(one, "base_layer") and ADAPTER in getattr(one, "lora_A", ())}


def _low_rank(path: str, layer: Any) -> LowRank:
    magnitude = layer.lora_magnitude_vector[ADAPTER].weight if ADAPTER in layer.lora_magnitude_vector else None
    return LowRank(
        path,
        layer.lora_A[ADAPTER].weight.detach().cpu(),
        layer.lora_B[ADAPTER].weight.detach().cpu(),
        layer.scaling[ADAPTER],
        magnitude=None if magnitude is None else magnitude.detach().cpu().reshape(-1, 1),
    )
