"""LoRA files in the six layouts found in the wild: each is W + (alpha / r) B A, computed here by hand on the tensors of the same layout."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.errors import CheckpointError, NoCheckpointError, PushforwardError, UserError
from pushforward.nn.lora import changed
from pushforward.nn.mmdit import MMDiT

RANK = 3
DIFFUSERS = [  # of two blocks, of which the last has no output of the text
    *(f"attn.to_{one}" for one in "qkv"),
    *(f"attn.add_{one}_proj" for one in "qkv"),
    "attn.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "norm1.linear",
    "norm1_context.linear",
]
FIRST = ["attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2"]
SECOND = ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]  # a second attention, of the last block alone
AROUND = ["norm_out.linear", "proj_out", "context_embedder", "time_text_embed.timestep_embedder.linear_1", "pos_embed.proj"]
SINGLE = [f"x_block.{one}" for one in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")]
SINGLE += ["context_block.attn.qkv", "context_block.adaLN_modulation.1"]
SINGLE_FIRST = ["context_block.attn.proj", "context_block.mlp.fc1", "context_block.mlp.fc2"]
SINGLE_SECOND = ["x_block.attn2.qkv", "x_block.attn2.proj"]
SINGLE_AROUND = ["final_layer.adaLN_modulation.1", "final_layer.linear", "x_embedder.proj", "y_embedder.mlp.2"]
MODULES = {
    "diffusers": [f"transformer_blocks.{k}.{one}" for k in range(2) for one in (*DIFFUSERS, *(FIRST, SECOND)[k])] + AROUND,
    "single": [f"joint_blocks.{k}.{one}" for k in range(2) for one in (*SINGLE, *(SINGLE_FIRST, SINGLE_SECOND)[k])] + SINGLE_AROUND,
}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = MMDiT((4, 8, 8), depth=2, heads=2, context_width=12, pooled_width=10, positions=6, null_tokens=2, dual=(1,))
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return made.eval()


@pytest.fixture(scope="module")
def stored(net, tmp_path_factory):
    """Return the tensors of both layouts, without prefix."""
    folder = tmp_path_factory.mktemp("stored")
    files = pf.formats.SD3Files(net)
    single = load_file(pf.formats.write_sd3(folder / "single.safetensors", files))
    pf.formats.write_sd3(folder / "diffusers", files, "diffusers")
    return {
        "single": {name.removeprefix("model.diffusion_model."): one for name, one in single.items()},
        "diffusers": load_file(folder / "diffusers" / "transformer" / "diffusion_pytorch_model.safetensors"),
    }


def factors(weight, rank=RANK, seed=0):
    """Return A and B of a weight; those of a convolution as kohya stores them."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
    up = torch.randn(len(weight), rank, *(1 for _ in weight.shape[2:]), generator=generator)
    return down, up


def product(down, up):
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def expected(tmp_path, tensors, naming, deltas):
    """Return the network of which some stored tensors are changed."""
    prefix = "model.diffusion_model." if naming == "single" else ""
    whole = {f"{prefix}{name}": one.clone() for name, one in tensors.items()}
    for name, delta in deltas.items():
        whole[f"{prefix}{name}.weight"] += delta
    save_file(whole, tmp_path / "expected.safetensors")
    return pf.formats.read_sd3(tmp_path / "expected.safetensors").transformer


