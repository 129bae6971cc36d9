"""GGUF files of the transformer and of T5: what is read is what the package gguf widens, in our order of names."""

import shutil

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

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
    with pytest.raises(NoCheckpointError, match=r"it looks like a T5 text encoder"):
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


# llama.cpp's names of the ten tensors of a block, written out apart from the table in src/.
BLOCK = {
    "attn_q": "layer.0.SelfAttention.q", "attn_k": "layer.0.SelfAttention.k", "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o", "attn_norm": "layer.0.layer_norm", "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1", "ffn_down": "layer.1.DenseReluDense.wo", "ffn_norm": "layer.1.layer_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def t5(tiny):
    """The tensors of T5 under llama.cpp's names, and the file that they are from."""
    file = tiny("medium").encoders / "t5xxl_fp16.safetensors"
    file = file if file.is_file() else next(one for one in tiny("medium").encoders.iterdir() if "t5" in one.name)
    held = load_file(file)
    named = {"token_embd.weight": held["shared.weight"], "enc.output_norm.weight": held["encoder.final_layer_norm.weight"]}
    named["enc.blk.0.attn_rel_b.weight"] = held["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    for k in range(2):
        named |= {f"enc.blk.{k}.{own}.weight": held[f"encoder.block.{k}.{theirs}.weight"] for own, theirs in BLOCK.items()}
    assert len(named) == len({key for key in held if key != "encoder.embed_tokens.weight"})
    return named, held


@pytest.mark.parametrize(("kind", "error"), [("F32", 0), ("F16", 2.0**-9), ("BF16", 2.0**-7), ("Q8_0", 0.03), ("Q5_1", 0.2), ("Q4_0", 0.5)])
def test_t5_as_gguf_is_t5(tiny, t5, tmp_path, kind, error):
    """The encodings are those of a safetensors file with the widened numbers bit for bit, and near those of the original."""
    named, held = t5
    folder, kinds = tiny("medium").folder, gguf.GGMLQuantizationType[kind]
    write(tmp_path / "t5-v1_1-xxl-encoder.gguf", named, kinds, "t5encoder")
    known = {held[name].data_ptr(): name for name in held}
    by_hand = {
        known[one.data_ptr()]: torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(one.numpy(), kinds), kinds).copy())
        for one in named.values()
        if one.ndim == 2 and one.shape[1] % 32 == 0
    }
    assert {"shared.weight", "encoder.block.1.layer.1.DenseReluDense.wi_1.weight"} <= by_hand.keys()
    save_file({**held, **by_hand}, tmp_path / "t5.safetensors")
    ours, same, exact = (
        pf.StableDiffusion3.from_pretrained(folder, text_encoders=file, dtype=torch.float32).encode_prompt(["a red cat", "the"], 16).context
        for file in (tmp_path / "t5-v1_1-xxl-encoder.gguf", tmp_path / "t5.safetensors", None)
    )
    assert torch.equal(ours, same)
    assert float((ours - exact)[:, -16:].norm() / exact[:, -16:].norm()) <= error


def test_t5_as_gguf_is_16_or_8_bits_by_default(tiny, t5, tmp_path):
    (tmp_path / "encoders").mkdir()
    path = tmp_path / "encoders" / "t5-v1_1-xxl-encoder-Q8_0.gguf"
    write(path, t5[0], gguf.GGMLQuantizationType.Q8_0, "t5encoder")
    options = {"steps": 1, "size": 64, "generator": 1, "output": "latents", "guidance": 1.0, "tokens": 8}
    for weights in ("full", "int8"):
        model = pf.StableDiffusion3.from_pretrained(tiny("medium").folder, text_encoders=path.parent, weights=weights)
        encoder = model.encoders["t5"]
        assert {one.weight.dtype for one in encoder.modules() if isinstance(one, torch.nn.Linear)} == {torch.bfloat16}
        assert encoder.shared.weight.dtype == torch.bfloat16
        assert model.sample("a red cat", **options).isfinite().all()
    write(path, t5[0], gguf.GGMLQuantizationType.F16, "t5encoder")
    half = pf.StableDiffusion3.from_pretrained(tiny("medium").folder, text_encoders=path.parent).encoders["t5"]
    assert half.shared.weight.dtype == half.encoder.final_layer_norm.weight.dtype == torch.float16


def other(name, rows=2, columns=32):
    return lambda held: held.update({name: torch.zeros(rows, columns)})


@pytest.mark.parametrize(
    ("change", "arch", "message"),
    [
        (lambda held: held.pop("enc.blk.1.ffn_gate.weight"), "t5encoder", "T5 is not complete: encoder.block.1.layer.1.DenseReluDense.wi_"),
        (other("dec.blk.0.attn_q.weight"), "t5", "architecture 't5' .*such as dec.blk.0.attn_q"),
        (other("enc.blk.1.attn_rel_b.weight", 32, 4), "t5encoder", "2 tables of relative positions, as UMT5 does"),
        (lambda held: None, "llama", "has the architecture 'llama' of llama.cpp"),
        (other("blk.0.attn_q.weight"), "qwen2", "architecture 'qwen2'.*blk.0.attn_q"),
    ],
)
def test_other_encoders_as_gguf_are_refused_by_name(tiny, t5, tmp_path, change, arch, message):
    held, path = dict(t5[0]), tmp_path / "t5.gguf"
    change(held)
    write(path, held, gguf.GGMLQuantizationType.F16, arch)
    with pytest.raises(CheckpointError, match=message):
        pf.StableDiffusion3.from_pretrained(tiny("medium").folder, text_encoders=path)


def test_a_second_file_of_an_encoder_is_refused_or_named(tiny, t5, tmp_path):
    """Otherwise which of several quantisations is read would depend on their names."""
    made = tiny("medium")
    for path in made.encoders.iterdir():
        shutil.copy(path, tmp_path)
    write(tmp_path / "t5-Q8_0.gguf", t5[0], gguf.GGMLQuantizationType.Q8_0, "t5encoder")
    with pytest.warns(UserWarning, match="holds t5xxl_fp16.safetensors, which is used, and t5-Q8_0.gguf, also of t5; give files to choose"):
        pf.formats.read_sd3(made.bare, text_encoders=tmp_path, parts=("text_encoders",))
    with pytest.raises(UserError, match="text_encoders has .*t5-Q8_0.gguf and .*t5xxl_fp16.safetensors, both of t5; give one of them"):
        pf.formats.read_sd3(made.bare, text_encoders=sorted(tmp_path.iterdir()), parts=("text_encoders",))
