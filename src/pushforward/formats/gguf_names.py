"""Names of llama.cpp for the tensors of a T5 encoder, and those of transformers."""

import re
from collections.abc import Collection

from pushforward.errors import NoCheckpointError

LLAMA_CPP = ("token_embd.", "blk.", "enc.blk.", "dec.blk.", "v.blk.")  # how names begin in its files
ENCODER = ("t5encoder", "t5")  # general.architecture of files with an encoder alone
OUTSIDE = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
IN_A_BLOCK = {
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}


def transformers_names(where: object, names: Collection[str], architecture: str) -> dict[str, str]:
    """Return the names of transformers for those in a GGUF file; other than llama.cpp's stay as they are.

    Args:
        where: the file, for messages.
        names: names of its tensors.
        architecture: its general.architecture.

    Raises:
        NoCheckpointError: they are llama.cpp's names for another network than the encoder of T5 v1.1.
    """
    if not any(name.startswith(LLAMA_CPP) for name in names):
        return {name: name for name in names}
    found = {name: _renamed(name) for name in names}
    strange = next((name for name, one in found.items() if one is None), None)
    if architecture not in ENCODER or strange is not None:
        example = f"such as {strange}" if strange is not None else f"such as {next(iter(names))}"
        raise NoCheckpointError(
            f"{where} has the architecture {architecture!r} of llama.cpp and its tensor names, {example}; of these only an encoder of T5 "
            "is read; give a .safetensors file of this part."
        )
    biases = sum(name.endswith("attn_rel_b.weight") for name in names)
    if biases > 1:
        raise NoCheckpointError(
            f"{where} has {biases} tables of relative positions, as UMT5 does, but Stable Diffusion 3 has the encoder of T5 v1.1; "
            "give that one."
        )
    return {name: one for name, one in found.items() if one is not None}


def _renamed(name: str) -> str | None:
    if name in OUTSIDE:
        return OUTSIDE[name]
    block = re.fullmatch(r"enc\.blk\.(\d{1,4})\.(\w+)\.weight", name)
    return f"encoder.block.{block[1]}.{IN_A_BLOCK[block[2]]}.weight" if block and block[2] in IN_A_BLOCK else None
