"""GGUF files of the transformer: what is read is what the package gguf widens, in our order of names."""

import shutil

import numpy
import pytest
import torch
from safetensors.torch import load_file

import pushforward as pf
from pushforward.errors import CheckpointError, NoCheckpointError, UserError

gguf = pytest.importorskip("gguf")
M = "model.diffusion_model."


def write(path, tensors, kind, arch="sd3"):
    """Write tensors as the converter for ComfyUI does: matrices in blocks, the rest in float32."""
    writer = gguf.GGUFWriter(path, arch)
    for name, one in tensors.items():
        coded = one.ndim == 2 and one.shape[1] % 32 == 0
        as_kind = kind if coded else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(one.contiguous().numpy(), as_kind), raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def stored(tiny):
    return {name.removeprefix(M): one for name, one in load_file(tiny("medium").bare).items() if name.startswith(M)}


@pytest.mark.parametrize(("kind", "error"), [("F32", 0), ("F16", 2.0**-11), ("BF16", 2.0**-8), ("Q8_0", 0.01), ("Q4_0", 0.15)])
def test_a_gguf_file_is_read(tiny, stored, tmp_path, kind, error):
    path = tmp_path / "x.gguf"
    write(path, stored, gguf.GGMLQuantizationType[kind])
    read = pf.formats.read_sd3(tiny("medium").folder, parts=("transformer",), transformer=path, dtype=torch.float32).transformer
    exact = pf.formats.read_sd3(tiny("medium").single, parts=("transformer",)).transformer
    for name, one in exact.state_dict().items():
        difference = (read.state_dict()[name] - one).norm() / one.norm()
        assert difference <= error, name
    key, name = "blocks.1.image.mlp.0.weight", "joint_blocks.1.x_block.mlp.fc1.weight"
    kinds = gguf.GGMLQuantizationType[kind]
    by_hand = gguf.quants.dequantize(gguf.quants.quantize(stored[name].numpy(), kinds), kinds)
    assert numpy.array_equal(read.state_dict()[key].numpy(), by_hand)


def test_blocks_of_bits_are_bfloat16_or_8_bits_by_default(tiny, stored, tmp_path):
    path = tmp_path / "x.gguf"
    write(path, stored, gguf.GGMLQuantizationType.Q8_0)
    model = pf.StableDiffusion3.from_pretrained(tiny("medium").folder, transformer=path, weights="int8")
    assert model.transformer.last.weight.dtype == torch.bfloat16
    assert model.transformer.blocks[0].image.mlp[0].weight.dtype == torch.bfloat16
    options = {"steps": 2, "size": 64, "generator": 1, "output": "latents", "tokens": 16}
    truth = pf.StableDiffusion3.from_pretrained(tiny("medium").folder).sample("a red cat", **options)
    assert float((model.sample("a red cat", **options) - truth).norm() / truth.norm()) < 0.1


def test_what_is_no_transformer_is_refused(tiny, stored, tmp_path):
    def read(path):
        pf.formats.read_sd3(tiny("medium").folder, parts=("transformer",), transformer=path)

    path = tmp_path / "x.gguf"
    with pytest.raises(NoCheckpointError, match="there is no file"):
        read(path)
    shutil.copy(tiny("medium").bare, path)
    with pytest.raises(NoCheckpointError, match=r"x.gguf is not a GGUF file"):
        read(path)
    write(path, stored, gguf.GGMLQuantizationType.Q8_0)
    data = path.read_bytes()
    for size in (20, 2000, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="cannot be read"):
            read(path)
    write(path, {"enc.blk.0.attn_q.weight": torch.zeros(2, 32)}, gguf.GGMLQuantizationType.Q8_0, "t5encoder")
    with pytest.raises(NoCheckpointError, match=r"tensor names of llama.cpp"):
        read(path)
    write(path, stored, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(NoCheckpointError, match="has no autoencoder"):
        pf.StableDiffusion3.from_pretrained(path)


def test_a_missing_package_is_one_sentence(tiny, stored, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="need the package gguf, which is not installed; run: pip install"):
        pf.formats.read_sd3(tiny("medium").folder, transformer=path)
