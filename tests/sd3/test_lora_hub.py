"""LoRAs of the Hub, of which a local server stands in: what is downloaded, and a sentence for each refusal."""

import json

import PIL.Image
import pytest
import torch
from hub_server import redirect, serving

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.sd3.lora_hub import hub_lora, local_lora

SMALL = ["--steps", "1", "--height", "32", "--width", "32", "--guidance", "1", "--seed", "3"]
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as (hub, address):
        redirect(monkeypatch, address, tmp_path / "cache")
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield hub


@pytest.fixture(scope="module")
def sd3(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium").folder)


@pytest.fixture(scope="module")
def files(sd3, tmp_path_factory):
    """The bytes of two LoRAs."""
    made = []
    for k in range(2):
        with torch.no_grad():
            for p in sd3.add_lora(rank=2, seed=k):
                p.normal_(std=0.2, generator=torch.Generator().manual_seed(p.numel() + k))
        made.append(sd3.save_lora(tmp_path_factory.mktemp("lora") / f"{k}.safetensors").read_bytes())
        sd3.unload_lora()
    return made


def test_what_is_a_path_and_what_is_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loras").mkdir()
    assert hub_lora("alice/style") == hub_lora("hf:alice/style") == ("alice/style", None)
    assert hub_lora("hf:alice/style:epochs/9.safetensors") == ("alice/style", "epochs/9.safetensors")
    for path in (
        "style.safetensors",
        "loras/style",
        "alice/style.safetensors",
        "alice/style.bin",
        "runs/lora",
        "/a/b",
        tmp_path / "alice" / "style",
    ):
        assert hub_lora(path) is None
    for wrong in ("hf:style", "hf:", "hf:a/b:", "hf:a/b:../c.safetensors"):
        with pytest.raises(UserError, match="is no LoRA of the Hub, which is hf:OWNER/NAME or hf:OWNER/NAME:FILE.safetensors"):
            hub_lora(wrong)
    with pytest.raises(UserError, match="a file that is no .safetensors; others, which may be pickles and run code, are never downloaded"):
        hub_lora("hf:a/b:style.bin")


def test_a_lora_of_the_hub_is_that_of_its_file(hub, sd3, files, tmp_path):
    """Other files of its repository, pickles among them, are not downloaded."""
    hub.repos["alice/style"] = {"README.md": b"hello", "style.safetensors": files[0], "style.bin": b"no", "optimizer.pt": b"no"}
    assert sd3.load_lora("alice/style") == "style"
    changed = sd3.transformer.blocks[0].image.attention.qkv.weight.clone()
    sd3.unload_lora("style")
    (tmp_path / "plain.safetensors").write_bytes(files[0])
    sd3.load_lora(tmp_path / "plain.safetensors")
    assert torch.equal(changed, sd3.transformer.blocks[0].image.attention.qkv.weight)
    sd3.unload_lora("plain")
    fetched = [path for _, path in hub.requests if "/resolve/" in path]
    assert fetched
    assert all(path.endswith("/style.safetensors") for path in fetched)


def test_a_file_of_several_is_chosen(hub, files):
    hub.repos["alice/many"] = {"epochs/1.safetensors": files[0], "epochs/[2].safetensors": files[1], "sub/adapter_config.json": b"{}"}
    message = r"alice/many holds 2 files that may be the LoRA: epochs/1.safetensors, epochs/\[2\].safetensors; give one"
    with pytest.raises(NoCheckpointError, match=message):
        local_lora("alice/many")
    assert local_lora("hf:alice/many:epochs/[2].safetensors").read_bytes() == files[1]
    with pytest.raises(NoCheckpointError, match=r"many has no file 3.safetensors; it has epochs/1.safetensors, epochs/\[2\].safetensors"):
        local_lora("hf:alice/many:3.safetensors")
    hub.repos["alice/usual"] = {"pytorch_lora_weights.safetensors": files[0], "old/x.safetensors": files[1]}
    assert local_lora("alice/usual").read_bytes() == files[0]


def test_the_settings_of_peft_come_with_the_file(hub, files):
    hub.repos["alice/peft"] = {"adapter_model.safetensors": files[0], "adapter_config.json": b'{"r": 2}'}
    assert (local_lora("hf:alice/peft").parent / "adapter_config.json").read_bytes() == b'{"r": 2}'


def test_what_has_no_lora_is_refused(hub, monkeypatch):
    hub.repos["alice/pickle"] = {"style.bin": b"no"}
    with pytest.raises(
        NoCheckpointError, match="alice/pickle holds no .safetensors file, but only style.bin, a pickle, which can run code"
    ):
        local_lora("alice/pickle")
    assert not [path for _, path in hub.requests if "/resolve/" in path]
    hub.repos["alice/outside"] = {"../style.safetensors": b""}
    with pytest.raises(NoCheckpointError, match="holds no .safetensors file, but 1 others"):
        local_lora("alice/outside")
    hub.repos["alice/text"] = {"README.md": b"hello"}
    with pytest.raises(NoCheckpointError, match="holds no .safetensors file, but 1 others; give another repository"):
        local_lora("alice/text")
    with pytest.raises(NoCheckpointError, match="the LoRA alice/none should be at .*no such repository, or it is private"):
        local_lora("alice/none")
    hub.repos["alice/gated"] = {"style.safetensors": b""}
    hub.gated.add("alice/gated")
    with pytest.raises(UserError, match="which is gated; accept its licence there"):
        local_lora("alice/gated")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="is not on this machine and .* cannot be reached; download it elsewhere"):
        local_lora("alice/elsewhere")


def test_one_in_the_cache_needs_no_hub(hub, files, monkeypatch):
    hub.repos["alice/style"] = {"style.safetensors": files[0]}
    path = local_lora("alice/style")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_lora("alice/style") == path


def test_the_command_uses_it_and_repeats_the_picture(hub, files, tiny, tmp_path, capsys):
    hub.repos["alice/style"] = {"style.safetensors": files[0]}
    folder, (a, b, c) = str(tiny("medium").folder), (tmp_path / f"{name}.png" for name in "abc")
    assert main(["generate", folder, "a cat", *SMALL, "--lora", "alice/style", "--out", str(a)]) == 0
    assert main(["generate", folder, "a cat", *SMALL, "--out", str(b)]) == 0
    assert a.read_bytes() != b.read_bytes()
    with PIL.Image.open(a) as image:
        assert json.loads(image.text["pushforward"])["lora"] == ["alice/style"]
    assert main(["generate", "--from", str(a), "--out", str(c)]) == 0
    assert a.read_bytes() == c.read_bytes()
    hub.repos["alice/style"] = {"style.safetensors": files[1]}
    capsys.readouterr()
    assert main(["generate", "--from", str(a), "--out", str(c)]) == 2
    assert "made with --lora alice/style, which has changed since" in capsys.readouterr().err
    hub.repos["alice/no"] = {"style.safetensors": b"0" * 100}
    assert main(["generate", "no-such-model", "a cat", *SMALL, "--lora", "alice/no", "--out", str(c)]) != 0
    assert "style.safetensors is not a safetensors file" in capsys.readouterr().err
