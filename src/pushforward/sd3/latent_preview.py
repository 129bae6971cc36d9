"""Small previews of latents without the decoder: a linear map from their channels to colours, in a file next to the autoencoder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward._checks import shown
from pushforward.errors import CheckpointError, ShapeError, UserError
from pushforward.formats.files import write_text
from pushforward.formats.sd3_find import read_json
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.registry import export
from pushforward.sd3.cache_files import fingerprint_of
from pushforward.sd3.images import finished

FILE = "latent_preview.json"


@export("sd3.Preview")
@dataclass(frozen=True, eq=False)
class Preview:
    """A linear map from latents to images of the latents' height and width, as `sd3.fit_preview` returns it.

        image = latents weight + bias    at each position, from -1 to 1

    Args:
        weight: (latent channels, channels of an image).
        bias: (channels of an image,).
        vae: fingerprint of the autoencoder's weights, "" if unknown.
    """

    weight: Tensor
    bias: Tensor
    vae: str = ""

    def __call__(self, latents: Tensor) -> Tensor:
        """Return images (n, channels, height, width) in [0, 1] of latents (n, latent channels, height, width)."""
        if latents.ndim != 4 or latents.shape[1] != len(self.weight):
            raise ShapeError(f"latents has shape {tuple(latents.shape)}, but this preview needs (n, {len(self.weight)}, height, width).")
        weight, bias = self.weight.to(latents), self.bias.to(latents)
        return finished(torch.einsum("nchw,cd->ndhw", latents, weight) + bias[:, None, None])

    def save(self, model: str | Path) -> Path:
        """Write it next to the autoencoder of a saved Stable Diffusion 3, whose `from_pretrained` then uses it, and return the file.

        Args:
            model: a folder of diffusers, or a single .safetensors file.
        """
        file = _file_of(Path(model))
        if not file.parent.is_dir():
            raise UserError(f"{model} is no saved Stable Diffusion 3 with an autoencoder; save the model first.")
        write_text(file, json.dumps({"weight": self.weight.tolist(), "bias": self.bias.tolist(), "vae": self.vae}) + "\n")
        return file


@export("sd3.fit_preview")
@torch.no_grad()
def fit_preview(vae: AutoencoderKL, images: Any, *, batch_size: int = 16) -> Preview:
    """Fit a linear preview to an autoencoder's own encodings of images by least squares.

        minimise sum |latents(image) weight + bias - area average of the image|^2

    Args:
        vae: the autoencoder.
        images: (n, channels, height, width) in [-1, 1], or an iterable of such batches; a hundred images suffice.
        batch_size: images that are encoded together.

    Returns:
        The preview, in float32.

    Raises:
        UserError: there are no images.

    Example:
        >>> vae = pf.nn.AutoencoderKL(latent_channels=4, widths=(4, 8), blocks=1, groups=2)
        >>> preview = fit_preview(vae, 2 * torch.rand(2, 3, 16, 16) - 1)
        >>> preview(torch.randn(1, 4, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """
    batches = images.split(batch_size) if isinstance(images, Tensor) else images
    like = next(vae.parameters())
    pairs = ((vae.encode(x.to(like)), F.avg_pool2d(x.float(), vae.factor)) for x in batches)
    return least_squares(pairs, fingerprint_of(vae))


def least_squares(pairs: Iterable[tuple[Tensor, Tensor]], vae: str = "") -> Preview:
    """Return the linear map that is closest to pairs of latents (n, latent channels, h, w) and images (n, channels, h, w) in [-1, 1].

    Raises:
        UserError: there are none.
    """
    gram = cross = None
    for latents, images in pairs:
        known = torch.cat((latents, torch.ones_like(latents[:, :1])), dim=1).detach().cpu().double().movedim(1, -1).flatten(0, 2)
        seen = images.detach().cpu().double().movedim(1, -1).flatten(0, 2)
        gram, cross = known.T @ known + (0 if gram is None else gram), known.T @ seen + (0 if cross is None else cross)
    if gram is None or cross is None:
        raise UserError("images holds no images, but a preview is fitted to some; give a hundred.")
    solution = torch.linalg.lstsq(gram, cross, driver="gelsd").solution.float()
    return Preview(solution[:-1], solution[-1], vae)


def cached_preview(model: str | Path, vae: AutoencoderKL) -> Preview | None:
    """Return the preview that is kept next to a saved model, or None if there is none.

    Raises:
        CheckpointError: it belongs to another autoencoder, or is damaged.
    """
    file = _file_of(Path(model))
    if not file.is_file():
        return None
    held = read_json(file)
    if held.get("vae") != fingerprint_of(vae):
        raise CheckpointError(f"{file} was fitted to another autoencoder; remove it, or fit it again with sd3.fit_preview.")
    try:
        weight, bias = torch.tensor(held["weight"]), torch.tensor(held["bias"])
        fits = weight.shape == (vae.latent_channels, vae.channels) and bias.shape == (vae.channels,)
        fits = fits and all(bool(one.isfinite().all()) for one in (weight, bias))
    except (
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as error:  # RuntimeError: of torch, for a mapping in the place of a number
        raise CheckpointError(f"{file} is damaged ({shown(error)}); remove it.") from None
    if not fits:
        raise CheckpointError(f"{file} is damaged: its weight has shape {tuple(weight.shape)}; remove it.")
    return Preview(weight, bias, held["vae"])


def _file_of(model: Path) -> Path:
    return model.with_name(f"{model.stem}.{FILE}") if model.suffix == ".safetensors" else model / "vae" / FILE
