"""The autoencoder of latent diffusion as a model: its loss by hand, units, scale, runs, and what it refuses."""

import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import NotInvertibleError, ShapeError, UserError
from pushforward.families.autoencoding import gaussian_kl

SMALL = {"latent_channels": 2, "widths": (4, 8), "groups": 2}


def build(channels=3, **options):
    return pf.models.autoencoder_kl((channels, 8, 8), **{**SMALL, **options})


def drawn(model, x, seed):
    """Return (mean, log-variance, reconstruction) of images in [-1, 1] with the noise of a loss."""
    mean, log_variance = model.moments(x)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    return mean, log_variance, model.decoder(mean + (0.5 * log_variance).exp() * noise)


def test_the_kl_term_is_that_of_torchs_distributions():
    mean, log_variance = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    known = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), known)
    model, x = build(), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model.kl(x), gaussian_kl(*model.moments(2 * x - 1)))


@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_the_loss_is_its_formula(reconstruction):
    """Per number of the image, of which there are 192: reconstruction and KL are sums over it; a distance counts as it is."""

    def brightness(x, y):
        return (x.mean((1, 2, 3)) - y.mean((1, 2, 3))).square()

    model = build(reconstruction=reconstruction, kl_weight=0.3, perceptual=brightness, perceptual_weight=2.0)
    x = torch.rand(4, 3, 8, 8)
    mean, log_variance, y = drawn(model, 2 * x - 1, 5)
    errors = (2 * x - 1 - y).abs() if reconstruction == "l1" else (2 * x - 1 - y).square()
    by_hand = (errors.sum() + 0.3 * gaussian_kl(mean, log_variance).sum()) / (4 * 192) + 2.0 * brightness(2 * x - 1, y).mean()
    torch.testing.assert_close(model.loss(x, generator=torch.Generator().manual_seed(5)), by_hand)


def test_a_perceptual_distance_may_be_a_scalar_or_of_features_and_is_no_part_of_the_model():
    features = nn.Conv2d(3, 4, 3)
    model = build(perceptual=pf.nn.FeatureDistance(features))
    plain = build(perceptual=lambda x, y: (x - y).abs().mean(), perceptual_weight=0.0)
    assert list(model.state_dict()) == list(plain.state_dict())
    model.loss(torch.rand(2, 3, 8, 8)).backward()
    assert features.weight.grad is None
    assert all(p.grad is not None for p in model.parameters())
    assert model.config["model"]["perceptual"] is None
    with pytest.raises(UserError, match=r"perceptual returned a value of shape \(2, 4, 6, 6\) for 2 pairs .* give nn.FeatureDistance"):
        build(perceptual=lambda x, y: features(y)).loss(torch.rand(2, 3, 8, 8))


def test_features_are_compared_by_their_directions():
    """Two positions: at one the directions are equal, at the other at right angles, whose squared distance is 2. Two layers add."""
    x, y = torch.tensor([[[3.0, 1.0]], [[0.0, 0.0]]])[None], torch.tensor([[[5.0, 0.0]], [[0.0, 2.0]]])[None]
    distance = pf.nn.FeatureDistance(lambda images: [images, images.flatten(2)])
    torch.testing.assert_close(distance(x, y), torch.tensor([2.0]))
    leaf_x, leaf_y = torch.randn(2, 3, 2, 2, requires_grad=True), torch.randn(2, 3, 2, 2, requires_grad=True)
    distance(leaf_x, leaf_y).sum().backward()
    assert leaf_x.grad is None
    assert leaf_y.grad.abs().sum() > 0
    assert float(pf.nn.FeatureDistance(lambda images: images.flatten(1))(x, x)) == 0
    with pytest.raises(UserError, match=r"features returned .* for 1 images, but it must return tensors \(1, channels, ...\)"):
        pf.nn.FeatureDistance(lambda images: images.mean())(x, y)


