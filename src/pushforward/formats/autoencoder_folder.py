"""An autoencoder on its own, as diffusers keeps it in the folder vae of a pipeline: config.json and safetensors."""

from pathlib import Path

import torch

from pushforward.errors import NoCheckpointError
from pushforward.formats.files import check_replaceable, write_folder
from pushforward.formats.sd3_find import folder_part, layout_of, open_tensors, read_json, shapes_checked, split
from pushforward.formats.sd3_parts import read_autoencoder
from pushforward.formats.sd3_stated import read_stated
from pushforward.formats.sd3_write import fill_autoencoder
from pushforward.formats.tensor_file import Stored
from pushforward.nn.autoencoder_kl import AutoencoderKL

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


def check_autoencoder_folder(folder: Path) -> None:
    """Raise unless an autoencoder may be written here.

    Raises:
        UserError: the folder holds anything else.
    """
    check_replaceable(folder, (CONFIG, WEIGHTS), CONFIG)


def write_autoencoder_folder(folder: Path, vae: AutoencoderKL) -> Path:
    """Write an autoencoder to a folder that diffusers' AutoencoderKL.from_pretrained and `read_autoencoder_of` read, atomically.

    Raises:
        UserError: the folder holds anything else.
    """
    check_autoencoder_folder(folder)
    write_folder(folder, lambda temporary: fill_autoencoder(temporary, vae), manifest=False)
    return folder


def read_autoencoder_of(path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> AutoencoderKL:
    """Return the autoencoder in a folder of diffusers, its own or a pipeline's, or in a single file of Stable Diffusion 3.

    Raises:
        NoCheckpointError: there is none.
        CheckpointError: it is damaged.
    """
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        if not (folder / CONFIG).is_file():
            raise NoCheckpointError(
                f"{path} holds no autoencoder: it has no folder vae and no {CONFIG}; give a run of autoencoder_kl, a folder of diffusers, "
                "or a .safetensors file."
            )
        stored, config = folder_part(folder), read_json(folder / CONFIG)
    elif path.is_file():
        parts = split(Stored.of(path, {path: open_tensors(path)}))
        if "vae" not in parts:
            raise NoCheckpointError(f"{path} has no autoencoder; give a file that has one.")
        stored, config = parts["vae"], read_stated({"vae": parts["vae"]}).get("vae", {})
    else:
        raise NoCheckpointError(f"there is no file or folder {path}; give a run of autoencoder_kl, a folder of diffusers, or a file.")
    with shapes_checked(f"{path}: the autoencoder"):
        return read_autoencoder(stored, layout_of(stored), config, dtype, device)
