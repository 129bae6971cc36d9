"""The presets for images: their structure, what data start, and what is refused."""

import warnings

import pytest
import torch

from pushforward import bijections, models
from pushforward.errors import UserError
from pushforward.formats.model import load, save

PRESETS = [models.glow, models.realnvp_image]


def test_glow_is_levels_of_depth_steps_with_a_learned_prior_between():
    flow = models.glow(3, 16, 3, 5, 8)
    names = [[type(step).__name__ for step in level.steps] for level in flow.bijection.levels]
    step = ["ImageActNorm", "InvertibleConv", "ImageCoupling"]
    assert names == [["Squeeze", *5 * step, "ImageCoupling"], ["Squeeze", *5 * step, "ImageCoupling"], ["Squeeze", *5 * step]]
    assert [level.steps[1].channels for level in flow.bijection.levels] == [12, 24, 48]


def test_realnvp_ends_with_one_checkerboard_more():
    flow = models.realnvp_image(1, 8, 3, hidden=4)
    masks = [[one.mask for one in level.steps if isinstance(one, bijections.ImageCoupling)] for level in flow.bijection.levels]
    assert masks == [["checkerboard"] * 3 + ["channel"] * 3] * 2 + [["checkerboard"] * 4]


@pytest.mark.parametrize("preset", PRESETS)
def test_images_come_from_their_settings_alone_and_are_mapped_back(preset, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = preset(shape=(1, 8, 4), depth=1, hidden=4, values=17, classes=3)
    x, cond = torch.randint(17, (20, 1, 8, 4)).float(), torch.arange(20) % 3
    model.initialise(x, cond)
    assert (model.levels, model.shape) == (17, (1, 8, 4))
    assert isinstance(model.preprocess, bijections.Logit)
    z = model.encode(x + 0.5, cond)
    torch.testing.assert_close(model.decode(z, cond), x + 0.5, rtol=0, atol=1e-3)
    save(model, tmp_path / "model")
    twin = load(tmp_path / "model")
    assert torch.equal(twin.log_prob(x + 0.5, cond), model.log_prob(x + 0.5, cond))


@pytest.mark.parametrize("preset", PRESETS)
def test_condition_vectors_reach_the_couplings(preset):
    model = preset(2, 4, depth=1, hidden=4, cond_features=3)
    for p in model.bijection.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, cond = torch.randn(3, 2, 4, 4), torch.randn(3, 3)
    assert (model.log_prob(x, cond) != model.log_prob(x, -cond)).all()


def test_a_cold_sample_is_the_image_of_scaled_noise():
    model = models.glow(1, 4, depth=1, hidden=4)
    cold = model.sample(3, temperature=0.7, generator=torch.Generator().manual_seed(1))
    noise = model.base.sample(3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.encode(cold), 0.7 * noise)


def test_what_cannot_be_is_refused_by_name():
    for call, message in (
        (lambda: models.glow(1, 28, 3), r"levels is 3, which halves the height 3 times, but 28 allows 2 \(28 -> 14 -> 7\); give levels=2"),
        (lambda: models.glow(1, 7, 1), r"halves the height 1 time, but 7 allows 0 \(7\); pad or crop the images to an even size"),
        (lambda: models.realnvp_image(1, 28, 4), r"levels is 4, which halves the height 3 times.*give levels=3 at most"),
        (lambda: models.glow(shape=(3, 8, 6)), r"halves the width 2 times, but 6 allows 1 \(6 -> 3\); give levels=1 at most"),
        (lambda: models.glow(1, 8, 0), "levels is 0, but a flow has at least 1"),
        (lambda: models.glow(1, 8, 1, 0), "depth is 0, but a flow needs at least 1"),
        (lambda: models.glow(3), "channels is 3 and size is None, but a flow of images must know both"),
        (lambda: models.glow(shape=(2,)), r"shape is \(2,\), but this flow is for images \(channels, height, width\)"),
        (lambda: models.glow(2, shape=(1, 8, 8)), r"channels is 2 and size is None, but shape is \(1, 8, 8\)"),
        (lambda: models.glow(1, 8, preprocess="logit"), "preprocess is 'logit', but values is None"),
        (lambda: models.glow(1, 8, preprocess="log"), "preprocess is 'log', but it is 'auto'"),
        (lambda: models.glow(1, 8, mixing="lu"), "parametrisation is 'lu'"),
        (lambda: models.realnvp_image(1, 8, depth=0), "depth is 0"),
    ):
        with pytest.raises(UserError, match=message):
            call()
