"""Guidance by a measurement of pixels through Stable Diffusion 3's autoencoder, on random weights."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import ShapeError, UserError
from pushforward.guidance import DPS, MMPS, FlowDPS, PiGDM, PnPFlow
from pushforward.measurements import Downsample, Mask

SIZE = (64, 48)
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def model(tiny):
    return pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder)


@pytest.fixture(scope="module")
def y(model):
    """A low-resolution version of an image that the autoencoder can return."""
    latents = torch.randn(1, 16, 8, 6, generator=torch.Generator().manual_seed(3))
    return Downsample(8)(model.decoded(latents).detach() / 2 + 0.5)


def residual(model, y, **options):
    options = {"size": SIZE, "generator": 0, "guidance": None, "output": "latents", "tokens": 16} | options
    latents = model.sample(["a fox"] * 2, **options)
    assert latents.shape == (2, 16, 8, 6)
    return float((Downsample(8)(model.decoded(latents).detach() / 2 + 0.5) - y).square().mean().sqrt())


@pytest.mark.parametrize("method", [PnPFlow, *(pytest.param(one, marks=pytest.mark.slow) for one in (FlowDPS, MMPS, PiGDM, DPS))])
def test_images_agree_with_a_measurement_of_their_pixels(model, y, method):
    """The weights are random and the decoder is not linear, so that only the direction is known: a smaller residual than without y."""
    measurement = Downsample(8, 0.02)
    loop = method in (FlowDPS, PnPFlow)
    guidance = method(measurement, y[0], 2.0, steps=8) if loop else method(measurement, y[0], 2.0)
    guided = residual(model, y, guidance=guidance, **({} if loop else {"steps": 8}))
    assert guided < 0.8 * residual(model, y, steps=8)


def test_what_does_not_fit_is_refused_before_anything_is_computed(model, y, monkeypatch):
    monkeypatch.setattr(model.transformer, "forward", lambda *args, **options: pytest.fail("computed"))
    with pytest.raises(ShapeError, match="y has shape .* of an event of shape \\(3, 64, 48\\) measures \\(3, 16, 12\\)"):
        model.sample("a fox", size=SIZE, guidance=MMPS(Downsample(4), y[0]))
    with pytest.raises(UserError, match="is a loop of its own; leave sampler out"):
        model.sample("a fox", size=SIZE, guidance=FlowDPS(Downsample(8), y[0]), steps=4)
    with pytest.raises(UserError, match="a loop from noise, but an image is given"):
        model.sample("a fox", guidance=FlowDPS(Mask(), torch.zeros(3, *SIZE)), image=torch.zeros(1, 3, *SIZE))


def test_offloading_is_refused(tiny, y):
    model = pf.StableDiffusion3.from_pretrained(tiny("medium-3.5").folder, offload=True)
    with pytest.raises(UserError, match="load the model without offload"):
        model.sample("a fox", size=SIZE, guidance=FlowDPS(Downsample(8), y[0]))
