"""LoRAs on a pipeline: strengths, exact merging, the same output as diffusers both ways, and files of text encoders."""

import json

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import CheckpointError, NoCheckpointError, UserError

pytestmark = pytest.mark.usefixtures("float32")
PROMPT, TOKENS = "a red fox in the snow", 16


@pytest.fixture
def sd3(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder)


@pytest.fixture
def files(sd3, tmp_path):
    """Return two LoRAs of all attentions and one MLP, as files."""
    return [written(sd3, tmp_path / f"{name}.safetensors", seed=k, dora=k == 1) for k, name in enumerate(("style", "subject"))]


def written(sd3, path, seed=0, layout="diffusers", **options):
    """Write a random LoRA that `add_lora` made, and leave the model as it was."""
    generator = torch.Generator().manual_seed(seed)
    for p in sd3.add_lora(4, targets=["attention.qkv", "attention.out", "mlp.0"], seed=seed, **options):
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    sd3.save_lora(path, layout)
    sd3.unload_lora()
    return path


def inputs():
    generator = torch.Generator().manual_seed(7)
    text = pf.TextContext(torch.randn(2, 5, 128, generator=generator), torch.randn(2, 112, generator=generator))
    return torch.randn(2, 16, 12, 8, generator=generator), torch.tensor([0.3, 0.9]), text


@torch.no_grad()
def output(sd3):
    """Return the transformer's output, without fast paths: bits are compared."""
    with pf.fast.disabled():
        return sd3.transformer(*inputs())


@torch.no_grad()
def linear_weights(sd3):
    """Return the weights that the transformer's maps compute with, by name."""
    maps = {name: one for name, one in sd3.transformer.named_modules() if hasattr(one, "in_features")}
    return {name: one.weight.clone() for name, one in maps.items()}


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def test_merging_computes_the_same_bits_and_unmerging_restores_them(sd3, files):
    plain, weights = output(sd3), {name: one.clone() for name, one in sd3.transformer.state_dict().items()}
    assert sd3.load_lora(files[0]) == "style"
    sd3.load_lora(files[1], 0.5, "s")
    unmerged, computed = output(sd3), linear_weights(sd3)
    assert relative(unmerged, plain) > 0.01
    sd3.merge_lora()
    assert all(torch.equal(one, computed[name]) for name, one in linear_weights(sd3).items())
    assert relative(output(sd3), unmerged) < 1e-5  # products of equal matrices differ in the last bits by where these are in memory
    assert type(sd3.transformer.blocks[0].image.attention.qkv) is torch.nn.Linear
    sd3.unmerge_lora()
    assert all(torch.equal(one, computed[name]) for name, one in linear_weights(sd3).items())
    assert relative(output(sd3), unmerged) < 1e-5
    assert sd3.loras == {"style": 1.0, "s": 0.5}
    sd3.unload_lora()
    after = sd3.transformer.state_dict()
    assert list(after) == list(weights)  # in the same order, by which optimisers identify parameters
    assert all(torch.equal(after[name], one) for name, one in weights.items())


def test_strengths_add_up(sd3, files):
    """W + a (W1 - W) + b (W2 - W), also of a DoRA, in any order, merged or not; 0 is no change at all."""
    weight = sd3.transformer.blocks[1].image.attention.qkv.weight
    plain = weight.detach().clone()
    single = []
    for file in files:
        name = sd3.load_lora(file)
        sd3.merge_lora()
        single.append(weight.detach().clone())
        sd3.unload_lora(name)
        assert torch.equal(weight, plain)
    wanted = plain + 0.5 * (single[0] - plain) - 2 * (single[1] - plain)
    for order in (files, files[::-1]):
        for file in order:
            sd3.load_lora(file)
        sd3.set_lora({"style": 0.5, "subject": -2})
        sd3.merge_lora()
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-5)
        sd3.set_lora({"style": 0, "subject": 0})
        assert torch.equal(weight, plain)
        sd3.unload_lora()


