"""Weights written in 8 bits: the same bits when they are read, one scale for a tensor as ComfyUI reads it, none where diffusers reads."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.errors import CheckpointError, UserError
from pushforward.nn.eight_bits import kept, layer_linears

OPTIONS = {"steps": 1, "size": (64, 48), "generator": 1, "output": "latents", "guidance": 1.0, "tokens": 8}
ONE = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv"


def loaded(path, tokenizers, **options):
    return pf.StableDiffusion3.from_pretrained(path, tokenizers=tokenizers, **options)


def relative(value, truth):
    return float(((value - truth).norm() / truth.norm()).detach())


def same(a, b):
    """Whether two models have the same bits in all parts, those in 8 bits included."""
    for name, one in a.residence.modules.items():
        other = b.residence.modules[name].state_dict()
        assert one.state_dict().keys() == other.keys()
        if not all(torch.equal(value.view(torch.uint8), other[key].view(torch.uint8)) for key, value in one.state_dict().items()):
            return False
    return True


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_weights_kept_in_8_bits_are_saved_as_they_are(tiny, tmp_path, weights):
    folder = tiny("medium-3.5").folder
    model = loaded(folder, folder, weights=weights)
    path = model.save(tmp_path / "x.safetensors")
    read = loaded(path, folder, dtype=torch.float32, weights=weights)
    assert kept(read.transformer.blocks[0].image.attention.qkv)
    assert same(model, read)
    # A product of one row rounds by the address of its weights on some CPUs, and a file's are where the file has them.
    torch.testing.assert_close(read.sample("a red cat", **OPTIONS), model.sample("a red cat", **OPTIONS), rtol=1e-5, atol=1e-5)
    assert path.read_bytes() == read.save(tmp_path / "again.safetensors").read_bytes()
    assert load_file(path)[f"{ONE}.weight"].element_size() == 1


@pytest.mark.parametrize(("weights", "bound"), [("fp8", 2.0**-4), ("int8", 0.02)])
def test_a_full_model_is_written_in_8_bits(tiny, tmp_path, weights, bound):
    """fp8 has one scale for a tensor, which loses next to nothing: 2^-9 of the scale is the least number, 1 / 229,376 of the largest."""
    folder = tiny("medium-3.5").folder
    full = loaded(folder, folder)
    before = {key: one.clone() for key, one in full.transformer.state_dict().items()}
    path = full.save(tmp_path / "x.safetensors", weights=weights)
    assert all(torch.equal(one, before[key]) for key, one in full.transformer.state_dict().items()), "the model itself is unchanged"
    stored = load_file(path)
    kind = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}[weights]
    assert stored[f"{ONE}.weight"].dtype == kind
    rows = len(stored[f"{ONE}.weight"])
    assert stored[f"{ONE}.weight_scale"].shape == (() if weights == "fp8" else (rows, 1))
    name = {"fp8": "float8_e4m3fn", "int8": "int8_tensorwise"}[weights]
    assert json.loads(bytes(stored[f"{ONE}.comfy_quant"].tolist())) == {"format": name}
    layers = {key for key, one in stored.items() if one.dtype == kind}
    assert all(".joint_blocks." in key or ".encoder." in key for key in layers)
    assert any("t5xxl" in key for key in layers)
    assert not any("relative_attention_bias" in key or "embed" in key or "first_stage" in key for key in layers)
    wide, idle = loaded(path, folder, dtype=torch.float32), loaded(path, folder, dtype=torch.float32, weights=weights)
    for key, one in layer_linears(full.transformer).items():
        here = wide.transformer.get_submodule(key).weight
        assert torch.equal(here, idle.transformer.get_submodule(key).weight)
        assert relative(here, one.weight.detach()) < bound
    assert relative(idle.sample("a red cat", **OPTIONS), full.sample("a red cat", **OPTIONS)) < 3 * bound


def test_a_folder_in_8_bit_floats_is_what_diffusers_reads(tiny, tmp_path):
    import diffusers

    folder = tiny("medium-3.5").folder
    path = loaded(folder, folder).save(tmp_path / "folder", "diffusers", weights="fp8")
    theirs = diffusers.SD3Transformer2DModel.from_pretrained(path / "transformer", torch_dtype=torch.float32).state_dict()
    stored = load_file(path / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == theirs.keys(), "no scales"
    assert stored["transformer_blocks.0.attn.to_q.weight"].dtype == torch.float8_e4m3fn
    assert all(torch.equal(theirs[key], one.float()) for key, one in stored.items())
    options = {"dtype": torch.float32, "weights": "fp8"}
    ours = loaded(path, folder, **options)
    assert same(ours, loaded(ours.save(tmp_path / "again", "diffusers"), folder, **options))


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_text_encoder_in_8_bits_beside_float32_computes_in_bfloat16(tiny, tmp_path, kind):
    """Its norms stayed float32 while its matrices became bfloat16, so that the first layer failed."""
    folder = tiny("medium").folder
    path = loaded(folder, folder).save(tmp_path / "x.safetensors", weights=kind)
    for weights in ("full", kind):
        model = loaded(path, folder, weights=weights)
        assert {p.dtype for one in model.encoders.values() for p in one.parameters() if p.is_floating_point()} == {torch.bfloat16}
        assert model.sample("a red cat", **OPTIONS).isfinite().all()


def test_a_text_encoder_of_several_dtypes_computes_in_that_of_most(tiny, copied):
    path, folder = copied("single"), tiny("medium").folder
    held = load_file(path)
    for key in [key for key in held if key.startswith("text_encoders.") and "norm" not in key]:
        held[key] = held[key].bfloat16()
    save_file(held, path)
    model = loaded(path, folder)
    assert {p.dtype for one in model.encoders.values() for p in one.parameters() if p.is_floating_point()} == {torch.bfloat16}
    assert model.sample("a red cat", **OPTIONS).isfinite().all()


def test_a_weight_without_the_scale_that_its_format_states_is_refused(tiny, tmp_path):
    """Its values alone would be weights of another size."""
    folder = tiny("medium").folder
    path = loaded(folder, folder).save(tmp_path / "x.safetensors", weights="fp8")
    for layer in (ONE, "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"):
        held = load_file(path)
        del held[f"{layer}.weight_scale"]
        save_file(held, tmp_path / "y.safetensors")
        with pytest.raises(
            CheckpointError, match=r"y.safetensors lacks the scale of .*\.weight, which .*\.comfy_quant states; download it"
        ):
            loaded(tmp_path / "y.safetensors", folder)


@pytest.mark.parametrize("name", ["x.ckpt", "x.GGUF", "x.bin"])
def test_files_are_not_named_as_another_format(tiny, tmp_path, name):
    model = loaded(tiny("medium").folder, tiny("medium").folder)
    with pytest.raises(
        UserError, match=f"path is .*{name}, but the file is written as safetensors, and .* is another format; name it .saf"
    ):
        model.save(tmp_path / name)
    model.add_lora(rank=1)
    with pytest.raises(UserError, match="is another format; name it .safetensors"):
        model.save_lora(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder is a folder, but a file is written; give the name of a file, such as one in it"):
        model.save_lora(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_files_of_other_programs_are_written_as_they_were(tiny, copied, tmp_path):
    """8-bit floats with one scale for a tensor, or none."""
    path, folder = copied("single"), tiny("medium").folder
    held = load_file(path)
    for key in [key for key in held if ".joint_blocks." in key and key.endswith("weight") and held[key].ndim == 2]:
        held[key] = held[key].to(torch.float8_e4m3fn)
        if ".x_block." in key:
            held[f"{key.removesuffix('weight')}scale_weight"] = torch.tensor(0.5)
    save_file(held, path)
    stored = load_file(loaded(path, folder, weights="fp8").save(tmp_path / "x.safetensors"))
    for key in held:
        if held[key].element_size() == 1:
            assert torch.equal(stored[key].view(torch.uint8), held[key].view(torch.uint8)), key
            assert stored.get(key + "_scale", torch.tensor(1.0)) == (0.5 if ".x_block." in key else 1)


def test_what_8_bits_cannot_hold_is_refused(tiny, tmp_path):
    folder = tiny("medium").folder
    full, small = loaded(folder, folder), loaded(folder, folder, weights="int8")
    path = tmp_path / "x"
    with pytest.raises(UserError, match="'fp4' is not a known weights; did you mean 'fp8'"):
        full.save(path, weights="fp4")
    with pytest.raises(UserError, match="with scales are not written to a folder, as diffusers would use them without"):
        full.save(path, "diffusers", weights="int8")
    with pytest.raises(UserError, match="with scales are not written to a folder"):
        small.save(path, "diffusers")
    with pytest.raises(UserError, match="weights is 'fp8', but the model keeps its weights as int8, which would be rounded twice"):
        small.save(path, weights="fp8")
    with torch.no_grad():
        full.transformer.blocks[0].image.mlp[0].weight[0, 0] = 449
    with pytest.raises(UserError, match="has a number of size 449, but 8-bit floats without a scale end at 448; save a single file"):
        full.save(path, "diffusers", weights="fp8")
    full.save(path, weights="fp8")
    path.unlink()
    with torch.no_grad():
        full.transformer.blocks[0].image.mlp[0].weight[0, 0] = torch.inf
    with pytest.raises(UserError, match="mlp.fc1.weight has numbers that are not finite"):
        full.save(path, weights="int8")
    assert not path.exists()
