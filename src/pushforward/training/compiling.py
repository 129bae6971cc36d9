"""torch.compile and its prerequisites."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel


def compile_networks(model: GenerativeModel, device: torch.device, blocks: Sequence[nn.Module] = ()) -> None:
    """Compile the networks of a model in place.

    Args:
        model: the model.
        device: where it trains.
        blocks: what is compiled in their place, one by one: of a sharded model, whose weights are gathered between them.

    Raises:
        UserError: on a CPU, when the linker cannot find torch (see `obstacle`).
    """
    why = obstacle() if device.type == "cpu" else ""
    if why:
        raise UserError(f"compile=True: {why}; or train without compile")
    for block in blocks:
        block.forward = torch.compile(block.forward)  # not its call, whose hooks gather the weights
    for network in () if blocks else model.networks():
        network.compile()


def obstacle() -> str:
    """Return why torch.compile cannot work on the CPU, or '': torch passes its own path to the linker unquoted."""
    folder = str(Path(torch.__file__).parent)
    if not any(letter.isspace() for letter in folder):
        return ""
    return (
        f"torch.compile cannot link on the CPU, because the path of torch, {folder!r}, contains a space: "
        "create the environment in a folder without one"
    )
