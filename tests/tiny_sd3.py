"""Tiny random Stable Diffusion 3 checkpoints in both layouts: `python tests/tiny_sd3.py FOLDER [--variant medium]`.

Every weight is random, also those that start at zero, so that no mistake hides behind a zero. Made by diffusers and transformers, with
tokenizers built here; the single file is written by the table below, which shares no code with src/.
The text encoder CLIP-L has the identity as its projection, since a single file stores none: so all layouts hold the same model.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What tells the variants apart."""

    depth: int = 2
    heads: int = 2
    dual: tuple[int, ...] = ()
    qk_norm: bool = False
    positions: int = 24  # side of the position table; the public ones have 3 or 6 times the patches of a usual latent
    patches: int = 8
    vae_blocks: int = 1
    latent: tuple[int, int] = (16, 16)  # height and width of a latent to try
    stray: bool = False


VARIANTS = {
    "medium": Sizes(vae_blocks=2),
    "medium-3.5": Sizes(depth=3, dual=(0, 1), qk_norm=True, positions=48),
    "large-3.5": Sizes(depth=3, heads=3, qk_norm=True),
    "odd": Sizes(depth=2, heads=3, dual=(0,), qk_norm=True, positions=13, patches=4, latent=(8, 14), stray=True),
    "scattered": Sizes(depth=4, heads=1, dual=(1, 3), qk_norm=True),
}
CLIP_L, CLIP_G, T5, TEXT_TOKENS = 64, 48, 128, 77  # widths; 64 + 48 = 112 channels of CLIP are padded to the 128 of T5
KINDS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"}
SINGLE_ENCODERS = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"}


@dataclass(frozen=True)
class TinySD3:
    """Where one checkpoint lies: a diffusers folder, a single file with text encoders, one without, and the encoders' own files."""

    sizes: Sizes
    folder: Path
    single: Path
    bare: Path
    encoders: Path