def test_what_identifies_the_encoders_of_a_cache_is_what_they_compute(sd3, tmp_path):
    """Another LoRA, or another weight of it, encodes captions otherwise; merged or not they are the same."""
    path = written(sd3, tmp_path / "style.safetensors", text_encoders=["clip_l"])

    def known():
        return pf.sd3.PromptEncoders(sd3, tokens=TOKENS).fingerprint()

    plain = known()
    sd3.load_lora(path)
    whole = known()
    sd3.set_lora({"style": 0.5})
    half = known()
    assert len({plain, whole, half}) == 3
    sd3.merge_lora()
    assert known() == half
    sd3.set_lora({"style": 0})
    assert known() == plain


def test_unmerged_ones_hold_in_every_verb(sd3, files):
    """The fast path of the blocks reads weights: it declines, and the rows of text encoders are not touched."""
    sd3.load_lora(files[0])
    with torch.no_grad():
        found = sd3.transformer(*inputs())
    assert torch.equal(found, output(sd3))


def test_sampling_and_offloading(tiny, sd3, files):
    options = {"size": (64, 64), "steps": 2, "generator": 0, "output": "latents", "tokens": TOKENS}
    sd3.load_lora(files[0])
    images = sd3.sample(PROMPT, **options)
    offloaded = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload=True)
    offloaded.load_lora(files[0])
    assert torch.equal(offloaded.sample(PROMPT, **options), images)
    offloaded.merge_lora()
    assert relative(offloaded.sample(PROMPT, **options), images) < 1e-4


def test_bfloat16_is_rounded_once(tiny, files):
    sd3 = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, dtype=torch.bfloat16)
    weight = sd3.transformer.blocks[0].image.attention.qkv.weight
    plain = weight.detach().clone()
    sd3.load_lora(files[0])
    sd3.merge_lora()
    lora = load_file(files[0])
    delta = torch.cat([lora[f"transformer.transformer_blocks.0.attn.to_{one}.lora_B.weight"] for one in "qkv"])
    delta = delta @ lora["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"]
    assert torch.equal(weight, (plain.float() + delta).bfloat16())
    sd3.unmerge_lora()
    assert torch.equal(weight, plain)


