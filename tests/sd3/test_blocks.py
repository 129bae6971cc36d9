"""Layers on the device one at a time: the same bits, at most one layer present (two where the next is copied meanwhile), all home after."""

import contextlib
import itertools

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError
from pushforward.sd3 import layers, residence

OPTIONS = {"steps": 2, "size": (64, 48), "generator": 1, "output": "latents", "guidance": 3.0, "tokens": 16, "skip_layers": (1,)}


def relative(value, truth):
    return float((value - truth).norm() / truth.norm())


@pytest.fixture
def lazy(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload="blocks")


@pytest.fixture
def truth(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder).sample("a red cat", **OPTIONS)


@pytest.fixture
def watched(monkeypatch):
    """Let copies be new tensors, also on the CPU, and count the layers that are present when one is taken."""
    real, present = layers.copy_to, []

    def copied(tensors, device, **how):
        homes = real(tensors, device)
        for tensor, home in homes:
            tensor.data = home.clone()
        return homes

    take = layers.Layers._take

    def counted(self, layer):
        take(self, layer)
        present.append(len(self.present))

    monkeypatch.setattr(layers, "copy_to", copied)
    monkeypatch.setattr(residence, "copy_to", copied)
    monkeypatch.setattr(layers.Layers, "_take", counted)
    return present


def places(model):
    return [one.data_ptr() for part in model.residence.modules.values() for one in layers.tensors_of(part)]


def test_the_bits_are_the_same(lazy, truth):
    assert torch.equal(lazy.sample("a red cat", **OPTIONS), truth)


def test_one_layer_is_present_and_all_are_home_afterwards(lazy, truth, watched):
    before = places(lazy)
    assert relative(lazy.sample("a red cat", **OPTIONS), truth) < 1e-5
    # 3 + 4 + 2 layers of encoders (two prompts), then 3 blocks, of which one is skipped in an extra pass
    assert len(watched) > 9 + 4 * 3
    assert set(watched) == {1}
    assert places(lazy) == before
    assert lazy.residence.layers.present == []


@pytest.mark.slow
def test_loras_and_8_bits_move_along(tiny, watched, tmp_path):
    options = {"weights": "int8"}
    full = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, **options)
    lazy = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload="blocks", **options)
    for p in full.add_lora(rank=2):
        torch.nn.init.normal_(p, std=0.2)
    path = full.save_lora(tmp_path / "x.safetensors")
    full.unload_lora()
    for model in (full, lazy):
        model.load_lora(path)
    assert relative(lazy.sample("a red cat", **OPTIONS), full.sample("a red cat", **OPTIONS)) < 1e-5
    assert set(watched) == {1}


def test_an_error_in_a_layer_leaves_nothing_behind(lazy, watched, truth):
    before = places(lazy)

    def fail(module, args):
        raise ZeroDivisionError

    for layer in (lazy.encoders["t5"].encoder.block[1].layer[0], lazy.transformer.blocks[1].text.mlp):
        handle = layer.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            lazy.sample("a red cat", **OPTIONS)
        handle.remove()
        assert places(lazy) == before
        assert lazy.residence.layers.present == lazy.residence.present == []
    assert relative(lazy.sample("a red cat", **OPTIONS), truth) < 1e-5


def test_with_streams_the_next_layer_is_copied_while_one_computes(lazy, truth, watched, monkeypatch):
    """A device with streams, played by the CPU: the calls in their order, two layers at most."""
    calls = []

    class Event:
        def __init__(self, of):
            self.of = of

        def synchronize(self):
            calls.append(("synchronize", self.of))

    class Stream:
        def __init__(self, name):
            self.name, self.events = name, 0

        def record_event(self):
            self.events += 1
            return Event((self.name, self.events))

        def wait_event(self, event):
            calls.append(("wait", event.of))

    computing = Stream("computing")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    lazy.residence.layers.stream = Stream("copying")
    before = places(lazy)
    assert relative(lazy.sample("a red cat", **OPTIONS), truth) < 1e-5
    assert set(watched) == {1, 2}
    assert [of for what, of in calls if what == "wait"] == [("copying", k + 1) for k in range(len(watched))]
    waits = [of[1] for what, of in calls if what == "synchronize"]
    assert waits == sorted(set(waits))
    assert places(lazy) == before
    assert lazy.residence.layers.present == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_agrees_and_needs_less_memory(tiny):
    made = {}
    for offload in (True, "blocks"):
        model = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload=offload, device="cuda")
        made[offload] = model.sample("a red cat", **OPTIONS)
        assert model.residence.present == []
    assert torch.equal(made[True], made["blocks"])


@pytest.mark.slow
def test_the_peak_by_blocks_is_two_layers(lazy):
    memory = lazy.memory((64, 48))
    blocks = [sum(one.numel() * one.element_size() for one in layers.tensors_of(block)) for block in lazy.transformer.blocks]
    largest = max(a + b for a, b in itertools.pairwise(blocks))
    assert memory.weights["transformer"] - memory.streamed["transformer"] == sum(blocks) - largest
    assert memory.by_blocks <= memory.offloaded < memory.together
    assert "offload='blocks'" in str(memory)


def test_another_word_is_refused(tiny):
    with pytest.raises(UserError, match=r"offload is 'layers', but it is True .by component., 'blocks' .by block. or False"):
        pf.StableDiffusion3.from_pretrained(tiny("medium").folder, offload="layers")
