"""Weights in 8 bits: read exactly as their files mean them, kept in 8 bits, and widened where they are used."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.nn.eight_bits import kept, layer_linears, quantised, widened
from pushforward.sd3.text_encoders import text_encoder

PROMPT, M = "a red cat", "model.diffusion_model."
OPTIONS = {"steps": 2, "size": (64, 48), "generator": 1, "output": "latents", "guidance": 3.0, "tokens": 16}


def loaded(path, tokenizers=None, **options):
    return pf.StableDiffusion3.from_pretrained(path, tokenizers=tokenizers, **options)


def relative(value, truth):
    return float(((value - truth).norm() / truth.norm()).detach())


@pytest.fixture(scope="module")
def full(tiny):
    return loaded(tiny("medium-3.5").folder)


@pytest.fixture(scope="module", params=["fp8", "int8"])
def small(tiny, request):
    return request.param, loaded(tiny("medium-3.5").folder, weights=request.param)


def scaled(tensors, kind=torch.float8_e4m3fn, per_row=False, named="scale_weight"):
    """Return a file's tensors with matrices in 8 bits and scales, and the weights that they mean in float64."""
    held, meant = {"scaled_fp8": torch.empty(0, dtype=kind)}, {}
    for name, one in tensors.items():
        if name.endswith("weight") and one.ndim == 2 and "embed" not in name:
            largest = 127.0 if kind == torch.int8 else torch.finfo(kind).max
            scale = (one.abs().amax(1, keepdim=True) if per_row else one.abs().max()) / largest
            values = (one / scale).round().to(kind) if kind == torch.int8 else (one / scale).to(kind)
            held |= {
                name: values,
                f"{name.removesuffix('weight')}{named}": scale,
                f"{name.removesuffix('weight')}scale_input": torch.ones(()),
            }
            meant[name] = values.double() * scale.double()
        else:
            held[name] = meant[name] = one
    return {name: one.contiguous() for name, one in held.items()}, meant


KINDS = [
    (torch.float8_e4m3fn, False, "scale_weight"),
    (torch.float8_e5m2, True, "weight_scale"),
    (torch.int8, True, "weight_scale"),
]


@pytest.mark.parametrize(("kind", "per_row", "named"), KINDS)
@pytest.mark.parametrize("layout", ["bare", "folder"])
def test_scaled_weights_are_their_product(tiny, copied, tmp_path, kind, per_row, named, layout):
    """The last block's text modulation is swapped in the folder, so its scales must be too; queries, keys and values are three tensors."""
    path = copied(layout)
    file = path if layout == "bare" else path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = {name: one for name, one in load_file(file).items() if layout == "folder" or name.startswith(M)}
    held, meant = scaled(tensors, kind, per_row, named)
    if layout == "bare":
        held |= {name: one for name, one in load_file(file).items() if not name.startswith(M)}
    save_file(held, file)
    save_file({name: one.float().contiguous() for name, one in meant.items()}, tmp_path / "wide.safetensors")
    read = pf.formats.read_sd3(path, parts=("transformer",), dtype=torch.float32).transformer
    wide = pf.formats.read_sd3(tmp_path / "wide.safetensors", parts=("transformer",)).transformer
    for name, one in wide.state_dict().items():
        assert torch.equal(read.state_dict()[name], one), name
    # Kept in 8 bits they are the stored bits: the same numbers.
    same = "int8" if kind == torch.int8 else "fp8"
    idle = pf.formats.read_sd3(path, parts=("transformer",), dtype=torch.float32, weights=same).transformer
    for name, one in layer_linears(idle).items():
        assert torch.equal(one.weight, wide.get_submodule(name).weight), name
    other = pf.formats.read_sd3(path, parts=("transformer",), dtype=torch.float32, weights="fp8" if same == "int8" else "int8").transformer
    assert all(relative(one.weight, wide.get_submodule(name).weight) < 0.03 for name, one in layer_linears(other).items())


def test_scales_of_text_encoders_are_applied(tiny):
    """They were dropped, so that every weight was 50 times too large."""
    tensors = load_file(next(one for one in tiny("medium").encoders.iterdir() if "t5" in one.name))
    held, meant = scaled(tensors)
    for weights in ("full", "fp8"):
        model = text_encoder("t5", held, dtype=torch.float32, weights=weights)
        for name, one in layer_linears(model).items():
            torch.testing.assert_close(one.weight.double(), meant[f"{name}.weight"], rtol=1e-7, atol=0)
            assert kept(one) == (weights == "fp8")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda held, name: held.update({f"{name}scale_weight": torch.ones(3, 3)}), NoCheckpointError, r"scale_weight is \(3, 3\), but"),
        (lambda held, name: held.update({f"{name}scale_weight": torch.tensor(torch.nan)}), CheckpointError, "not finite"),
        (
            lambda held, name: held.update({f"{name}scale_weight": torch.tensor(0.0)}),
            CheckpointError,
            "weight has 0, but scales of a",
        ),
        (lambda held, name: held.update({f"{name}scale_weight": -torch.ones(384)}), CheckpointError, "has -1, but .* are positive; down"),
        (
            lambda held, name: held.update({f"{name}comfy_quant": text({"format": "float8_e5m2"})}),
            CheckpointError,
            r"qkv.weight is stored as torch.float8_e4m3fn, but .*qkv.comfy_quant states float8_e5m2; download",
        ),
        (
            lambda held, name: held.update(
                {f"{name}weight": held[f"{name}weight"].bfloat16(), f"{name}comfy_quant": text({"format": "int8_tensorwise"})}
            ),
            CheckpointError,
            "stored as torch.bfloat16, but .* states int8_tensorwise",
        ),
        (lambda held, name: held.update({f"{name}weight_scale_2": torch.ones(1)}), NoCheckpointError, "holds .*weight_scale_2, of a quant"),
        (
            lambda held, name: held.update({f"{name}comfy_quant": text({"format": "nvfp4"})}),
            NoCheckpointError,
            "nvfp4.*a quantisation that",
        ),
        (lambda held, name: held.update({f"{name}comfy_quant": text({"format": "float8_e4m3fn"})}), None, ""),
        (lambda held, name: held.pop(f"{name}scale_weight"), None, ""),
    ],
)
def test_other_quantisations_are_refused_by_name(copied, change, error, message):
    path, name = copied("bare"), f"{M}joint_blocks.1.x_block.attn.qkv."
    held = load_file(path)
    held[f"{name}weight"] = held[f"{name}weight"].to(torch.float8_e4m3fn)
    held[f"{name}scale_weight"] = torch.tensor(2.0)
    change(held, name)
    save_file(held, path)
    if error is None:
        pf.formats.read_sd3(path)
    else:
        with pytest.raises(error, match=message):
            pf.formats.read_sd3(path)


