"""Linear previews of latents, and a trained autoencoder as Stable Diffusion 3's."""

import pytest
import torch
import torch.nn.functional as F
from packages import package
from torch import nn

import pushforward as pf
from pushforward.errors import CheckpointError, ShapeError, UserError
from pushforward.sd3.latent_preview import cached_preview

diffusers = package("diffusers")


class Linear(nn.Module):
    """An autoencoder whose latents are a known linear map of the means of 4 by 4 pixels."""

    factor, scale, shift, latent_channels, channels = 4, 1.0, 0.0, 5, 3

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(5, 3))

    def encode(self, images):
        return torch.einsum("dc,nchw->ndhw", self.mix, F.avg_pool2d(images, 4)) + 0.3


def test_of_a_linear_autoencoder_it_is_exact():
    """5 channels determine 3 colours: the map is a left inverse, whichever of them least squares finds."""
    vae, images = Linear(), 2 * torch.rand(6, 3, 16, 16) - 1
    preview = pf.sd3.fit_preview(vae, images, batch_size=4)
    new = 2 * torch.rand(2, 3, 16, 16) - 1
    torch.testing.assert_close(preview(vae.encode(new)), F.avg_pool2d(new, 4) / 2 + 0.5, rtol=0, atol=1e-5)
    with pytest.raises(ShapeError, match=r"latents has shape \(1, 4, 2, 2\), but this preview needs \(n, 5, height, width\)"):
        preview(torch.zeros(1, 4, 2, 2))
    with pytest.raises(UserError, match="images holds no images"):
        pf.sd3.fit_preview(vae, [])


@pytest.mark.parametrize("layout", ["folder", "single"])
def test_it_is_kept_beside_the_autoencoder(copied, layout):
    path = copied(layout)
    model = pf.StableDiffusion3.from_pretrained(path, text_encoders=None)
    assert model.pictures.preview is None
    preview = pf.sd3.fit_preview(model.vae, 2 * torch.rand(4, 3, 32, 32) - 1)
    preview.save(path)
    again = pf.StableDiffusion3.from_pretrained(path)
    latents = torch.randn(1, again.vae.latent_channels, 4, 4)
    torch.testing.assert_close(again.pictures(latents, "linear"), preview(latents))
    with torch.no_grad():
        model.vae.decoder.last.bias.add_(1)
    with pytest.raises(CheckpointError, match="was fitted to another autoencoder"):
        cached_preview(path, model.vae)


def test_diffusers_reads_a_trained_autoencoder(tmp_path):
    torch.manual_seed(0)
    images = torch.rand(16, 3, 16, 16)
    model = pf.models.autoencoder_kl((3, 16, 16), 4, (8, 16, 16), groups=4)
    vae = pf.Trainer(model, images, steps=2, batch_size=8).fit().model.autoencoder()
    folder = pf.formats.write_sd3(tmp_path / "sd3", pf.formats.SD3Files(vae=vae), "diffusers")
    other = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    x = 2 * images - 1
    with torch.no_grad():
        latents = (other.encode(x).latent_dist.mode() - other.config.shift_factor) * other.config.scaling_factor
        torch.testing.assert_close(vae.encode(x), latents, rtol=0, atol=1e-4)
        decoded = other.decode(latents / other.config.scaling_factor + other.config.shift_factor).sample
        torch.testing.assert_close(vae.decode(latents), decoded, rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(correction=0), torch.tensor(1.0), rtol=0, atol=1e-4)
    read = pf.formats.read_sd3(folder, parts=("vae",)).vae
    torch.testing.assert_close(read.encode(x), vae.encode(x))