def build(root: Path, variant: str = "medium", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> TinySD3:
    """Write a checkpoint under `root`, in all layouts."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    sizes = VARIANTS[variant]
    generator = torch.Generator().manual_seed(seed)
    tokenizers = _tokenizers()
    parts = _parts(diffusers, transformers, sizes, tokenizers)
    for part in parts.values():
        randomise(part, generator)
        part.eval() if dtype == torch.float32 else part.to(dtype).eval()
    nn.init.eye_(parts["text_encoder"].text_projection.weight)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = diffusers.StableDiffusion3Pipeline(**parts, **tokenizers, scheduler=scheduler)
    root.mkdir(parents=True, exist_ok=True)
    tiny = TinySD3(sizes, root / "folder", root / "single.safetensors", root / "bare.safetensors", root / "encoders")
    pipeline.save_pretrained(tiny.folder)
    _write_single(tiny, parts)
    return tiny


def randomise(part: nn.Module, generator: torch.Generator) -> None:
    """Fill all weights so that numbers stay of size one: matrices by their inputs, norms about one, biases small."""
    for name, tensor in (*part.named_parameters(), *part.named_buffers()):
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("pos_embed"):
            tensor.data = noise
        elif tensor.ndim < 2:
            tensor.data = 1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.2 * noise
        elif "embed" in name and "proj" not in name and "time_text" not in name and "context" not in name:
            tensor.data = 0.5 * noise
        else:
            tensor.data = noise / tensor[0].numel() ** 0.5


def _parts(diffusers, transformers, sizes: Sizes, tokenizers) -> dict[str, nn.Module]:
    clip = {
        "max_position_embeddings": TEXT_TOKENS,
        "num_attention_heads": 1,
        "vocab_size": len(tokenizers["tokenizer"]),
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,  # what public files say; it means the largest id
    }
    return {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=2 * sizes.patches,
            num_layers=sizes.depth,
            num_attention_heads=sizes.heads,
            attention_head_dim=64,
            joint_attention_dim=T5,
            caption_projection_dim=64 * sizes.heads,
            pooled_projection_dim=CLIP_L + CLIP_G,
            pos_embed_max_size=sizes.positions,
            qk_norm="rms_norm" if sizes.qk_norm else None,
            dual_attention_layers=sizes.dual,
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=sizes.vae_blocks,
            latent_channels=16,
            sample_size=16 * sizes.patches,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        "text_encoder": transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                hidden_size=CLIP_L, projection_dim=CLIP_L, intermediate_size=96, num_hidden_layers=3, hidden_act="quick_gelu", **clip
            )
        ),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                hidden_size=CLIP_G, projection_dim=CLIP_G, intermediate_size=80, num_hidden_layers=4, hidden_act="gelu", **clip
            )
        ),
        "text_encoder_3": transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=len(tokenizers["tokenizer_3"]),
                d_model=T5,
                d_kv=16,
                d_ff=96,
                num_heads=4,
                num_layers=2,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        ),
    }


def _tokenizers() -> dict[str, object]:
    """Return tokenizers like the public ones: bytes and a few merges for CLIP ("!" is 0, the end is the largest id), Unigram for T5."""
    import transformers

    byte = _byte_letters()
    merges = ["t h", "th e</w>", "c a", "ca t</w>", "o f</w>", "i n", "in g</w>", "r e", "re d</w>"]
    tokens = [*byte, *(letter + "</w>" for letter in byte), *(merge.replace(" ", "") for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: k for k, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    clip = [transformers.CLIPTokenizer(vocab, pairs, pad_token=pad, model_max_length=TEXT_TOKENS) for pad in ("<|endoftext|>", "!")]
    letters = [chr(code) for code in range(33, 127)]
    words = ["▁a", "▁the", "▁of", "▁in", "▁cat", "▁red", "▁photo", "ing", "re", "an", "er", "on"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(word, -4.0 - 0.1 * k) for k, word in enumerate(words)] + [(letter, -7.0 - 0.01 * k) for k, letter in enumerate(letters)]
    t5 = transformers.T5Tokenizer(pieces, extra_ids=0, model_max_length=512)
    return {"tokenizer": clip[0], "tokenizer_2": clip[1], "tokenizer_3": t5}


def _byte_letters() -> list[str]:
    """Return the 256 letters that GPT-2's vocabulary writes bytes as, in its order: those that print stand for themselves."""
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [chr(code) for code in (*printed, *range(256, 512 - len(printed)))]


def _write_single(tiny: TinySD3, parts: dict[str, nn.Module]) -> None:
    bare = {f"model.diffusion_model.{name}": one for name, one in single_transformer(parts["transformer"].state_dict()).items()}
    bare |= {f"first_stage_model.{name}": one for name, one in single_autoencoder(parts["vae"].state_dict()).items()}
    encoders = {}
    for kind, folder in KINDS.items():
        tensors = load_file(tiny.folder / folder / "model.safetensors")
        if kind == "clip_l":
            del tensors["text_projection.weight"]
        encoders[kind] = tensors
    if tiny.sizes.stray:
        bare["model_ema.decay"] = torch.tensor(0.5)
        for kind in ("clip_l", "clip_g"):
            encoders[kind]["logit_scale"] = torch.tensor(4.6)
    save_file(bare, tiny.bare)
    inside = {
        f"text_encoders.{SINGLE_ENCODERS[kind]}.transformer.{name}": tensor
        for kind, one in encoders.items()
        for name, tensor in one.items()
    }
    if tiny.sizes.stray:
        inside |= {f"text_encoders.{kind}.logit_scale": torch.tensor(4.6) for kind in ("clip_l", "clip_g", "t5xxl")}
    save_file({**bare, **inside}, tiny.single)
    tiny.encoders.mkdir(exist_ok=True)
    for kind, name in SINGLE_ENCODERS.items():
        save_file(encoders[kind], tiny.encoders / f"{name}{'_fp16' if kind == 't5' else ''}.safetensors")


def single_transformer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return diffusers' tensors of a transformer under the original names."""
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    plain = {
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
    }
    for k in range(depth):
        here, there = f"transformer_blocks.{k}", f"joint_blocks.{k}"
        for stream, norm, out, mlp, mod in (
            ("x_block", "attn.norm_{}", "attn.to_out.0", "ff.net", "norm1"),
            ("context_block", "attn.norm_added_{}", "attn.to_add_out", "ff_context.net", "norm1_context"),
        ):
            plain[f"{here}.{out}"] = f"{there}.{stream}.attn.proj"
            plain |= {f"{here}.{norm.format(one)}": f"{there}.{stream}.attn.ln_{one}" for one in "qk"}
            plain |= {f"{here}.{mlp}.0.proj": f"{there}.{stream}.mlp.fc1", f"{here}.{mlp}.2": f"{there}.{stream}.mlp.fc2"}
            if stream == "x_block" or k < depth - 1:
                plain[f"{here}.{mod}.linear"] = f"{there}.{stream}.adaLN_modulation.1"
        plain[f"{here}.attn2.to_out.0"] = f"{there}.x_block.attn2.proj"
        plain |= {f"{here}.attn2.norm_{one}": f"{there}.x_block.attn2.ln_{one}" for one in "qk"}
    found = {"pos_embed": tensors["pos_embed.pos_embed"]}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module in plain:
            found[f"{plain[module]}.{kind}"] = tensor
    for kind in ("weight", "bias"):
        for here, there in (
            ("norm_out.linear", "final_layer.adaLN_modulation.1"),
            (f"transformer_blocks.{depth - 1}.norm1_context.linear", f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1"),
        ):
            scale, shift = tensors[f"{here}.{kind}"].chunk(2)
            found[f"{there}.{kind}"] = torch.cat((shift, scale))
        for k in range(depth):
            for pattern, there in (
                ("attn.to_{}", "x_block.attn.qkv"),
                ("attn.add_{}_proj", "context_block.attn.qkv"),
                ("attn2.to_{}", "x_block.attn2.qkv"),
            ):
                names = [f"transformer_blocks.{k}.{pattern.format(one)}.{kind}" for one in "qkv"]
                if names[0] in tensors:
                    found[f"joint_blocks.{k}.{there}.{kind}"] = torch.cat([tensors[name] for name in names])
    return found


def single_autoencoder(tensors: dict[str, Tensor], levels: int = 4) -> dict[str, Tensor]:
    """Return diffusers' tensors of an autoencoder under the original names."""
    found = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[1] in ("down_blocks", "up_blocks"):
            down = parts[1] == "down_blocks"
            level = parts[2] if down else str(levels - 1 - int(parts[2]))
            inner = {"resnets": ["block", parts[4]], "downsamplers": ["downsample"], "upsamplers": ["upsample"]}[parts[3]]
            parts[1:5] = ["down" if down else "up", level, *inner]
        elif parts[1] == "mid_block":
            if parts[2] == "resnets":
                parts[1:4] = ["mid", f"block_{int(parts[3]) + 1}"]
            else:
                inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[parts[4]]
                kind, is_map = parts[-1], inner != "norm"
                parts = [parts[0], "mid", "attn_1", inner, kind]
                if is_map and kind == "weight":
                    tensor = tensor[:, :, None, None].contiguous()
        swapped = {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}
        found[".".join(swapped.get(one, one) for one in parts)] = tensor
    return found


def shard(folder: Path, pieces: int = 2, variant: str | None = None) -> None:
    """Cut the one .safetensors of a diffusers folder into shards with an index, as large models come; `variant` names them so."""
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    stem, mark = file.stem, f".{variant}" if variant else ""
    names, listed = sorted(tensors), {}
    for k in range(pieces):
        own = names[k::pieces]
        name = f"{stem}{mark}-{k + 1:05d}-of-{pieces:05d}.safetensors"
        save_file({one: tensors[one] for one in own}, folder / name)
        listed |= dict.fromkeys(own, name)
    (folder / f"{stem}.safetensors.index{mark}.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random Stable Diffusion 3 in both layouts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="medium")
    options = parser.parse_args()
    tiny = build(options.folder, options.variant)
    print(f"folder: {tiny.folder}\nsingle: {tiny.single}\nbare: {tiny.bare}\nencoders: {tiny.encoders}")


if __name__ == "__main__":
    main()