def text(settings):
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(("weights", "bound"), [("fp8", 2.0**-4), ("int8", 0.5 / 127)])
def test_rounding_is_that_of_8_bits(weights, bound):
    """3 bits of fraction: 1/16 of a number. int8: half a step of the row's largest. A row of zeros stays one."""
    weight = torch.randn(5, 40)
    weight[2] = 0
    values, scale = quantised(weight, weights)
    unit = weight.abs() if weights == "fp8" else weight.abs().amax(1, keepdim=True).expand_as(weight)
    error = (widened(values, scale, torch.float32) - weight).abs()
    assert bool((error <= bound * unit * (1 + 1e-6) + (2.0**-10 * scale if weights == "fp8" else 0)).all())
    assert torch.equal(widened(values, scale, torch.bfloat16)[2], torch.zeros(40, dtype=torch.bfloat16))


def test_images_are_near_and_weights_a_quarter(full, small):
    weights, model = small
    assert 0.001 < relative(model.sample(PROMPT, **OPTIONS), full.sample(PROMPT, **OPTIONS)) < {"fp8": 0.15, "int8": 0.03}[weights]
    for name in ("transformer", "t5", "clip_l"):
        module, wide = model.residence.modules[name], full.residence.modules[name]
        eighth = sum(p.numel() for p in (one.weight for one in layer_linears(wide).values()))
        rest = sum(p.numel() for p in wide.parameters()) - eighth
        rows = sum(one.out_features for one in layer_linears(wide).values())
        assert sum(p.numel() * p.element_size() for p in module.parameters()) == eighth + 4 * (rest + rows)


def test_hooks_and_loras_apply(full, small, tmp_path):
    model = small[1]
    before = model.sample(PROMPT, **OPTIONS)
    plain = loaded_lora(full, tmp_path)
    model.load_lora(plain, name="x")
    layer = model.transformer.blocks[0].image.attention.qkv
    with_lora = layer.weight.clone()
    changed = model.sample(PROMPT, **OPTIONS)
    assert relative(changed, before) > 1e-3
    with pytest.raises(UserError, match="kept in 8 bits, which merging would round"):
        model.merge_lora()
    assert torch.equal(model.sample(PROMPT, **OPTIONS), changed)
    model.unload_lora("x")
    assert not torch.equal(layer.weight, with_lora)
    assert kept(layer)
    assert torch.equal(model.sample(PROMPT, **OPTIONS), before)
    handle = model.transformer.blocks[0].image.mlp[0].register_forward_hook(lambda module, args, y: 2 * y)
    assert relative(model.sample(PROMPT, **OPTIONS), before) > 1e-3
    handle.remove()


def loaded_lora(model, folder):
    """Return the file of a LoRA of some Linears of the transformer."""
    parameters = model.add_lora(rank=2, seed=1)
    with torch.no_grad():
        for p in parameters:
            p.normal_(std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    path = model.save_lora(folder / "x.safetensors")
    model.unload_lora()
    return path


def test_a_lora_is_trained_on_top(small):
    model = small[1]
    parameters = model.add_lora(rank=2)
    cond = model.encode_prompt(PROMPT, 16)
    model.model_for((64, 48)).loss(torch.randn(1, 16, 8, 6), cond).backward()
    assert all(p.grad is not None for p in parameters)
    assert [p for p in model.transformer.parameters() if p.requires_grad] == parameters
    model.unload_lora()


def test_a_cast_of_the_network_does_not_widen_it(tiny):
    net = pf.formats.read_sd3(tiny("odd").single, parts=("transformer",), weights="int8").transformer
    layer = net.blocks[0].image.mlp[0]
    before = layer.weight
    net.bfloat16()
    assert {p.dtype for p in layer.parametrizations.weight.parameters()} == {torch.uint8}
    assert torch.equal(layer.weight, before.bfloat16())
    assert net(torch.randn(1, 16, 8, 14), torch.rand(1)).isfinite().all()


def test_unknown_forms_are_refused_before_reading(tiny):
    with pytest.raises(UserError, match="'int4' is not a known weights; did you mean 'int8'"):
        loaded(tiny("medium").folder, weights="int4")