def check(net, path, wanted, **options):
    """Compare the weights that a file makes of a network with those of another."""
    lora = pf.formats.read_lora(path, {"transformer": net}, **options)
    state = {name: one.clone() for name, one in net.state_dict().items()}
    by_module = {}
    for one in lora.parts["transformer"]:
        by_module.setdefault(one.module, []).append((one, 1.0))
    for module, changes in by_module.items():
        before = state[f"{module}.weight"]
        state[f"{module}.weight"] = changed(before, changes)
        assert not torch.equal(state[f"{module}.weight"], before), module
    for name, one in wanted.state_dict().items():
        torch.testing.assert_close(state[name], one, rtol=0, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    return lora


# prefix, naming, names of A and B, whether dots are underscores, whether it has .alpha
LAYOUTS = {
    "diffusers": ("transformer.", "diffusers", "lora_A", "lora_B", False),
    "adapter of a transformer": ("", "diffusers", "lora_A", "lora_B", False),
    "raw peft": ("base_model.model.", "diffusers", "lora_A", "lora_B", False),
    "kohya": ("lora_unet_", "single", "lora_down", "lora_up", True),
    "onetrainer": ("lora_transformer_", "diffusers", "lora_down", "lora_up", True),
    "lycoris": ("lycoris_", "diffusers", "lora_down", "lora_up", True),
    "comfyui": ("diffusion_model.", "single", "lora_down", "lora_up", False),
}


def written(path, tensors, layout, alpha=None, *, rank=RANK, metadata=None):
    """Write a LoRA of all modules in a layout, and return the changes by hand."""
    prefix, naming, a, b, _ = LAYOUTS[layout]
    file, deltas = {}, {}
    for k, name in enumerate(MODULES[naming]):
        down, up = factors(tensors[naming][f"{name}.weight"], rank, k)
        base = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
        file |= {f"{base}.{a}.weight": down, f"{base}.{b}.weight": up}
        if alpha is not None:
            file[f"{base}.alpha"] = torch.tensor(float(alpha))
        deltas[name] = product(down, up)
    save_file(file, path, metadata)
    return deltas


def scaled(deltas, scale):
    return {name: scale * one for name, one in deltas.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_w_plus_alpha_over_r_b_a(net, stored, tmp_path, layout):
    *_, naming, _, _, alpha = LAYOUTS[layout]
    deltas = written(tmp_path / "lora.safetensors", stored, layout, 1.5 if alpha else None)
    lora = check(net, tmp_path / "lora.safetensors", expected(tmp_path, stored[naming], naming, scaled(deltas, 0.5 if alpha else 1.0)))
    assert len(lora) == len(deltas)


def test_header_of_diffusers_states_alpha(net, stored, tmp_path):
    """alpha = 2 r with the header is twice the same file without; patterns name modules; rank-stabilised ones divide by sqrt(r)."""
    settings = {
        "transformer.r": RANK,
        "transformer.lora_alpha": 2 * RANK,
        "transformer.alpha_pattern": {"attn.to_q": RANK, "^proj_out": 3 * RANK},
    }
    deltas = written(tmp_path / "a.safetensors", stored, "diffusers", metadata={"lora_adapter_metadata": json.dumps(settings)})
    by_hand = {name: one * (1 if name.endswith("attn.to_q") else 3 if name == "proj_out" else 2) for name, one in deltas.items()}
    check(net, tmp_path / "a.safetensors", expected(tmp_path, stored["diffusers"], "diffusers", by_hand))
    written(tmp_path / "b.safetensors", stored, "diffusers")
    check(net, tmp_path / "b.safetensors", expected(tmp_path, stored["diffusers"], "diffusers", deltas))
    settings = {"transformer.lora_alpha": 6, "transformer.use_rslora": True}
    written(tmp_path / "c.safetensors", stored, "diffusers", metadata={"lora_adapter_metadata": json.dumps(settings)})
    check(net, tmp_path / "c.safetensors", expected(tmp_path, stored["diffusers"], "diffusers", scaled(deltas, 6 / RANK**0.5)))


def test_raw_peft_states_alpha_in_the_config_next_to_it(net, stored, tmp_path):
    deltas = written(tmp_path / "adapter_model.safetensors", stored, "raw peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 12}))
    wanted = expected(tmp_path, stored["diffusers"], "diffusers", scaled(deltas, 4.0))
    (tmp_path / "expected.safetensors").unlink()
    check(net, tmp_path, wanted)


def test_zero_alpha_of_kohya_is_the_rank(net, stored, tmp_path):
    deltas = written(tmp_path / "lora.safetensors", stored, "kohya", 0)
    check(net, tmp_path / "lora.safetensors", expected(tmp_path, stored["single"], "single", deltas))


@pytest.mark.parametrize("alpha", [torch.tensor(6), torch.tensor([6], dtype=torch.int32), torch.tensor([[6.0]]).bfloat16()])
def test_alpha_of_any_number_dtype(net, stored, tmp_path, alpha):
    """kohya saves an integer where alpha was left to be the rank and the file's dtype the network's."""
    path = tmp_path / "lora.safetensors"
    deltas = written(path, stored, "kohya", 6)
    save_file({name: alpha.clone() if name.endswith(".alpha") else one for name, one in load_file(path).items()}, path)
    check(net, path, expected(tmp_path, stored["single"], "single", scaled(deltas, 6 / RANK)))


def test_split_qkv_of_kohya_keeps_the_alpha_of_the_small_rank(net, stored, tmp_path):
    """down is three A on top of each other, up is block diagonal, and alpha is divided by 3 r."""
    name = "joint_blocks.1.x_block.attn.qkv"
    weight = stored["single"][f"{name}.weight"]
    three = [factors(one, seed=k) for k, one in enumerate(weight.chunk(3))]
    base = f"lora_unet_{name.replace('.', '_')}"
    file = {
        f"{base}.lora_down.weight": torch.cat([down for down, _ in three]),
        f"{base}.lora_up.weight": torch.block_diag(*(up for _, up in three)),
    }
    save_file({**file, f"{base}.alpha": torch.tensor(6.0)}, tmp_path / "lora.safetensors")
    delta = torch.cat([product(*one) for one in three]) * 6 / (3 * RANK)
    check(net, tmp_path / "lora.safetensors", expected(tmp_path, stored["single"], "single", {name: delta}))


def dora(weight, delta, magnitude, axis):
    summed = weight + delta
    return magnitude * summed / summed.norm(dim=axis, keepdim=True) - weight


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["joint_blocks.0.x_block.attn.qkv", "final_layer.adaLN_modulation.1"])
def test_dora_scale_of_rows_or_columns(net, stored, tmp_path, name, axis):
    weight = stored["single"][f"{name}.weight"]
    down, up = factors(weight)
    base = f"lora_unet_{name.replace('.', '_')}"
    magnitude = torch.rand(len(weight), 1) + 0.5 if axis == 1 else torch.rand(1, weight.shape[1]) + 0.5
    file = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.dora_scale": magnitude}
    save_file({**file, f"{base}.alpha": torch.tensor(6.0)}, tmp_path / "lora.safetensors")
    delta = dora(weight, product(down, up) * 6 / RANK, magnitude, axis)
    check(net, tmp_path / "lora.safetensors", expected(tmp_path, stored["single"], "single", {name: delta}))


def test_magnitude_vector_of_peft_in_a_swapped_module(net, stored, tmp_path):
    """Rows of the last block's context modulation are in the other order in diffusers, so are their magnitudes."""
    deltas, file = {}, {}
    for name in ("transformer_blocks.1.norm1_context.linear", "transformer_blocks.0.attn.to_k"):
        weight = stored["diffusers"][f"{name}.weight"]
        down, up = factors(weight)
        magnitude = torch.rand(len(weight)) + 0.5
        file |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
        file[f"transformer.{name}.lora_magnitude_vector"] = magnitude
        deltas[name] = dora(weight, product(down, up), magnitude[:, None], 1)
    save_file(file, tmp_path / "lora.safetensors")
    wanted = expected(tmp_path, stored["diffusers"], "diffusers", deltas)
    lora = check(net, tmp_path / "lora.safetensors", wanted)
    pf.formats.write_lora(tmp_path / "again.safetensors", lora, {"transformer": net})
    check(net, tmp_path / "again.safetensors", wanted)
    with pytest.raises(UserError, match="image.attention.qkv changes .* not all of them, which one module of kohya cannot express"):
        pf.formats.write_lora(tmp_path / "kohya.safetensors", lora, {"transformer": net}, "kohya")
    assert not (tmp_path / "kohya.safetensors").exists()


@pytest.mark.parametrize("target", ["diffusers", "kohya"])
@pytest.mark.parametrize("source", ["diffusers", "kohya"])
def test_round_trips_between_layouts(net, stored, tmp_path, source, target):
    """A converted file changes the weights the same way; alpha is the rank in it, and diffusers' has no alpha tensor."""
    naming = LAYOUTS[source][1]
    deltas = written(tmp_path / "lora.safetensors", stored, source, 6 if source == "kohya" else None)
    wanted = expected(tmp_path, stored[naming], naming, scaled(deltas, 2.0 if source == "kohya" else 1.0))
    lora = check(net, tmp_path / "lora.safetensors", wanted)
    path = pf.formats.write_lora(tmp_path / "again.safetensors", lora, {"transformer": net}, target)
    again = check(net, path, wanted)
    assert all(one.scale == 1 for one in again.parts["transformer"])
    names = load_file(path)
    assert any(name.endswith(".alpha") for name in names) == (target == "kohya")
    if source == target == "diffusers":
        assert names.keys() == load_file(tmp_path / "lora.safetensors").keys()
    if target == "kohya":  # three with different A are stacked, one that was split shares A
        rank = len(names["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"])
        assert rank == (3 * RANK if source == "diffusers" else RANK)


@pytest.mark.parametrize("target", ["diffusers", "kohya"])
@pytest.mark.parametrize(("dtype", "alpha", "wide"), [("float16", 1, True), ("bfloat16", 1, False), ("bfloat16", 3, True)])
def test_folding_alpha_rounds_nothing(net, stored, tmp_path, target, dtype, alpha, wide):
    """B of a usual size times 1 / 64 is below what float16 holds with its full digits."""
    name = "joint_blocks.0.x_block.attn.qkv"
    down, up = (one.to(getattr(torch, dtype)) for one in factors(stored["single"][f"{name}.weight"], 64))
    up = (up.float() * 1e-4).to(up.dtype)
    base = f"lora_unet_{name.replace('.', '_')}"
    file = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(float(alpha))}
    save_file(file, tmp_path / "lora.safetensors")
    lora = pf.formats.read_lora(tmp_path / "lora.safetensors", {"transformer": net})
    path = pf.formats.write_lora(tmp_path / "again.safetensors", lora, {"transformer": net}, target)
    again = sorted(pf.formats.read_lora(path, {"transformer": net}).parts["transformer"], key=lambda one: one.start)
    torch.testing.assert_close(torch.cat([one.up.double() for one in again]), up.double() * alpha / 64, rtol=0, atol=0)
    assert all(torch.equal(one.down, down) and one.scale == 1 for one in again)
    assert {one.up.dtype for one in again} == {torch.float32 if wide else up.dtype}


def bad(path, tensors, layout="diffusers", **changes):
    written(path, tensors, layout)
    file = load_file(path)
    for name, tensor in changes.items():
        if tensor is None:
            del file[name]
        else:
            file[name] = tensor
    save_file(file, path)


TO_Q = "transformer.transformer_blocks.0.attn.to_q"
BAD = {
    "another model": ({f"{TO_Q}.lora_A.weight": torch.zeros(RANK, 64)}, NoCheckpointError, "LoRA for another model.*to_q"),
    "a strange module": (
        {f"transformer.blocks.7.strange.lora_{one}.weight": torch.zeros(4, 4) for one in "AB"},
        NoCheckpointError,
        "1 of its .* modules are not in this one, such as transformer.blocks.7.strange",
    ),
    "a text encoder": (
        {f"text_encoder.text_model.x.lora_{one}.weight": torch.zeros(4, 4) for one in "AB"},
        NoCheckpointError,
        "also changes CLIP-L.*text_encoders=False",
    ),
    "LoHa": ({"lora_unet_x.hada_w1_a": torch.zeros(2)}, NoCheckpointError, "a LoHa.*only LoRA and DoRA"),
    "LoKr": ({"lycoris_x.lokr_w1": torch.zeros(2)}, NoCheckpointError, "a LoKr"),
    "a difference": ({"diffusion_model.x.diff": torch.zeros(2)}, NoCheckpointError, "the difference of a whole weight"),
    "a bias": ({f"{TO_Q}.lora_B.bias": torch.zeros(2)}, NoCheckpointError, "a bias of a LoRA"),
    "a bias of a named adapter": ({f"{TO_Q}.lora_B.style.bias": torch.zeros(2)}, NoCheckpointError, "lora_B.style.bias, a bias of a LoRA"),
    "an embedding": ({f"{TO_Q}.lora_embedding_A.style": torch.zeros(2)}, NoCheckpointError, "embedding_A.style, a LoRA of an embedding"),
    "a module twice, with and without the adapter's name": (
        {f"{TO_Q}.lora_A.style.weight": torch.zeros(RANK, 128)},
        CheckpointError,
        "holds both .*lora_A.style.weight and .*lora_A.weight; keep one",
    ),
    "a norm": ({"lora_unet_x.w_norm": torch.zeros(2)}, NoCheckpointError, "the difference of a norm"),
    "something else": ({"emb_params": torch.zeros(2)}, NoCheckpointError, "emb_params, which is no tensor of a LoRA"),
    "no B": ({f"{TO_Q}.lora_B.weight": None}, CheckpointError, "without its lora_up"),
    "another rank": ({f"{TO_Q}.lora_A.weight": torch.zeros(5, 128)}, CheckpointError, "ranks differ"),
    "three axes": ({f"{TO_Q}.lora_A.weight": torch.zeros(RANK, 128, 1)}, CheckpointError, "two axes"),
    "integers": ({f"{TO_Q}.lora_A.weight": torch.zeros(RANK, 128).int()}, CheckpointError, "holds floats"),
    "alpha that is not finite": ({f"{TO_Q}.alpha": torch.tensor(float("nan"))}, CheckpointError, "one finite number"),
    "alpha that is no number": ({f"{TO_Q}.alpha": torch.tensor(True)}, CheckpointError, "one finite number"),
    "alpha of two": ({f"{TO_Q}.alpha": torch.ones(2)}, CheckpointError, "one finite number"),
    "a short magnitude": ({f"{TO_Q}.lora_magnitude_vector": torch.ones(3)}, NoCheckpointError, "must be"),
    "one module twice": (
        {
            f"lycoris_transformer_blocks_0_attn_to_q.lora_{one}.weight": torch.zeros(*size)
            for one, size in {"down": (1, 128), "up": (128, 1)}.items()
        },
        CheckpointError,
        "the same module",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(net, stored, tmp_path, case):
    changes, error, message = BAD[case]
    bad(tmp_path / "lora.safetensors", stored, **changes)
    with pytest.raises(error, match=message):
        pf.formats.read_lora(tmp_path / "lora.safetensors", {"transformer": net})


def test_changes_of_text_encoders_can_be_left_out(net, stored, tmp_path):
    extra = {f"text_encoder_3.encoder.x.lora_{one}.weight": torch.zeros(4, 4) for one in "AB"}
    bad(tmp_path / "lora.safetensors", stored, **extra)
    lora = pf.formats.read_lora(tmp_path / "lora.safetensors", {"transformer": net}, text_encoders=False)
    assert lora.parts.keys() == {"transformer"}
    save_file(extra, tmp_path / "only.safetensors")
    with pytest.raises(NoCheckpointError, match="only changes text encoders"):
        pf.formats.read_lora(tmp_path / "only.safetensors", {"transformer": net}, text_encoders=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (json.dumps({"transformer.lora_alpha": "much"}), "finite number"),
        (json.dumps({"transformer.lora_alpha": float("inf")}), "finite number"),
        (json.dumps({"transformer.lora_alpha": None}), "alpha None, but it must be a finite number"),
        (json.dumps({"transformer.lora_alpha": 10**400}), "finite number"),
        (json.dumps({"transformer.alpha_pattern": [1]}), "no JSON object"),
        (json.dumps({"transformer.alpha_pattern": {"(a+)+$": 1}}), "only paths of modules"),
        (json.dumps({"transformer.init_lora_weights": "pissa_niter_4"}), "also changes the model's weights"),
    ],
)
def test_bad_headers_are_refused(net, stored, tmp_path, settings, message):
    written(tmp_path / "lora.safetensors", stored, "diffusers", metadata={"lora_adapter_metadata": settings})
    with pytest.raises(PushforwardError, match=message):
        pf.formats.read_lora(tmp_path / "lora.safetensors", {"transformer": net})


def test_what_is_no_lora_is_refused(net, stored, tmp_path):
    save_file(stored["single"], tmp_path / "model.safetensors")
    with pytest.raises(NoCheckpointError, match="is not a LoRA: it holds"):
        pf.formats.read_lora(tmp_path / "model.safetensors", {"transformer": net})
    (tmp_path / "lora.pt").write_bytes(b"")
    with pytest.raises(NoCheckpointError, match="pickle"):
        pf.formats.read_lora(tmp_path / "lora.pt", {"transformer": net})
    written(tmp_path / "cut.safetensors", stored, "diffusers")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        pf.formats.read_lora(tmp_path / "cut.safetensors", {"transformer": net})
    with pytest.raises(NoCheckpointError, match="2 files that may be a LoRA"):
        pf.formats.read_lora(tmp_path, {"transformer": net})


def test_unknown_layouts_are_refused_before_anything_is_written(net, tmp_path):
    with pytest.raises(UserError, match="'diffusers' or 'kohya'"):
        pf.formats.write_lora(tmp_path / "x.safetensors", pf.formats.LoRA({}), {"transformer": net}, "peft")
    assert not any(tmp_path.iterdir())
