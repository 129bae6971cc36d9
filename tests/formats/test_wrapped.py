"""Saving a model inside wrappers of torch: the file holds the model itself, and what a file cannot describe is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import pushforward as pf
from pushforward.errors import ConfigError, UserError
from pushforward.formats.wrapped import unwrapped


def flow():
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), sampler=pf.samplers.Euler(2))


def compiled(module):
    return torch.compile(module, backend="eager")


def with_net(change):
    def changed(model):
        model.net = change(model.net)
        return model

    return changed


def weight_normed(model):
    nn.utils.parametrizations.weight_norm(model.net.layers[0])
    with torch.no_grad():
        model.net.layers[0].parametrizations.weight.original0.mul_(2.0)
    return model


def compiled_in_place(net):
    net.compile(backend="eager")
    return net


WRAPPINGS = {
    "none": lambda model: model,
    "compiled": compiled,
    "averaged": AveragedModel,
    "averaged and compiled": lambda model: compiled(AveragedModel(model)),
    "data parallel": nn.DataParallel,
    "net compiled": with_net(compiled),
    "net compiled in place": with_net(compiled_in_place),
    "net recomputed": with_net(checkpoint_wrapper),
    "weight norm": weight_normed,
    "weight norm and net compiled": lambda model: with_net(compiled)(weight_normed(model)),
}


SLOW = ("weight norm and net compiled",)  # a second compilation


@pytest.mark.parametrize("wrap", [pytest.param(one, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, one in WRAPPINGS.items()])
def test_the_model_inside_is_saved_and_loads_with_equal_numbers(wrap, tmp_path):
    model, x = wrap(flow()), torch.randn(3, 2)
    loaded = pf.load(pf.save(model, tmp_path / "saved"))
    torch.testing.assert_close(loaded.encode(x), unwrapped(model).encode(x), rtol=0, atol=1e-6)
    assert loaded.state_dict().keys() == flow().state_dict().keys()


def test_saving_draws_no_random_numbers(tmp_path):
    model, before = flow(), torch.get_rng_state()
    pf.save(model, tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), before)


class Mine(nn.Linear):
    """The same tensors under another forward."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda model: nn.Linear(2, 2), UserError, "model is a torch.Linear, but it must be a GenerativeModel"),
        (nn.Sequential, UserError, "model is a torch.Sequential, but"),
        (lambda model: compiled(nn.Linear(2, 2)), UserError, "model is a torch.OptimizedModule around a torch.Linear, but"),
        (lambda model: None, UserError, "model is None, but"),
        (with_net(lambda net: nn.Sequential(net)), ConfigError, "net is a .*Sequential, where the settings of config.yaml build a MLP"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_its_type(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        pf.save(change(flow()), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_layer_of_another_type_is_refused(tmp_path):
    model = flow()
    model.net.out.__class__ = Mine
    with pytest.raises(ConfigError, match=r"net.out is a .*Mine, where the settings of config.yaml build a Linear"):
        pf.save(model, tmp_path / "saved")


@pytest.mark.parametrize("wrap", [compiled, AveragedModel, with_net(compiled)], ids=["compiled", "averaged", "net compiled"])
def test_the_model_inside_is_trained_checkpointed_and_resumed(wrap, tmp_path):
    data, options = torch.randn(32, 2), {"steps": 2, "batch_size": 16, "out": tmp_path / "run"}
    trainer = pf.Trainer(wrap(flow()), data, **options).fit()
    assert pf.load(tmp_path / "run").state_dict().keys() == flow().state_dict().keys()
    again = pf.Trainer(wrap(copy.deepcopy(flow())), data, resume=True, **{**options, "steps": 3}).fit()
    assert (trainer.step, again.step) == (2, 3)
