"""torch.compile, and what has to be there for it."""

from pathlib import Path

import torch

from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel


def compile_networks(model: GenerativeModel, device: torch.device) -> None:
    """Compile the networks of a model in place.

    Raises:
        UserError: on a CPU, when the linker cannot find torch (see `obstacle`).
    """
    why = obstacle() if device.type == "cpu" else ""
    if why:
        raise UserError(f"compile=True: {why}; or train without compile")
    for network in model.networks():
        network.compile()


def obstacle() -> str:
    """Return why nothing can be compiled for the CPU, '' where nothing is in the way: torch hands the linker its path without quotes."""
    folder = str(Path(torch.__file__).parent)
    if not any(letter.isspace() for letter in folder):
        return ""
    return (
        f"torch.compile cannot link on the CPU, as there is a blank in torch's folder {folder!r}: "
        "make the environment in a folder without one"
    )
