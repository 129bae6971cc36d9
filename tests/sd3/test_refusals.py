"""What is no Stable Diffusion 3, or not a whole one, is refused by name."""

import json
import shutil

import pytest
import tiny_sd3
import torch
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.errors import CheckpointError, UserError


def spoil(file, change):
    held = load_file(file)
    change(held)
    save_file(held, file)


M = "model.diffusion_model."
BLOCK = f"{M}joint_blocks.1.x_block.attn.qkv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda held: held.pop(BLOCK),
            "lacks 1 tensors .it looks like SD3 medium .2 blocks, 2 heads.., first joint_blocks.1",
        ),
        (lambda held: held.pop(f"{M}context_embedder.weight"), "lacks the tensor context_embedder.weight"),
        (
            lambda held: held.update({BLOCK: torch.zeros(384, 127)}),
            r"qkv.weight is \(384, 127\), but must be \(384, 128\) .it looks",
        ),
        (lambda held: held.update({BLOCK: torch.zeros(384, 128, dtype=torch.int8)}), "qkv.weight is stored as torch.int8, but weights are"),
        (lambda held: held.update({f"{M}x_embedder.proj.weight": torch.zeros(128, 64)}), "which does not match any SD3"),
        (lambda held: held.update({f"{M}joint_blocks.1.x_block.attn2.qkv.weight": torch.zeros(1)}), "lacks 3 tensors"),
        (lambda held: held.pop("first_stage_model.decoder.up.3.block.1.conv1.bias"), "first decoder.up.3.block.1.conv1.bias"),
        (
            lambda held: held.update({"first_stage_model.quant_conv.bias": torch.zeros(1)}),
            "has a quant_conv, so it is",
        ),
    ],
)
def test_a_spoilt_file_is_refused_by_the_tensor(copied, change, message):
    path = copied("bare")
    spoil(path, change)
    with pytest.raises(CheckpointError, match=message):
        pf.formats.read_sd3(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.a"), "Stable Diffusion 1"),
        (("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.a"), "Stable Diffusion 2"),
        (("model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.a"), "Stable Diffusion XL"),
        (("double_blocks.0.img_attn.qkv.weight",), "FLUX"),
        (("model.diffusion_model.double_blocks.0.img_attn.qkv.weight",), "FLUX"),
        (("transformer_blocks.0.attn.add_q_proj.weight", "single_transformer_blocks.0.a"), "FLUX"),
        (("transformer_blocks.0.attn.to_q.lora_A.weight",), "a LoRA"),
        (("text_model.embeddings.token_embedding.weight",), "a CLIP text encoder"),
        (("something.else",), "it has 1 tensors, first something.else"),
        ((), "it holds no tensors"),
    ],
)
def test_another_models_file_is_refused_by_what_it_looks_like(tmp_path, names, said):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=f"is not a Stable Diffusion 3: .*{said}"):
        pf.formats.read_sd3(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer .*`git lfs pull`"),
        (b"<!doctype html><html>not found</html>", "is not a safetensors file"),
        (b"abc", "is truncated: it ends in its header, after 3 bytes; download it again"),
        (b"", "is truncated"),
        ((9).to_bytes(8, "little") + b"{ no json}", "its header cannot be read"),
        (
            (56).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}  ' + bytes(4),
            "its header cannot be read .*offset for tensor",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "a.safetensors").write_bytes(text)
    with pytest.raises(CheckpointError, match=said):
        pf.formats.read_sd3(tmp_path / "a.safetensors")


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.0001])
def test_a_truncated_download_is_refused(copied, keep):
    path = copied("bare")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * keep))
    with pytest.raises(CheckpointError, match="is truncated: .* download it again"):
        pf.formats.read_sd3(path)


def _without(part, *names):
    def spoil(folder):
        for name in names or ("diffusion_pytorch_model.safetensors",):
            (folder / part / name).unlink()

    return spoil


def _lacking_a_shard(folder):
    tiny_sd3.shard(folder / "transformer", 3)
    next((folder / "transformer").glob("*-00002-of-*")).unlink()


def _pickled(folder):
    _without("vae")(folder)
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")


def _older(folder):
    shutil.rmtree(folder / "transformer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))


FLUX = ("transformer_blocks.0.attn.add_q_proj.weight", "single_transformer_blocks.0.a")  # SD3's names among others


def _flux(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: torch.zeros(1) for name in FLUX}, file)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("transformer"), "transformer holds no .safetensors file"),
        (_lacking_a_shard, "lacks the shard diffusion_pytorch_model-00002-of-00003.safetensors, which .*index.json lists"),
        (_pickled, "diffusion_pytorch_model.bin is a pickle, which can run code and is never opened; convert it to .safetensors"),
        (_older, "is not a Stable Diffusion 3: it holds a StableDiffusionXLPipeline"),
        (_flux, "is not a Stable Diffusion 3: it holds a FluxPipeline"),
    ],
)
def test_a_spoilt_folder_is_refused(copied, change, message):
    folder = copied("folder")
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        pf.formats.read_sd3(folder)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_never_opened(tmp_path, suffix):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CheckpointError, match="is a pickle, which can run code and is never opened; convert it to .safetensors"):
        pf.formats.read_sd3(file)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda one: pf.formats.read_sd3("nowhere"), CheckpointError, "there is no file or folder nowhere; give a .safetensors file"),
        (
            lambda one: pf.formats.read_sd3(one.encoders),
            CheckpointError,
            "holds 3 .safetensors files; give one of them, such as clip_g",
        ),
        (lambda one: pf.formats.read_sd3(one.bare, parts=("unet",)), UserError, "parts has 'unet', but the parts are transformer, vae"),
        (
            lambda one: pf.formats.read_sd3(one.bare, dtype=torch.int8),
            UserError,
            "dtype is torch.int8, but weights must have a floating dtype",
        ),
        (lambda one: pf.formats.read_sd3(one.bare, text_encoders=one.bare), UserError, "has none of clip_l, clip_g and t5 in its name"),
        (
            lambda one: pf.formats.read_sd3(one.bare, text_encoders={"clip": one.bare}),
            UserError,
            "text_encoders has 'clip', but the names",
        ),
        (lambda one: pf.formats.read_sd3(one.bare, text_encoders=one.folder), CheckpointError, "holds no clip_l, clip_g or t5xxl"),
        (
            lambda one: pf.formats.read_sd3(one.bare, text_encoders={"t5": "no.safetensors"}),
            CheckpointError,
            "there is no file no.safe",
        ),
        (lambda one: pf.formats.write_sd3("x", pf.formats.SD3Files()), UserError, "files has no transformer, VAE or text encoders"),
        (
            lambda one: pf.formats.write_sd3("x", pf.formats.read_sd3(one.bare), "zip"),
            UserError,
            "layout is 'zip', but it must be 'single' or",
        ),
        (
            lambda one: pf.formats.write_sd3("x", pf.formats.read_sd3(one.single), "diffusers"),
            UserError,
            "text_configs lacks clip_l",
        ),
    ],
)
def test_what_cannot_be_is_refused(tiny, tmp_path, monkeypatch, call, kind, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        call(tiny("medium"))
    assert list(tmp_path.iterdir()) == []