def test_levels_are_centred_and_samples_lie_in_their_cells():
    """Level k of 256 is 2 k / 255 - 1, anywhere in its cell; what is decoded at that value is in the cell of k."""
    model = build(levels=256)
    levels = torch.randint(0, 256, (2, 3, 8, 8)).float()
    torch.testing.assert_close(model.centred(levels + 0.7), 2 * levels / 255 - 1)
    torch.testing.assert_close(model.encode(levels), model.autoencoder().encode(2 * levels / 255 - 1))
    torch.testing.assert_close(model.preprocess.inverse(model.centred(levels))[0].floor(), levels)
    torch.testing.assert_close(build(preprocess="none").centred(levels), levels)


def test_latents_are_scaled_by_what_was_trained_on():
    torch.manual_seed(0)
    x, model = torch.rand(100, 3, 8, 8), build()
    trainer = pf.Trainer(model, x, steps=3, batch_size=16, validation=x[:20], ema=0.5).fit()
    for trained in (trainer.model, trainer.averaged_model, trainer.best_model):
        z = trained.eval().encode(x)
        torch.testing.assert_close((z.mean(), z.std(correction=0)), (torch.tensor(0.0), torch.tensor(1.0)), rtol=0, atol=1e-5)
    vae = trainer.best_model.autoencoder()
    assert not vae.training
    torch.testing.assert_close(vae.encode(2 * x - 1), z)
    torch.testing.assert_close((vae.decode(z) + 1) / 2, trainer.best_model.decode(z))
    half = trainer.best_model.autoencoder(torch.utils.data.TensorDataset(x[:50])).encode(2 * x[:50] - 1)
    torch.testing.assert_close((half.mean(), half.std(correction=0)), (torch.tensor(0.0), torch.tensor(1.0)), rtol=0, atol=1e-5)


