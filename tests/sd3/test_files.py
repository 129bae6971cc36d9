"""Stable Diffusion 3's files: what is read, what is written, what is refused, and how much memory it takes."""

import dataclasses
import subprocess
import sys

import pytest
import tiny_sd3
import torch
from packages import package
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.formats.sd3_find import folder_part

diffusers = package("diffusers")


def tensors(files):
    """Return all tensors of some files, by part and name."""
    found = {f"transformer.{key}": one for key, one in files.transformer.state_dict().items()}
    found |= {f"vae.{key}": one for key, one in files.vae.state_dict().items()}
    return found | {f"{kind}.{key}": one for kind, own in files.text_encoders.items() for key, one in own.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [key for key in one if one[key].dtype != other[key].dtype or not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("variant", ["medium", "medium-3.5", "odd"])
def test_the_single_file_of_the_tests_is_one_for_diffusers(tiny, variant):
    """The reference of all other tests: diffusers' own converter takes it back to the folder's bits."""
    from diffusers.loaders import single_file_utils as converters

    one = tiny(variant)
    bare, prefix = load_file(one.bare), "model.diffusion_model."
    assert_same(
        converters.convert_sd3_transformer_checkpoint_to_diffusers(
            {k.removeprefix(prefix): v for k, v in bare.items() if k.startswith(prefix)}
        ),
        load_file(one.folder / "transformer" / "diffusion_pytorch_model.safetensors"),
    )
    vae = diffusers.AutoencoderKL.from_pretrained(one.folder / "vae")
    found = converters.convert_ldm_vae_checkpoint(bare, vae.config)
    vae.load_state_dict({k: v.view(vae.state_dict()[k].shape) for k, v in found.items()})
    assert_same(vae.state_dict(), load_file(one.folder / "vae" / "diffusion_pytorch_model.safetensors"))


@pytest.mark.parametrize("variant", tiny_sd3.VARIANTS)
def test_both_layouts_are_the_same_model(tiny, variant):
    one = tiny(variant)
    folder, single = tensors(pf.formats.read_sd3(one.folder)), tensors(pf.formats.read_sd3(one.single))
    identity = folder.pop("clip_l.text_projection.weight")
    assert torch.equal(identity, torch.eye(tiny_sd3.CLIP_L))
    stray = {key for key in single if key.endswith("logit_scale")}
    assert_same(folder, {key: value for key, value in single.items() if key not in stray})


@pytest.mark.parametrize("layout", ["single", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_cast_to_16_bits_leave_the_position_table_as_it_is(tiny, tmp_path, dtype, layout):
    """In memory, in the file, read again with any dtype, and for diffusers, also where the table is most of the file."""
    files = pf.formats.read_sd3(tiny("medium-3.5").folder, parts=("transformer",))
    table, net = files.transformer.positions.clone(), files.transformer.to(dtype)
    assert not torch.equal(table, table.to(dtype).float())
    path = pf.formats.write_sd3(tmp_path / "written", dataclasses.replace(files, scheduler={}), layout)
    stored = net.state_dict()
    assert {one.dtype for name, one in stored.items() if name != "positions"} == {dtype}
    for given in (None, torch.float32, torch.bfloat16):
        read = pf.formats.read_sd3(path, dtype=given).transformer
        assert torch.equal(read.positions, table)
        assert {one.dtype for one in read.parameters()} == {given or dtype}
    assert_same(pf.formats.read_sd3(path).transformer.state_dict(), stored)
    if layout == "diffusers":
        peer = diffusers.SD3Transformer2DModel.from_pretrained(path / "transformer")
        assert torch.equal(peer.pos_embed.pos_embed[0], table)
    back = net.float()
    assert torch.equal(back.positions, table)
    half = pf.formats.read_sd3(tiny("medium-3.5").folder, parts=("transformer",)).transformer
    half.positions = half.positions.to(dtype)
    assert half.float().to(torch.bfloat16).positions.dtype == dtype  # one that was stored so gains nothing


@pytest.mark.parametrize("layouts", [("single", "single"), ("single", "folder"), ("folder", "single"), ("folder", "folder")])
@pytest.mark.parametrize("variant", ["medium-3.5", "odd"])
def test_what_is_written_is_read_with_the_same_bits(tiny, tmp_path, variant, layouts):
    one = tiny(variant)
    files = pf.formats.read_sd3(getattr(one, layouts[0]))
    configs = pf.formats.read_sd3(one.folder, parts=("text_encoders",)).text_configs
    files = dataclasses.replace(files, text_configs=configs)
    path = tmp_path / layouts[1]
    assert pf.formats.write_sd3(path, files, {"single": "single", "folder": "diffusers"}[layouts[1]]) == path
    again, before = tensors(pf.formats.read_sd3(path)), tensors(files)
    for one in (again, before):
        one.pop("clip_l.text_projection.weight", None)  # the identity, which only folders hold
    assert_same(again, before)


def test_diffusers_loads_the_folder_that_is_written(tiny, tmp_path):
    files = pf.formats.read_sd3(tiny("odd").folder)
    written = pf.formats.write_sd3(tmp_path / "written", files, "diffusers")
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(written)
    truth = diffusers.StableDiffusion3Pipeline.from_pretrained(tiny("odd").folder)
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        assert_same(getattr(pipeline, part).state_dict(), getattr(truth, part).state_dict())
    assert pipeline.tokenizer_3("a red cat").input_ids == truth.tokenizer_3("a red cat").input_ids
    assert {key: one for key, one in pipeline.transformer.config.items() if not key.startswith("_")} == {
        key: one for key, one in truth.transformer.config.items() if not key.startswith("_")
    }


def test_a_written_single_file_has_the_original_names(tiny, tmp_path):
    one = tiny("medium-3.5")
    written = pf.formats.write_sd3(tmp_path / "written.safetensors", pf.formats.read_sd3(one.folder))
    assert_same(load_file(written), load_file(one.single))


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("medium", "SD3 medium (2 blocks, 2 heads)"),
        ("medium-3.5", "SD3.5 medium (3 blocks, 2 heads)"),
        ("large-3.5", "SD3.5 large (3 blocks, 3 heads)"),
        ("odd", "SD3.5 medium (2 blocks, 3 heads)"),
    ],
)
def test_the_variant_is_said(tiny, variant, said):
    assert pf.formats.read_sd3(tiny(variant).bare).variant == said


def test_a_folder_gives_its_settings(tiny):
    files = pf.formats.read_sd3(tiny("medium").folder)
    assert files.scheduler["shift"] == 3.0
    assert files.text_configs["clip_g"]["hidden_size"] == tiny_sd3.CLIP_G
    assert {name: path.name for name, path in files.tokenizers.items()} == {
        "clip_l": "tokenizer",
        "clip_g": "tokenizer_2",
        "t5": "tokenizer_3",
    }


def test_only_the_parts_asked_for_are_read(tiny):
    files = pf.formats.read_sd3(tiny("medium").single, parts=("vae",))
    assert files.transformer is None
    assert files.text_encoders == {}
    assert files.vae is not None


def test_text_encoders_in_files_of_their_own_are_read(tiny):
    one = tiny("medium")
    inside = pf.formats.read_sd3(one.single, parts=("text_encoders",)).text_encoders
    paths = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl_fp16"}
    paths = {kind: one.encoders / f"{name}.safetensors" for kind, name in paths.items()}
    for given in (one.encoders, list(paths.values()), paths):
        outside = pf.formats.read_sd3(one.bare, parts=("text_encoders",), text_encoders=given).text_encoders
        assert outside.keys() == inside.keys()
        for kind in inside:
            assert_same(outside[kind], inside[kind])


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_are_read(tiny, copied, variant):
    folder = copied("folder")
    for part in ("transformer", "text_encoder_3"):
        tiny_sd3.shard(folder / part, 3, variant)
    for part in ("vae",):
        (folder / part / "diffusion_pytorch_model.safetensors").rename(folder / part / "diffusion_pytorch_model.fp16.safetensors")
    assert_same(tensors(pf.formats.read_sd3(folder)), tensors(pf.formats.read_sd3(tiny("medium").folder)))


def test_the_variant_asked_for_is_preferred(copied):
    vae = copied("folder") / "vae"
    half = {name: one.half() for name, one in load_file(vae / "diffusion_pytorch_model.safetensors").items()}
    save_file(half, vae / "diffusion_pytorch_model.fp16.safetensors")
    name = "encoder.conv_in.weight"
    assert folder_part(vae).entry(name).dtype == torch.float32
    assert folder_part(vae, "fp16").entry(name).dtype == torch.float16
    assert folder_part(vae, "bf16").entry(name).dtype == torch.float32


@pytest.mark.parametrize(
    ("stored", "asked", "wanted"),
    [
        (torch.float16, None, torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float8_e4m3fn, None, torch.bfloat16),
        (torch.float8_e5m2, torch.float32, torch.float32),
    ],
)
@pytest.mark.parametrize("layout", ["bare", "folder"])
def test_any_stored_dtype_is_read(copied, layout, stored, asked, wanted):
    path = copied(layout, "odd")
    file = path if path.is_file() else path / "transformer" / "diffusion_pytorch_model.safetensors"
    exact = pf.formats.read_sd3(path, parts=("transformer",)).transformer.state_dict()
    exact = {key: one.clone() for key, one in exact.items()}
    save_file({name: one.to(stored) for name, one in load_file(file).items()}, file)
    read = pf.formats.read_sd3(path, parts=("transformer",), dtype=asked).transformer
    positions = read.positions.dtype
    assert positions == (stored if stored.itemsize > 1 else wanted)
    assert {p.dtype for p in read.parameters()} == {wanted}
    assert_same(
        {key: one.to(wanted) for key, one in read.state_dict().items()}, {key: one.to(stored).to(wanted) for key, one in exact.items()}
    )


def test_a_prefix_may_be_missing_or_that_of_vae(tiny, tmp_path):
    renamed = {
        name.replace("model.diffusion_model.", "").replace("first_stage_model.", "vae."): one
        for name, one in load_file(tiny("medium").bare).items()
    }
    save_file(renamed, tmp_path / "renamed.safetensors")
    assert_same(tensors(pf.formats.read_sd3(tmp_path / "renamed.safetensors")), tensors(pf.formats.read_sd3(tiny("medium").bare)))


def test_one_part_alone_is_read_from_its_own_folder(tiny, copied):
    folder = copied("folder") / "transformer"
    truth = pf.formats.read_sd3(tiny("medium").single).transformer.state_dict()
    assert_same(pf.formats.read_sd3(folder).transformer.state_dict(), truth)
    tiny_sd3.shard(folder)
    assert_same(pf.formats.read_sd3(folder).transformer.state_dict(), truth)


def test_weights_as_stored_are_the_files_own_pages(tiny, copied):
    """Nothing is copied from a single file; and what is written to a weight does not reach the file."""
    path = copied("bare")
    before = path.read_bytes()
    net = pf.formats.read_sd3(path).transformer
    places = {p.untyped_storage().data_ptr() for p in net.state_dict().values()}
    starts = [p.data_ptr() for p in net.state_dict().values()]
    assert max(starts) - min(starts) < len(before)
    assert len(places) <= len(starts)
    with torch.no_grad():
        net.last.bias.fill_(7)
    assert path.read_bytes() == before
    assert net.last.bias.requires_grad


PEAK = """
import sys, resource, torch, pushforward as pf
from pathlib import Path
pf.formats.read_sd3(sys.argv[1], parts=("transformer",))  # imports, and what is allocated once
def rss(key):
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
before = rss("VmRSS")
net = pf.formats.read_sd3(sys.argv[2], dtype=getattr(torch, sys.argv[3])).transformer
weights = sum(p.numel() * p.element_size() for p in net.state_dict().values())
touched = sum(float(p.view(-1)[:: 1024 // p.element_size()].float().sum()) for p in net.state_dict().values())  # pages of the file count
print((rss("VmHWM") - before) / weights)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("layout", "dtype"), [("single", "float32"), ("diffusers", "float32"), ("single", "bfloat16")])
def test_loading_takes_at_most_a_tenth_more_memory_than_the_weights(tiny, tmp_path, layout, dtype):
    """200 MB of weights; with every page of them read, the peak is that of the weights and one tensor more."""
    net = pf.nn.MMDiT((16, 128, 128), depth=8, heads=8, context_width=512, pooled_width=256, positions=32)
    path = pf.formats.write_sd3(tmp_path / "big.safetensors", pf.formats.SD3Files(net), layout)
    command = [sys.executable, "-c", PEAK, str(tiny("medium").bare), str(path), dtype]
    ratio = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.9 < ratio < 1.1
