"""Models under vectors and images: what they learn, what stands for no condition, guidance, files, and what is refused."""

import dataclasses

import conditional
import pytest
import torch
from examples import some_of

import pushforward as pf
from pushforward.errors import ConditionError, UserError
from pushforward.families.dropped import with_dropped
from pushforward.nn.config import NetConfig
from pushforward.samplers.euler import Euler
from pushforward.samplers.heun import Heun

UNET = pf.nn.UNet.Config(channels=8, multipliers=(1,), depth=1, attention=0, heads=1)
DIT = pf.nn.DiT.Config(patch=1, width=16, depth=1, heads=2)
SUBJECTS = [one for one in conditional.MODELS if "glow" not in one.id and "nsf" not in one.id]


def trained(model, x, cond, steps, lr=1e-2):
    """Return a model after some steps of a loop of one's own, with units fitted."""
    model.initialise(x, cond)
    optimiser = torch.optim.Adam(model.parameters(), lr)
    for step in range(steps):
        rows = torch.arange(step * 64, step * 64 + 64) % len(x)
        optimiser.zero_grad()
        model.loss(x[rows], cond[rows], generator=torch.Generator().manual_seed(step)).backward()
        optimiser.step()
    return model.eval()


def _path_model(net):
    return lambda **condition: pf.models.rectified_flow(net, (1, 4, 4), preprocess="standardise", sampler=Euler(8), **condition)


def _glow(**condition):
    return pf.models.glow(shape=(1, 4, 4), levels=1, depth=2, hidden=16, preprocess="standardise", **condition)


FOLLOWING = [
    pytest.param(_path_model(UNET), 60, id="unet"),
    pytest.param(_path_model(DIT), 120, id="dit"),
    pytest.param(_glow, 200, id="glow"),
]


@pytest.mark.parametrize(("make", "steps", "kind"), some_of(FOLLOWING, ["vectors", "images"]))
def test_samples_follow_the_condition(make, steps, kind):
    """x is 10 c + noise of deviation 1 in each pixel, c the vector's first number, or the pixel of a binary mask, in odd units.

    Without the condition a sample's error has the deviation of c itself, 10 and 5; the noise alone leaves 1. A third is asked for.
    """
    generator = torch.Generator().manual_seed(0)
    if kind == "vectors":
        cond = torch.randn(512, 2, generator=generator) * torch.tensor([1.0, 100.0]) + torch.tensor([3.0, -50.0])
        model, mean = make(cond_features=2), 10 * cond[:, 0].view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    else:
        cond = torch.rand(512, 1, 4, 4, generator=generator) < 0.5
        model, mean = make(cond_image=(1, 4, 4)), 10.0 * cond
    model = trained(model, mean + torch.randn(mean.shape, generator=generator), cond, steps)
    made = model.sample(100, cond[:100], generator=torch.Generator().manual_seed(1))
    error, spread = (made - mean[:100]).square().mean().sqrt(), mean.std()
    assert float(error) < float(spread) / 3


@pytest.mark.parametrize("net", [pytest.param(UNET, id="unet", marks=pytest.mark.slow), pytest.param(DIT, id="dit")])
def test_samples_follow_an_image_that_is_read_by_attention(net):
    """The grey levels of the upper and lower half of a condition of another size are those of x's halves; a third as before."""
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(512, 1, 2, 1, generator=generator)
    cond = level.repeat_interleave(3, 2).expand(-1, 1, 6, 2).contiguous()
    mean = 10 * level.repeat_interleave(2, 2).expand(-1, 1, 4, 4)
    model = _path_model(dataclasses.replace(net, cond_by="attention", cond_patch=1))(cond_image=(1, 6, 2))
    model = trained(model, mean + torch.randn(mean.shape, generator=generator), cond, 150)
    made = model.sample(100, cond[:100], generator=torch.Generator().manual_seed(1))
    error, spread = (made - mean[:100]).square().mean().sqrt(), mean.std()
    assert float(error) < float(spread) / 3


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.usefixtures("float64")
def test_guidance_extrapolates_from_the_model_without_condition(subject):
    """Velocity v_none + w (v_cond - v_none); w = 1 is the conditional model, bit for bit, and needs no second evaluation."""
    model, x, cond = subject.example()
    model.eval()
    seed = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    by = {} if model.sampler is None else {"sampler": Heun(2)}
    plain, once = (model.sample(4, cond, guidance=scale, generator=seed(), **by) for scale in (None, 1.0))
    assert torch.equal(plain, once)
    assert not torch.allclose(model.sample(4, cond, guidance=3.0, generator=seed(), **by), plain, rtol=1e-9, atol=1e-9)
    if model.sampler is None:
        return
    t = torch.full((4,), 0.5, dtype=x.dtype)
    none, one, two = (model.denoiser(c, g)(x, t).velocity for c, g in ((None, None), (cond, None), (cond, 2.0)))
    torch.testing.assert_close(two, none + 2 * (one - none), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.usefixtures("float64")
def test_dropped_conditions_are_those_of_the_unconditional_model(subject):
    """In the loss of a batch with all conditions dropped, and in evaluation mode nothing is dropped."""
    model, x, cond = subject.example()
    all_dropped = with_dropped(cond, 1.0, model.conditioning, torch.Generator())
    seed = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    model.eval()
    torch.testing.assert_close(model._loss(x, all_dropped, None, seed()), model.loss(x, None, generator=seed()))
    assert not torch.equal(model.loss(x, cond, generator=seed()), model.loss(x, None, generator=seed()))
    model.train()
    model.drop_cond = 0.999999
    torch.testing.assert_close(model.loss(x, cond, generator=seed()), model.loss(x, None, generator=seed()))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: (_path_model(UNET)(cond_image=(2, 4, 4), drop_cond=0.1), (2, 4, 4)), id="unet"),
        pytest.param(lambda: (_path_model(DIT)(cond_features=3), (3,)), id="dit"),
        pytest.param(lambda: (_glow(cond_image=(1, 8, 8)), (1, 8, 8)), id="glow"),
        pytest.param(lambda: (pf.models.flow_matching(pf.nn.MLP.Config((8,), cond_features=3), (1, 4, 4)), (3,)), id="mlp"),
    ],
)
def test_a_saved_model_knows_its_condition_and_its_units(make, tmp_path):
    model, shape = make()
    x, cond = torch.randn(8, 1, 4, 4), 5 + 3 * torch.randn(8, *shape)
    model.initialise(x, cond)
    again = pf.load(pf.save(model, tmp_path / "model"))
    assert again.conditioning == model.conditioning
    assert again.conditioning.shape == shape
    one, two = (m.eval().sample(8, cond, generator=torch.Generator().manual_seed(0)) for m in (model, again))
    assert torch.equal(one, two)


