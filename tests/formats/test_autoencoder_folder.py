"""An autoencoder on its own: written as diffusers keeps it, read from there, from a pipeline's folder and from a single file."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.formats.autoencoder_folder import read_autoencoder_of, write_autoencoder_folder
from pushforward.formats.sd3 import SD3Files

SIZES = {"latent_channels": 4, "widths": (8, 16), "blocks": 1, "groups": 4}


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return pf.nn.AutoencoderKL(3, **SIZES, scale=2.0, shift=0.3).eval()


def test_a_folder_restores_the_autoencoder_and_diffusers_reads_it(vae, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    folder, x = write_autoencoder_folder(tmp_path / "vae", vae), 2 * torch.rand(2, 3, 8, 8) - 1
    read = read_autoencoder_of(folder)
    assert (read.scale, read.shift) == (2.0, 0.3)
    with torch.no_grad():
        assert torch.equal(read.encode(x), vae.encode(x))
        there = diffusers.AutoencoderKL.from_pretrained(str(folder)).eval()
        torch.testing.assert_close(there.encode(x).latent_dist.mean, vae.encode(x) / vae.scale + vae.shift, rtol=0, atol=1e-5)


def test_a_pipelines_folder_and_a_single_file_hold_one_too(vae, tmp_path):
    x = 2 * torch.rand(1, 3, 8, 8) - 1
    pf.formats.write_sd3(tmp_path / "pipeline", SD3Files(vae=vae), "diffusers")
    pf.formats.write_sd3(tmp_path / "vae.safetensors", SD3Files(vae=pf.nn.AutoencoderKL(3, 4, (32, 64), blocks=1)))
    with torch.no_grad():
        assert torch.equal(read_autoencoder_of(tmp_path / "pipeline").encode(x), vae.encode(x))
    assert read_autoencoder_of(tmp_path / "vae.safetensors").widths == (32, 64)


def test_what_holds_none_is_refused_by_name(vae, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(NoCheckpointError, match="other holds no autoencoder"):
        read_autoencoder_of(tmp_path / "other")
    with pytest.raises(NoCheckpointError, match="there is no file or folder"):
        read_autoencoder_of(tmp_path / "nothing")
    with pytest.raises(UserError, match="other"):
        write_autoencoder_folder(tmp_path / "other", vae)
    folder = write_autoencoder_folder(tmp_path / "vae", vae)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\x08")
    with pytest.raises(CheckpointError):
        read_autoencoder_of(folder)