@pytest.fixture
def peer(tiny):
    """Return a fresh pipeline of diffusers: peft changes its modules."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    made = diffusers.StableDiffusion3Pipeline.from_pretrained(tiny("medium-3.5").folder)
    made.set_progress_bar_config(disable=True)
    return made


def images_of(peer, steps=2):
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": steps, "guidance_scale": 3.0, "height": 64, "width": 64, "latents": noise, "output_type": "pt"}
    return peer([PROMPT], max_sequence_length=TOKENS, **options).images, noise


def ours(sd3, noise, steps=2):
    return sd3.sample(PROMPT, steps=steps, guidance=3.0, size=(64, 64), latents=noise, output="tensor", tokens=TOKENS)


def test_ours_gives_the_same_images_in_diffusers(sd3, peer, tmp_path):
    """Of transformer and both CLIPs, alpha twice the rank, through the file that diffusers looks for in a folder."""
    written(sd3, tmp_path / "pytorch_lora_weights.safetensors", alpha=8, text_encoders=True)
    before, noise = images_of(peer)
    peer.load_lora_weights(tmp_path)
    after, _ = images_of(peer)
    sd3.load_lora(tmp_path)
    assert float((after - before).abs().max()) > 0.01
    torch.testing.assert_close(ours(sd3, noise), after, rtol=0, atol=2e-4)
    sd3.unload_lora()
    sd3.load_lora(tmp_path, text_encoders=False)  # those of the encoders do count
    assert float((ours(sd3, noise) - after).abs().max()) > 0.01


def test_dora_of_ours_gives_the_same_images_in_diffusers(sd3, peer, tmp_path):
    written(sd3, tmp_path / "pytorch_lora_weights.safetensors", dora=True)
    peer.load_lora_weights(tmp_path)
    after, noise = images_of(peer)
    sd3.load_lora(tmp_path)
    torch.testing.assert_close(ours(sd3, noise), after, rtol=0, atol=2e-4)


@pytest.mark.parametrize("alpha", [4, 8])
def test_theirs_gives_the_same_images_here(sd3, peer, tmp_path, alpha):
    """As diffusers' training scripts write it: q, k and v with A of their own; the header states alpha."""
    import peft
    from diffusers.training_utils import _collate_lora_metadata

    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_out.linear", "proj_out"]
    config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
    text = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False)
    parts = {
        "transformer": (peer.transformer, config),
        "text_encoder": (peer.text_encoder, text),
        "text_encoder_2": (peer.text_encoder_2, text),
    }
    torch.manual_seed(0)
    for module, one in parts.values():
        peft.inject_adapter_in_model(one, module)  # what `add_adapter` calls
    layers = {f"{part}_lora_layers": peft.get_peft_model_state_dict(module) for part, (module, _) in parts.items()}
    metadata = _collate_lora_metadata({part: module for part, (module, _) in parts.items()})
    type(peer).save_lora_weights(tmp_path, **layers, **metadata)
    wanted, noise = images_of(peer)
    before = ours(sd3, noise)
    sd3.load_lora(tmp_path)
    assert float((before - wanted).abs().max()) > 0.01
    torch.testing.assert_close(ours(sd3, noise), wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("raw", [False, True], ids=["diffusers' header", "peft's config"])
def test_alpha_that_is_left_out_is_that_of_diffusers_and_peft(sd3, peer, tmp_path, raw):
    """LoraConfig's lora_alpha is 8 whatever r is, so that rank 4 counts twice."""
    import peft

    path, name = written(sd3, tmp_path / "adapter_model.safetensors"), "transformer_blocks.1.attn.to_q"
    held = load_file(path)
    targets = sorted({one.removeprefix("transformer.").partition(".lora_")[0] for one in held})
    down, up = (held[f"transformer.{name}.lora_{one}.weight"] for one in "AB")
    settings = {"r": 4, "target_modules": targets, "peft_type": "LORA"}
    if raw:
        save_file({one.replace("transformer.", "base_model.model.", 1): tensor for one, tensor in held.items()}, path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        peft.PeftModel.from_pretrained(peer.transformer, tmp_path)
    else:
        header = {f"transformer.{one}": value for one, value in settings.items()}
        save_file(held, path, {"lora_adapter_metadata": json.dumps(header)})
        peer.load_lora_weights(tmp_path, weight_name=path.name)
    wanted = peer.transformer.get_submodule(name).get_delta_weight("default_0" if not raw else "default")
    torch.testing.assert_close(wanted, 2 * up @ down, rtol=0, atol=1e-6)
    found = pf.formats.read_lora(path, {"transformer": sd3.transformer})
    assert {one.scale for one in found.parts["transformer"]} == {2.0}


@pytest.mark.parametrize("wrapped", [False, True], ids=["transformer", "PeftModel"])
def test_the_state_dict_of_a_peft_model_is_read_whatever_its_adapter_is_called(sd3, peer, tmp_path, wrapped):
    """It has the adapter's name in each tensor, which `get_peft_model_state_dict` leaves out: both are the same DoRA."""
    import peft

    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "proj_out"], init_lora_weights=False, use_dora=True)
    if wrapped:
        owner = peft.PeftModel(peer.transformer, config, adapter_name="style")
    else:
        owner = peft.inject_adapter_in_model(config, peer.transformer, adapter_name="style")
    named = {name: one.contiguous() for name, one in owner.state_dict().items() if ".lora_" in name}
    assert any(name.endswith("to_q.lora_magnitude_vector.style.weight") for name in named)
    save_file(named, tmp_path / "named.safetensors")
    save_file(peft.get_peft_model_state_dict(owner, adapter_name="style"), tmp_path / "plain.safetensors")
    files = (tmp_path / f"{name}.safetensors" for name in ("named", "plain"))
    found, wanted = (pf.formats.read_lora(file, {"transformer": sd3.transformer}).parts["transformer"] for file in files)
    assert len(found) == len(wanted) == len(named) // 3
    for one, other in zip(found, wanted, strict=True):
        assert (one.module, one.start, one.scale) == (other.module, other.start, other.scale)
        assert all(torch.equal(getattr(one, what), getattr(other, what)) for what in ("down", "up", "magnitude"))
    peft.inject_adapter_in_model(config, peer.transformer, adapter_name="subject")
    both = {name: one.contiguous() for name, one in peer.transformer.state_dict().items() if ".lora_" in name}
    save_file(both, tmp_path / "both.safetensors")
    with pytest.raises(NoCheckpointError, match=r"2 LoRAs, the adapters 'style', 'subject', .* selected_adapters=\['style'\]"):
        sd3.load_lora(tmp_path / "both.safetensors")


