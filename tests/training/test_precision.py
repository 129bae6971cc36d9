"""Switches of speed and memory: each gives the results of the plain run, as nearly as its arithmetic allows."""

import math

import pytest
import torch
from examples import some_of

import pushforward as pf
from pushforward.errors import DivergedError, UserError
from pushforward.training.progress import Callback

NETS = {"unet": pf.nn.UNet.Config(channels=8, multipliers=(1, 2), depth=1), "dit": pf.nn.DiT.Config(patch=4, width=16, depth=2, heads=2)}
EXACT = {"activation_checkpointing": True}
NEAR = [{"precision": "bf16"}, {"precision": "fp16"}, {"channels_last": True}]


def fit(net="unet", **settings):
    torch.manual_seed(0)
    one = pf.models.flow_matching(NETS[net], (1, 8, 8), classes=10, levels=17, preprocess="standardise")
    data = pf.data.digits("train").take(256)
    return pf.Trainer(one, data, **{"steps": 6, "batch_size": 16, "warmup": 2, "lr": 0.01, "log_every": 2, **settings}).fit()


def validation(trainer):
    trainer.validation = pf.data.digits("validation").take(64)
    heard = []

    class Hear(Callback):
        def on_validation(self, trainer, metrics):
            heard.append(metrics["validation_loss"])

    trainer.callbacks = [Hear()]
    trainer._validate()
    return heard[0]


@pytest.fixture(scope="module")
def plain():
    return {net: fit(net) for net in NETS}


@pytest.fixture(scope="module")
def plain_loss(plain):
    return {net: validation(plain[net]) for net in NETS}


@pytest.mark.parametrize("net", NETS)
def test_recomputed_activations_give_the_same_bits(plain, net):
    other = fit(net, **EXACT)
    assert all(torch.equal(a, b) for a, b in zip(plain[net].model.parameters(), other.model.parameters(), strict=True))


@pytest.mark.parametrize(("settings", "net"), some_of([pytest.param(one, id=str(one)) for one in NEAR], list(NETS)))
def test_the_loss_is_that_of_the_plain_run(plain_loss, net, settings):
    if settings.get("channels_last") and net == "dit":
        pytest.skip("has no convolutions")
    other = fit(net, **settings)
    assert validation(other) == pytest.approx(plain_loss[net], rel=0.01)
    assert other.skipped == 0


@pytest.mark.slow
def test_another_layout_is_averaged_as_any_other(plain):
    other = fit(channels_last=True)
    for a, b in zip(other.averaged_model.parameters(), plain["unet"].averaged_model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_stay_in_float32(precision):
    one = fit(precision=precision, steps=1)
    assert {p.dtype for p in one.model.parameters()} == {torch.float32}


def test_the_scaler_survives_resuming(tmp_path):
    straight = fit("dit", precision="fp16", steps=6)
    with pytest.raises(RuntimeError, match="the power went"):
        fit("dit", precision="fp16", steps=6, out=tmp_path, checkpoint_every=3, callbacks=[Raise(4)])
    second = fit("dit", precision="fp16", steps=6, out=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(straight.model.parameters(), second.model.parameters(), strict=True))
    assert second._step.scaler.state_dict() == straight._step.scaler.state_dict()


class Raise(Callback):
    def __init__(self, step):
        self.at = step

    def on_every_step(self, trainer):
        if trainer.step == self.at:
            raise RuntimeError("the power went")


class Overflow(Callback):
    """Gradients that overflow as long as the scale is above a bound."""

    def __init__(self, most):
        self.most = most

    def on_start(self, trainer):
        scaler = trainer._step.scaler
        trainer.model.net.last.weight.register_hook(lambda g: g * (math.inf if scaler.get_scale() > self.most else 1.0))


def test_a_scale_that_is_too_large_shrinks_without_counting_as_a_fault():
    one = fit("dit", precision="fp16", steps=20, skip_limit=3, callbacks=[Overflow(2048)])
    assert one._step.scaler.get_scale() == 2048
    assert one.skipped == 0


def test_gradients_that_overflow_at_any_scale_end_the_run():
    with pytest.raises(DivergedError, match="in a row had no usable gradient"):
        fit("dit", precision="fp16", steps=40, skip_limit=3, callbacks=[Overflow(0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation_checkpointing": True}, "no network of this model has blocks to recompute"),
        ({"channels_last": True}, "the model has no convolutions"),
    ],
)
def test_a_switch_that_means_nothing_to_the_model_is_refused(settings, message):
    one = pf.models.flow_matching(pf.nn.MLP.Config((8,)), (2,))
    with pytest.raises(UserError, match=message):
        pf.Trainer(one, torch.randn(64, 2), steps=1, batch_size=16, **settings)


def test_a_blank_in_the_folder_of_torch_is_named_before_the_linker_fails(monkeypatch):
    """Torch hands the linker its folder without quotes: pages of the compiler's words otherwise."""
    monkeypatch.setattr(torch, "__file__", "/home/ada/my models/torch/__init__.py")
    with pytest.raises(UserError, match="path of torch, '/home/ada/my models/torch', contains a space.*or train without compile"):
        fit(compile=True)
