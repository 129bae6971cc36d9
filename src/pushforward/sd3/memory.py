"""Memory estimate of a run: bytes of weights and activations by component, from a pass with fake tensors.

The pass runs on torch's fake tensors, which have shapes but no data: every storage that an operation allocates is counted until its
release, so the peak is that of the actual code, not of a formula. Memory of the device's libraries is not included: the CUDA context
(about 0.5 GB) and convolution workspaces.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pushforward.conditions import TextContext
from pushforward.errors import UserError
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.eight_bits import Weights, checked_weights, keep_all
from pushforward.nn.mmdit import MMDiT
from pushforward.registry import export, unknown
from pushforward.sd3.layers import layers_of
from pushforward.sd3.text_encoders import imported_transformers

GB = 1e9


@export("sd3.Memory")
@dataclass(frozen=True)
class Memory:
    """Memory of a run in bytes, by component.

    Args:
        weights: of each component.
        work: peak in addition to the weights, while it is used.
        streamed: weights on the device at most with offload="blocks": those outside of layers, and two layers, of which one is computed
            while the next one is copied.
    """

    weights: Mapping[str, int]
    work: Mapping[str, int]
    streamed: Mapping[str, int] = field(default_factory=dict)

    @property
    def together(self) -> int:
        """Peak with all components on the device."""
        return sum(self.weights.values()) + max(self.work.values())

    @property
    def offloaded(self) -> int:
        """Peak with offload=True: one component on the device at a time."""
        return max(self.weights[name] + self.work[name] for name in self.weights)

    @property
    def by_blocks(self) -> int:
        """Peak with offload="blocks": one component at a time, and of its layers two."""
        return max(self.streamed.get(name, self.weights[name]) + self.work[name] for name in self.weights)

    def __str__(self) -> str:
        rows = [f"{name:<12} {self.weights[name] / GB:7.2f} {self.work[name] / GB:7.2f}" for name in self.weights]
        peaks = {"all on the device": self.together, "offload=True": self.offloaded, "offload='blocks'": self.by_blocks}
        ends = [f"peak, {name:<17}  {one / GB:.2f} GB" for name, one in peaks.items()]
        return "\n".join(["component    weights    work  (GB)", *rows, *ends])


def memory_of_parts(
    transformer: MMDiT, vae: AutoencoderKL, encoders: Mapping[str, nn.Module], size: tuple[int, int], n: int, tokens: int
) -> Memory:
    """Return the memory for n images of this (height, width). Guidance evaluates conditions sequentially and adds nothing."""
    height, width = (side // vae.factor for side in size)

    def latents(module: nn.Module) -> Tensor:
        return torch.zeros(n, vae.latent_channels, height, width, device=_device(module))

    def step() -> Tensor:
        x = latents(transformer)
        context, pooled = x.new_zeros(n, 77 + tokens, transformer.context_width), x.new_zeros(n, transformer.pooled_width)
        velocity: Tensor = transformer(x, x.new_zeros(n), transformer.prepare(TextContext(context, pooled), n))
        return velocity

    def read(name: str) -> Any:
        config: Any = encoders[name].config
        length = tokens if name == "t5" else config.max_position_embeddings
        ids = torch.zeros(n, length, dtype=torch.long, device=_device(encoders[name]))
        return encoders[name](ids, output_hidden_states=True)

    work = {name: peak(functools.partial(read, name)) for name in encoders}
    work |= {"transformer": peak(step), "vae": peak(lambda: vae.decode(latents(vae)))}
    parts = {**encoders, "transformer": transformer, "vae": vae}
    streamed = {name: _streamed(one) for name, one in parts.items() if name != "vae"}
    return Memory({name: bytes_of(one) for name, one in parts.items()}, work, streamed)


def _streamed(network: nn.Module) -> int:
    """Return the most bytes of a network on the device if its layers are copied one by one, each while the one before is computed."""
    lists = [[bytes_of(layer) for layer in layers] for layers in layers_of(network)]
    pairs = [sum(sizes[k : k + 2]) for sizes in lists for k in range(len(sizes))]
    return bytes_of(network) - sum(map(sum, lists)) + max(pairs, default=0)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@export("sd3.memory_of")
def memory_of(
    variant: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    size: tuple[int, int] = (1024, 1024),
    n: int = 1,
    t5: bool = True,
    tiling: bool = False,
    weights: Weights = "full",
) -> Memory:
    """Return the memory of a public model without its files, from the same networks with fake tensors.

    Args:
        variant: "medium" (Stable Diffusion 3 medium), "medium-3.5" or "large-3.5".
        dtype: of the weights; the autoencoder is float32 where this is float16.
        size: (height, width) of the images.
        n: images per batch.
        t5: whether to include T5.
        tiling: whether the autoencoder is tiled.
        weights: "full", or how the weights of the layers are kept in 8 bits: "fp8" or "int8".

    Returns:
        Bytes by component.

    Raises:
        UserError: an unknown variant or form of weights, or transformers is not installed.

    Example:
        >>> memory = memory_of("medium-3.5", t5=False, tiling=True, size=(256, 256))
        >>> round(memory.weights["transformer"] / 1e9, 1)
        4.9

    Source: sizes as in Stability AI's sd3.5 and the files of 3 and 3.5.
    """
    if variant not in VARIANTS:
        raise UserError(unknown("variant", variant, VARIANTS))
    checked_weights(weights)
    transformers = imported_transformers()
    with torch.device("meta"):
        transformer = MMDiT((16, 128, 128), **VARIANTS[variant])
        vae = AutoencoderKL().memory(slicing=True, tiling=tiling)
        encoders = {kind: transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**one)) for kind, one in CLIPS.items()}
        if t5:
            encoders["t5"] = transformers.T5EncoderModel(transformers.T5Config(**T5))
    vae.to(torch.float32 if dtype == torch.float16 else dtype)
    transformer.positions = transformer.positions.to(dtype)  # as public files hold the table, which casts leave as it is
    for part in (transformer, *encoders.values()):
        keep_all(part.to(dtype), weights)  # not by torch's default dtype, which is that of all threads
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in (transformer, vae, *encoders.values()):
            part.eval().to_empty(device="cpu")
        for encoder in encoders.values():
            encoder.tie_weights()  # T5's two tables of tokens, which are copied one by one
        return memory_of_parts(transformer, vae, encoders, size, n, 256)


VARIANTS: dict[str, dict[str, Any]] = {
    "medium": {"depth": 24, "heads": 24, "qk_norm": False},
    "medium-3.5": {"depth": 24, "heads": 24, "positions": 384, "dual": 13},
    "large-3.5": {"depth": 38, "heads": 38},
}
CLIPS = {
    "clip_l": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768},
    "clip_g": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280},
}
T5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128, "feed_forward_proj": "gated-gelu"}


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers; tied ones are counted once."""
    return sum({id(one): one.numel() * one.element_size() for one in (*module.parameters(), *module.buffers())}.values())


@torch.no_grad()
def peak(run: Callable[[], Any]) -> int:
    """Return the peak bytes of tensors allocated by a function, on fake tensors, so that nothing is computed."""
    fake = contextlib.nullcontext() if detect_fake_mode() else FakeTensorMode(allow_non_fake_inputs=True)
    with fake, _Live() as live:
        run()
    return live.most


class _Live(TorchDispatchMode):
    """Count the bytes of all storages between allocation and release."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.known.update(one.untyped_storage() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))  # weights, inputs
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and not func.is_view and one.untyped_storage() not in self.known:
                storage = one.untyped_storage()
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.release, storage.nbytes())
        return made

    def release(self, size: int) -> None:
        """Subtract the bytes of a storage that has been released."""
        self.now -= size