@pytest.mark.parametrize("prefix", ["text_encoder_3.", "lora_te3_", "text_encoders.t5xxl.transformer."])
def test_text_encoders_of_all_prefixes(sd3, tmp_path, prefix):
    """W + (alpha / r) B A by hand in T5, whose encodings are cached: another LoRA, another encoding."""
    name = "encoder.block.1.layer.0.SelfAttention.o"
    linear = sd3.encoders["t5"].get_submodule(name)
    before, weight = sd3.encode_prompt(PROMPT), linear.weight.detach().clone()
    down, up = torch.randn(2, weight.shape[1]), torch.randn(len(weight), 2)
    base = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
    file = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(0.5)}
    save_file(file, tmp_path / "t5.safetensors")
    sd3.load_lora(tmp_path / "t5.safetensors")
    torch.testing.assert_close(linear.weight, weight + 0.25 * up @ down, rtol=0, atol=1e-5)
    after = sd3.encode_prompt(PROMPT)
    assert not torch.equal(after.context, before.context)
    sd3.unload_lora()
    assert torch.equal(sd3.encode_prompt(PROMPT).context, before.context)


def test_what_cannot_be_is_refused(tiny, sd3, files, tmp_path):
    with pytest.raises(UserError, match="no LoRA to merge"):
        sd3.merge_lora()
    with pytest.raises(UserError, match="there is no LoRA 'x'; none is loaded"):
        sd3.set_lora({"x": 1})
    with pytest.raises(NoCheckpointError, match="there is no file"):
        sd3.load_lora(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="weight is nan"):
        sd3.load_lora(files[0], float("nan"))
    sd3.load_lora(files[0])
    with pytest.raises(UserError, match="a LoRA named 'style' is loaded"):
        sd3.load_lora(files[0])
    with pytest.raises(UserError, match="did you mean 'style'"):
        sd3.unload_lora("styl")
    with pytest.raises(UserError, match="not merged"):
        sd3.save(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="call merge_lora"):
        sd3.add_lora()
    other = pf.StableDiffusion3.from_pretrained(tiny("medium").folder)
    with pytest.raises(CheckpointError, match="LoRA for another model"):
        other.load_lora(files[0])
    assert other.loras == {}
    held = load_file(files[0])
    name = next(one for one in held if one.endswith("lora_B.weight"))
    for number in (float("nan"), float("inf")):
        held[name][0, 0] = number
        save_file(held, tmp_path / "diverged.safetensors")
        with pytest.raises(CheckpointError, match="lora_B.weight has numbers that are not finite, of a run that diverged or a damaged"):
            sd3.load_lora(tmp_path / "diverged.safetensors", name="diverged")
    assert sd3.loras == {"style": 1.0}
    for name, message in (("diffusion_model.x.bias", "is not a LoRA: it holds diffusion_model.x.bias"), ("x.diff", "a whole weight")):
        save_file({name: torch.zeros(2)}, tmp_path / "other.safetensors")
        with pytest.raises(NoCheckpointError, match=message):
            sd3.load_lora(tmp_path / "other.safetensors", name="other")


