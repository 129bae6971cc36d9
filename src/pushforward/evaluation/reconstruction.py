"""How well an autoencoder draws images again, and what its latents are like."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from pushforward.data.given import for_model
from pushforward.errors import UserError
from pushforward.families.autoencoder import Autoencoder
from pushforward.families.autoencoding import gaussian_kl
from pushforward.families.checks import device_of
from pushforward.registry import export


@dataclass(frozen=True)
class Reconstruction:
    """Errors of reconstructions, and statistics of latents.

    Args:
        psnr: peak signal-to-noise ratio in dB, -10 log10 of the mean squared error over all images, as a share of the range squared.
        psnr_error: its standard error over images, to first order.
        mean_absolute_error: mean absolute error as a share of the range.
        kl_per_dimension: mean KL of the latents' distribution from N(0, I), in nats per number of a latent.
        latent_mean: mean of all numbers of the latents, neither scaled nor shifted.
        latent_std: their standard deviation.
        latent_shape: shape of one latent.
        images: number of images.
    """

    psnr: float
    psnr_error: float
    mean_absolute_error: float
    kl_per_dimension: float
    latent_mean: float
    latent_std: float
    latent_shape: tuple[int, ...]
    images: int


@export("evaluation.reconstruction")
@torch.no_grad()
def reconstruction(model: Autoencoder, data: Any, *, batch_size: int = 256) -> Reconstruction:
    """Measure how close decode(encode(x)) is to held-out images x, and the statistics of their latents.

    Images are compared in the model's units, [-1, 1], after clipping reconstructions to them; levels are not rounded. The model is
    evaluated in eval mode; its mode is restored.

    Args:
        model: an autoencoder, such as that of `models.autoencoder_kl`.
        data: images, of any kind that `evaluation.bits_per_dim` takes.
        batch_size: images that are computed together.

    Returns:
        A frozen record of psnr, psnr_error, mean_absolute_error, kl_per_dimension, latent_mean, latent_std, latent_shape and images.

    Raises:
        UserError: the model is no autoencoder.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.autoencoder_kl((1, 8, 8), 2, (8, 16), levels=17)
        >>> pf.evaluation.reconstruction(model, pf.data.load("digits", "test")).latent_shape
        (2, 4, 4)
    """
    if not isinstance(model, Autoencoder):
        raise UserError(f"model is a {type(model).__name__}, whose reconstructions are exact up to its solver; give an autoencoder.")
    data, training = for_model(data, model), model.training
    squared = squared_twice = absolute = kl = total = squares = 0.0
    model.eval()
    try:
        for start in range(0, len(data), batch_size):
            x = data[start : start + batch_size][0].to(device_of(model), model.dtype)
            centred = model.centred(x)
            mean, log_variance = model.moments(centred)
            error = (model.decoder(mean).clamp(-1, 1) - centred).double() / 2
            each = error.square().flatten(1).mean(1)
            squared, squared_twice = squared + float(each.sum()), squared_twice + float(each.square().sum())
            absolute += float(error.abs().sum())
            kl += float(gaussian_kl(mean, log_variance).double().sum())
            total, squares = total + float(mean.double().sum()), squares + float(mean.double().square().sum())
    finally:
        model.train(training)
    numbers, latents = len(data) * math.prod(model.shape), len(data) * math.prod(model.latent_shape)
    mse = squared / len(data)
    psnr = math.inf if mse == 0 else -10 * math.log10(mse)
    mse_error = math.sqrt(max(squared_twice / len(data) - mse**2, 0.0) / max(len(data) - 1, 1))
    psnr_error = 0.0 if mse == 0 else 10 / math.log(10) * mse_error / mse
    std = math.sqrt(max(squares / latents - (total / latents) ** 2, 0.0))
    return Reconstruction(psnr, psnr_error, absolute / numbers, kl / latents, total / latents, std, model.latent_shape, len(data))
