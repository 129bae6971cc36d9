"""The options --image and --mask of `pushforward generate`: read upright, and checked against those that need them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image

from pushforward._images import upright
from pushforward.errors import UserError
from pushforward.sd3.png import loaded

Picture = PIL.Image.Image | None


def pictures_of(options: Any) -> Mapping[str, Picture]:
    """Return the image and the mask of `generate`, or None.

    Raises:
        UserError: an option needs an image and there is none, or their sizes differ.
    """
    given: dict[str, Path | None] = {"image": options.image, "mask": options.mask}
    read = {name: None if path is None else upright(loaded(path, f"--{name}")) for name, path in given.items()}
    image, mask = read["image"], read["mask"]
    if image is None:
        for name, value in (("--mask", mask), ("--strength", options.strength)):
            if value is not None:
                raise UserError(f"{name} is given without an image; give --image too, or leave it out.")
        return read
    width, height = image.size
    if (options.height or height, options.width or width) != (height, width):
        raise UserError(f"--image is {height}x{width} (height x width), but --height or --width differ; resize it, or leave them out.")
    if mask is not None and mask.size != image.size:
        raise UserError(f"--mask is {mask.height}x{mask.width}, but --image is {height}x{width} (height x width); resize it.")
    return read
