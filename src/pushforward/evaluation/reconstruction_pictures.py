"""Pictures of images next to their reconstructions."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.data.given import for_model
from pushforward.evaluation.pictures import picture_of
from pushforward.evaluation.quantise import quantise
from pushforward.families.autoencoder import Autoencoder
from pushforward.families.checks import device_of

ROWS = 5  # of pairs


@torch.no_grad()
def picture_of_reconstructions(model: Autoencoder, data: Any, path: Path, *, title: str = "", columns: int = 10) -> None:
    """Draw images spread over a data set, each above its reconstruction in eval mode.

    Args:
        model: the autoencoder.
        data: the images, of any kind that `evaluation.reconstruction` takes.
        path: the file.
        title: text above the picture.
        columns: pairs in a row.
    """
    data, training = for_model(data, model), model.training
    chosen = torch.linspace(0, len(data) - 1, min(ROWS * columns, len(data))).long()
    x = data.batch(chosen)[0].to(device_of(model), model.dtype)
    try:
        made = quantise(model.eval().reconstruct(x), model.levels)
    finally:
        model.train(training)
    picture_of(_in_turn(x.cpu(), made.cpu(), columns), path, levels=model.levels, title=title, columns=columns)


def _in_turn(x: Tensor, made: Tensor, columns: int) -> Tensor:
    """Return a row of images and a row of their reconstructions in turn; the last ones are filled up by the darkest value of all."""
    lacking = -len(x) % columns
    if lacking:
        x, made = (torch.cat((one, one.new_full((lacking, *one.shape[1:]), float(x.amin())))) for one in (x, made))
    rows = torch.stack((x.unflatten(0, (-1, columns)), made.to(x).unflatten(0, (-1, columns))), dim=1)
    return rows.flatten(0, 2)