def test_a_run_keeps_the_scale_and_a_resumed_one_ends_with_the_same_bits(tmp_path):
    x = torch.rand(64, 3, 8, 8)
    options = {"batch_size": 16, "validation": x[:16], "checkpoint_every": 2}
    torch.manual_seed(1)
    whole = pf.Trainer(build(), x, out=tmp_path / "whole", steps=4, **options).fit()
    torch.manual_seed(1)

    class Stop(pf.training.Callback):
        def on_save(self, trainer, folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pf.Trainer(build(), x, out=tmp_path / "parts", steps=4, callbacks=[Stop()], **options).fit()
    parts = pf.Trainer(build(), x, out=tmp_path / "parts", steps=4, resume=True, **options).fit()
    for name, tensor in whole.averaged_model.state_dict().items():
        assert torch.equal(tensor, parts.averaged_model.state_dict()[name]), name
    for weights in ("ema", "raw"):
        z = pf.load(tmp_path / "whole", weights, "last").encode(x)
        torch.testing.assert_close(z.std(correction=0), torch.tensor(1.0), rtol=0, atol=1e-5)
    saved = pf.load(pf.save(whole.best_model, tmp_path / "saved"))
    torch.testing.assert_close(saved.encode(x), whole.best_model.encode(x), rtol=0, atol=0)


@pytest.mark.slow
def test_training_improves_reconstructions_and_they_are_measured():
    torch.manual_seed(0)
    train, test = pf.data.load("digits"), pf.data.load("digits", "test")
    model = pf.models.autoencoder_kl((1, 8, 8), 4, (16, 32), levels=17)
    before = pf.evaluation.reconstruction(model, test)
    trained = pf.Trainer(model, train, steps=60, batch_size=64, lr=3e-3, warmup=5, ema=0).fit().model
    found = pf.evaluation.reconstruction(trained, test)
    assert found.psnr > before.psnr + 3
    x = test.x
    y = 2 * (trained.reconstruct(x) - 0.5) / 16 - 1
    error = (y.clamp(-1, 1) - (2 * x / 16 - 1)) / 2
    assert found.psnr == pytest.approx(-10 * math.log10(float(error.square().mean())), rel=1e-4)
    assert found.mean_absolute_error == pytest.approx(float(error.abs().mean()), rel=1e-4)
    assert found.kl_per_dimension == pytest.approx(float(trained.kl(x).mean()) / 64, rel=1e-4)
    assert (found.latent_shape, found.images) == ((4, 4, 4), len(test))
    with pytest.raises(UserError, match="model is a NormalizingFlow, whose reconstructions are exact"):
        pf.evaluation.reconstruction(pf.models.nice(2), test)


@pytest.mark.slow
def test_the_commands_take_it_as_any_preset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train = ["train", "autoencoder_kl", "--data", "digits", "--out", "run", "--steps", "4", "--batch-size", "32", "--checkpoint-every", "2"]
    assert main([*train, "--widths", "4", "8", "--groups", "2", "--validate-every", "4"]) == 0
    assert (tmp_path / "run/samples/step-000004.png").exists()
    assert main(["evaluate", "run", "--samples", "20", "--compared", "20"]) == 0
    printed = capsys.readouterr().out
    assert "PSNR" in printed
    assert "nats per number of a latent" in printed
    found = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert found["reconstruction"]["latent_shape"] == [4, 4, 4]
    assert found["likelihood"] == []
    assert "Reconstructions</h2>" in (tmp_path / "run/report.html").read_text()
    assert main(["sample", "run", "-n", "4", "--out", "samples.npz"]) == 0
    capsys.readouterr()
    assert main(["sample", "run", "--sampler", "euler"]) == 2
    assert "an autoencoder has no use for it, as its decoder is one pass" in capsys.readouterr().err


def test_it_is_described_and_has_settings_of_its_own():
    found = pf.evaluation.explain({"own": build()}, torch.rand(2, 3, 8, 8))
    assert found["map"]["own"] == "an encoder and a decoder, which approximates its inverse"
    assert (found["latent"]["own"], found["likelihood"]["own"]) == ("32 numbers for 192", "none")
    chosen = pf.training.defaults("autoencoder_kl", pf.data.load("digits"))
    assert (chosen.model, chosen.training) == ({}, {"batch_size": 16, "lr": 2e-3})


def test_a_training_step_in_bfloat16_is_close_to_one_in_float32():
    x = torch.rand(16, 3, 8, 8)
    losses = []
    for precision in ("float32", "bf16"):
        torch.manual_seed(0)
        losses.append(pf.Trainer(build(), x, validation=x, steps=2, batch_size=16, precision=precision).fit().best)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_what_an_autoencoder_cannot_be_is_refused_by_name():
    for call, error, message in (
        (lambda: pf.models.autoencoder_kl((2,)), ShapeError, r"shape is \(2,\), but the autoencoder is for images \(channels, height"),
        (lambda: pf.models.autoencoder_kl((1, 28, 28), widths=(8, 8, 8, 8)), ShapeError, "4 widths need sides divisible by 8"),
        (lambda: build(reconstruction="l3"), UserError, "reconstruction is 'l3', but it is 'l1' or 'l2'"),
        (lambda: build(kl_weight=-1.0), UserError, "kl_weight is -1.0, but it must be at least 0"),
        (lambda: build(preprocess="logit"), UserError, "preprocess is 'logit', but it is 'centred' or 'none'"),
        (lambda: build().initialise(torch.full((2, 3, 8, 8), 3.0)), UserError, r"numbers from 3 to 3, but without levels .* levels=256"),
        (lambda: build().log_prob(torch.rand(2, 3, 8, 8)), NotInvertibleError, "fewer numbers .* so the model has no log_prob"),
        (lambda: build().map(), NotInvertibleError, "an autoencoder has no map"),
        (lambda: build().decode(torch.zeros(1, 2, 8, 8)), ShapeError, r"z has shape \(1, 2, 8, 8\), .* needs \(n, 2, 4, 4\)"),
    ):
        with pytest.raises(error, match=message):
            call()