def test_merged_weights_are_saved_and_training_them_is_noticed(sd3, files, tmp_path):
    sd3.load_lora(files[0])
    sd3.merge_lora()
    sd3.save(tmp_path / "model.safetensors")
    again = pf.StableDiffusion3.from_pretrained(tmp_path / "model.safetensors")
    assert torch.equal(output(again), output(sd3))
    with torch.no_grad():
        sd3.transformer.blocks[0].image.attention.qkv.weight.add_(1)
    with pytest.raises(UserError, match="have been trained or loaded since"):
        sd3.unmerge_lora()


def test_a_loaded_one_is_written_in_another_layout(sd3, files, tmp_path):
    sd3.load_lora(files[0])
    wanted = output(sd3)
    sd3.save_lora(tmp_path / "kohya.safetensors", "kohya", name="style")
    sd3.unload_lora()
    sd3.load_lora(tmp_path / "kohya.safetensors")
    assert relative(output(sd3), wanted) < 1e-5


def failed(capsys, *arguments):
    """The exit status and the sentence of a command that fails."""
    capsys.readouterr()
    try:
        status = main(["generate", *map(str, arguments)])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


@pytest.mark.slow
def test_generate_with_loras_and_again_from_the_image(tiny, sd3, files, tmp_path, capsys):
    folder, out = tiny("medium-3.5").folder, tmp_path / "fox.png"
    small = ["--steps", "2", "--height", "32", "--width", "32", "--seed", "5"]
    given = ["--lora", str(files[0]), str(files[1]), "--lora-weight", "0.5", "2"]
    assert main(["generate", str(folder), PROMPT, *small, *given, "--out", str(out)]) == 0
    for file, weight in zip(files, (0.5, 2), strict=True):
        sd3.load_lora(file, weight)
    sd3.merge_lora()
    wanted = sd3.sample(PROMPT, steps=2, size=(32, 32), generator=5)[0]
    assert PIL.Image.open(out).tobytes() == wanted.tobytes()
    assert main(["generate", "--from", str(out), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
    written(pf.StableDiffusion3.from_pretrained(folder), files[0], seed=9)
    status, message = failed(capsys, "--from", out, "--out", tmp_path / "other.png")
    assert (status, "which has changed since" in message) == (2, True)


def test_mistakes_about_loras_are_found_before_a_model_is_loaded(files, tmp_path, capsys):
    save_file({"x.hada_w1_a": torch.zeros(2)}, tmp_path / "loha.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(files[0].read_bytes()[:-10])
    for arguments, wanted, exit_status in (
        (["--lora", tmp_path / "none.safetensors"], "there is no file", 2),
        (["--lora", tmp_path / "loha.safetensors"], "a LoHa", 2),
        (["--lora", tmp_path / "cut.safetensors"], "is truncated", 1),
        (["--lora", files[0], "--lora-weight", "1", "2"], "--lora-weight has 2 numbers for 1 files", 2),
        (["--lora-weight", "0.5"], "--lora-weight is 0.5, but no --lora is given; give one, or leave it out.", 2),
        (["--lora", files[0], "--lora-weight", "nan"], "--lora-weight is nan", 2),
        (["--lora", files[0], files[0]], "a file twice", 2),
        (["--lora", files[0], files[0].parent / "." / ".." / files[0].parent.name / files[0].name], "which is the file of", 2),
    ):
        status, message = failed(capsys, "no-such-model", PROMPT, *arguments)
        assert (status, wanted in message) == (exit_status, True), message
        assert message.count("\n") == 1