def test_a_model_that_follows_another_path_keeps_its_condition():
    model = _path_model(UNET)(cond_features=3, drop_cond=0.1)
    assert model.follow(pf.paths.Cosine()).conditioning == model.conditioning


def test_masks_and_pixels_are_numbers():
    model, mask = _path_model(UNET)(cond_image=(1, 4, 4)), torch.rand(3, 1, 4, 4) < 0.5
    x, seed = torch.randn(3, 1, 4, 4), lambda: torch.Generator().manual_seed(0)
    assert torch.equal(model.loss(x, mask, generator=seed()), model.loss(x, mask.float(), generator=seed()))
    assert torch.equal(model.loss(x, mask.byte(), generator=seed()), model.loss(x, mask.float(), generator=seed()))


def test_a_network_of_ones_own_states_what_stands_for_no_condition():
    """Here a row of zeros, which it receives for each condition that training drops."""
    received = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(5, 2)

        def forward(self, x, t, cond=None):
            received.append(cond)
            return self.layer(torch.cat((x, x.new_zeros(len(x), 3) if cond is None else cond), 1))

    model = pf.families.PathModel(Net(), (2,), cond_features=3, drop_cond=0.5, null=torch.zeros(1, 3))
    model.loss(torch.randn(100, 2), torch.ones(100, 3), generator=torch.Generator().manual_seed(0))
    rows = received[0].unique(dim=0)
    assert rows.tolist() == [[0.0] * 3, [1.0] * 3]
    assert model.sample(4, torch.ones(4, 3), guidance=2.0, sampler=Euler(1)).shape == (4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _path_model(UNET)(classes=2, cond_features=3),
            "classes is 2 and cond_features is 3, but a condition is labels, vectors or",
        ),
        (lambda: _path_model(UNET)(cond_features=0), "cond_features is 0"),
        (lambda: _path_model(UNET)(cond_image=(4,)), r"cond_image is \(4,\), but an image has"),
        (lambda: _path_model(UNET)(cond_image=(1, 0, 4)), r"cond_image is \(1, 0, 4\)"),
        (lambda: _path_model(UNET)(cond_image=(1, 4, 6)), r"cond_image is \(1, 4, 6\), but x has the sides \(4, 4\)"),
        (lambda: _path_model(pf.nn.MLP.Config(cond_features=2))(cond_features=3), "cond_features is 3, but the network's is 2"),
        (lambda: _path_model(pf.nn.MMDiT.Config())(cond_image=(1, 4, 4)), "cond_image is .*, but MMDiT reads text"),
        (lambda: _path_model(UNET)(cond_features=3).sample(2), r"cond is None, but this model needs vectors \(2, 3\), one per row; only a"),
        (lambda: _path_model(UNET)(cond_features=3).sample(2, torch.zeros(2, 3), guidance=2.0), "drop_cond is 0, so no training without"),
        (
            lambda: _path_model(UNET)(cond_features=3).sample(2, torch.tensor([0, 1])),
            r"torch.int64 of shape \(2,\), .* needs vectors \(2, 3\)",
        ),
        (
            lambda: _path_model(UNET)(classes=3).sample(2, torch.zeros(2, 3)),
            r"of shape \(2, 3\), but this model needs integer labels \(2,\)",
        ),
        (lambda: _path_model(UNET)().sample(2, torch.zeros(2, 3)), "was built without conditions; build it with cond_features=3"),
        (lambda: _glow(cond_image=(1, 3, 3)), r"cond_image is \(1, 3, 3\), but x has the sides \(2, 2\)"),
        (
            lambda: _glow().sample(2, torch.zeros(2, 1, 4, 4)),
            r"this flow was built without conditions; build it with cond_image=\(1, 4, 4\)",
        ),
    ],
)
def test_a_condition_of_the_wrong_kind_is_one_sentence(call, message):
    with pytest.raises((ConditionError, UserError), match=message):
        call()


def test_a_network_whose_configuration_knows_no_such_conditions_is_refused():
    class Old(NetConfig):
        name = "nn.Old"

        def build(self, shape, classes=None, outputs=1):
            return pf.nn.MLP(2, 2, (4,), time_features=2)

    with pytest.raises(ConditionError, match="cond_features is 3, but Old reads no such conditions; use UNet or DiT"):
        pf.models.rectified_flow(Old(), (2,), cond_features=3)
