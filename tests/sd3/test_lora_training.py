"""Training LoRAs by the Trainer: which parameters learn, averages, checkpoints, text encoders, and full fine-tuning."""

import warnings

import pytest
import torch
from safetensors.torch import load_file

import pushforward as pf
from pushforward.errors import UserError

pytestmark = pytest.mark.usefixtures("float32")
SETTINGS = {"batch_size": 4, "lr": 1e-2, "warmup": 0, "schedule": "constant", "seed": 0}


@pytest.fixture
def sd3(tiny):
    made = pf.StableDiffusion3.from_pretrained(tiny("medium").folder)
    made.size = (64, 64)
    return made


class Pairs(torch.utils.data.Dataset):
    """Latents (C, 8, 8) with conditions, given as batches."""

    def __init__(self, cond, n=6):
        self.x = torch.randn(n, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        self.cond = cond

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return self.__getitems__([k])

    def __getitems__(self, indices):
        chosen = torch.tensor(indices)
        return self.x[chosen], self.cond[chosen]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return Pairs(pf.TextContext(torch.randn(6, 5, 128, generator=generator), torch.randn(6, 112, generator=generator)))


def velocity(model, data):
    with torch.no_grad():
        return model.net(data.x, torch.full((6,), 0.5), data.cond)


def test_only_the_lora_learns(sd3, data):
    """8 projections by default; B starts at zero, so that nothing changes before the first step; the loss of a fixed batch falls."""
    before = {name: one.clone() for name, one in sd3.transformer.state_dict().items()}
    plain = velocity(sd3.model, data)
    parameters = sd3.add_lora(4)
    assert sum(p.numel() for p in parameters) == sum(p.numel() for p in sd3.transformer.parameters() if p.requires_grad)
    assert len(parameters) == 14  # A and B of qkv and out in two streams of two blocks, of which the last text has no out
    torch.testing.assert_close(velocity(sd3.model, data), plain, rtol=0, atol=1e-5)
    loss = [float(sd3.model.eval().loss(data.x, data.cond, generator=torch.Generator().manual_seed(0)).detach())]
    trainer = pf.Trainer(sd3.model, data, steps=8, ema=0.5, **SETTINGS).fit()
    loss.append(float(sd3.model.eval().loss(data.x, data.cond, generator=torch.Generator().manual_seed(0)).detach()))
    assert loss[1] < 0.95 * loss[0]
    frozen = dict(zip(sd3.model.named_parameters(), trainer.averaged_model.named_parameters(), strict=True))
    assert all((a is b) == (not a.requires_grad) for (_, a), (_, b) in frozen.items())  # the average shares what does not change
    sd3.unload_lora()
    after = sd3.transformer.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert all(p.requires_grad for p in sd3.transformer.parameters())


@pytest.mark.parametrize("dora", [False, True])
def test_the_trained_and_the_averaged_one_are_saved(sd3, data, tmp_path, dora):
    sd3.add_lora(4, alpha=2, dora=dora)
    trainer = pf.Trainer(sd3.model, data, steps=3, ema=0.5, **SETTINGS).fit()
    wanted = [velocity(one.eval(), data) for one in (sd3.model, trainer.averaged_model)]
    sd3.save_lora(tmp_path / "trained.safetensors")
    sd3.save_lora(tmp_path / "averaged.safetensors", model=trainer.averaged_model)
    with pytest.raises(UserError, match="does not have this LoRA"):
        sd3.save_lora(tmp_path / "x.safetensors", model=pf.models.rectified_flow(shape=(2,)))
    with pytest.raises(UserError, match="load_lora is called while a LoRA is trained"):
        sd3.load_lora(tmp_path / "trained.safetensors")
    sd3.unload_lora()
    assert not torch.equal(*wanted)
    for name, one in zip(("trained", "averaged"), wanted, strict=True):
        sd3.load_lora(tmp_path / f"{name}.safetensors")
        torch.testing.assert_close(velocity(sd3.model, data), one, rtol=0, atol=1e-4)
        sd3.unload_lora()
    assert sum(name.endswith("lora_A.weight") for name in load_file(tmp_path / "trained.safetensors")) == 15  # q, k, v apart


@pytest.mark.parametrize("lora", [True, False])
def test_resuming_is_bit_identical(tiny, sd3, data, tmp_path, lora):
    """Checkpoints of a LoRA hold the LoRA alone; full fine-tuning is the same without add_lora."""
    if lora:
        sd3.add_lora(4)
    settings = {**SETTINGS, "lr": 1e-3, "ema": 0.9, "steps": 4}
    whole = pf.Trainer(sd3.model, data, **settings).fit()
    other = pf.StableDiffusion3.from_pretrained(tiny("medium").folder)
    other.size = (64, 64)
    if lora:
        other.add_lora(4)
    pf.Trainer(other.model, data, out=tmp_path / "run", **{**settings, "steps": 2}).fit()
    again = pf.StableDiffusion3.from_pretrained(tiny("medium").folder)
    again.size = (64, 64)
    if lora:
        again.add_lora(4, seed=1)
    resumed = pf.Trainer(again.model, data, out=tmp_path / "run", resume=True, **settings).fit()
    for a, b in ((whole.model, resumed.model), (whole.averaged_model, resumed.averaged_model)):
        assert all(torch.equal(one, b.state_dict()[name]) for name, one in a.state_dict().items())
    held = load_file(next((tmp_path / "run" / "checkpoints").glob("step-*4")) / "model.safetensors")
    named = sum("lora_" in name for name in held)
    assert named == (14 if lora else 0)
    assert len(held) == named if lora else len(held) > 50  # without the position table, a buffer of half a gigabyte


@pytest.mark.slow
def test_text_encoders_learn_too(sd3, tmp_path):
    """Gradients reach the CLIPs through their encodings; the file has them under the names of diffusers."""
    cond = sd3.tokens_of(["a red fox", "a cat", "the cat", "a photo", "of the cat", "red"], tokens=8)
    data = Pairs(cond)
    plain = sd3.encode_prompt("a red fox", tokens=8)
    text = sd3.text_model.net.encoded(cond)
    torch.testing.assert_close(text.context[:1], plain.context, rtol=0, atol=1e-5)
    torch.testing.assert_close(text.pooled[:1], plain.pooled, rtol=0, atol=1e-5)
    parameters = sd3.add_lora(2, text_encoders=["clip_l", "clip_g", "t5"])
    trainer = pf.Trainer(sd3.text_model, data, steps=3, ema=0.5, **SETTINGS).fit()
    assert all(p.grad is not None for p in parameters)
    wanted = sd3.encode_prompt("a red fox", tokens=8)
    assert not torch.equal(wanted.pooled, plain.pooled)
    sd3.save_lora(tmp_path / "a.safetensors")
    sd3.save_lora(tmp_path / "b.safetensors", model=trainer.averaged_model)
    names = load_file(tmp_path / "a.safetensors")
    prefixes = {name.split(".")[0] for name in names}
    assert prefixes == {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3"}
    assert any(
        not torch.equal(one, load_file(tmp_path / "b.safetensors")[name]) for name, one in names.items() if name.startswith("text_encoder.")
    )
    sd3.unload_lora()
    assert torch.equal(sd3.encode_prompt("a red fox", tokens=8).context, plain.context)
    sd3.load_lora(tmp_path / "a.safetensors")
    torch.testing.assert_close(sd3.encode_prompt("a red fox", tokens=8).context, wanted.context, rtol=0, atol=1e-4)


def test_training_on_top_of_a_merged_one(sd3, data, tmp_path):
    for p in sd3.add_lora(2):
        p.data += 0.1
    sd3.save_lora(tmp_path / "first.safetensors")
    sd3.unload_lora()
    sd3.load_lora(tmp_path / "first.safetensors")
    sd3.merge_lora()
    base = velocity(sd3.model, data)
    sd3.add_lora(2)
    torch.testing.assert_close(velocity(sd3.model, data), base, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="unmerge_lora is called while a LoRA is trained"):
        sd3.unmerge_lora()
    sd3.unload_lora()
    assert sd3.loras == {}


def test_prompts_are_dropped_to_the_empty_one(sd3):
    cond, empty = sd3.tokens_of(["a red fox", "a cat"], tokens=8), sd3.tokens_of("", tokens=8)
    kept = cond.where(torch.tensor([True, False]), empty)
    assert torch.equal(kept.clip_l, torch.cat((cond.clip_l[:1], empty.clip_l)))
    assert torch.equal(cond[1].t5, cond.t5[1:])


def test_half_precision_weights_get_float32_parameters(tiny):
    sd3 = pf.StableDiffusion3.from_pretrained(tiny("medium").folder, dtype=torch.bfloat16)
    assert {p.dtype for p in sd3.add_lora(2)} == {torch.float32}
    x, cond = torch.randn(2, 16, 8, 8), pf.TextContext(torch.randn(2, 5, 128), torch.randn(2, 112))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sd3.model_for((64, 64)).loss(x, cond).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"targets": ["attention.q"]}, "no Linear of this network ends with it; its Linears end with .*attention.qkv"),
        ({"targets": "attention.qkv"}, "must be a list"),
        ({"targets": []}, "must be a list"),
        ({"text_encoders": ["clip"]}, "text_encoders has 'clip'"),
        ({"dropout": 1}, "dropout is 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_change_nothing(sd3, options, message):
    with pytest.raises(UserError, match=message):
        sd3.add_lora(**options)
    assert sd3.training is None
    assert all(p.requires_grad for p in sd3.transformer.parameters())
