"""Models of Stable Diffusion 3 from the Hugging Face Hub."""

from pathlib import Path

from pushforward.errors import UserError
from pushforward.formats.hub import downloaded, hub_errors, is_hub_id

EXAMPLE = "stabilityai/stable-diffusion-3.5-medium"
# Only the diffusers folder of a repository: safetensors weights (pickles are not downloaded), in full precision if there are two
# variants, without the single file at the top level and the duplicate encoders next to it.
WANTED = ["model_index.json", *(f"*/*.{ending}" for ending in ("json", "txt", "model", "safetensors"))]
LEFT = ["text_encoders/*", "*.fp16*"]


def local(path: str | Path) -> Path:
    """Return the local path of a model: a file or folder unchanged, the downloaded diffusers folder of a Hub id.

    Raises:
        UserError: there is no such file, folder or repository, or it is gated; the message explains how to log in.
    """
    here, name = Path(path).expanduser(), str(path)
    check_place(path)
    if here.exists():
        return here
    with hub_errors(name, "the model", "download it elsewhere and give its folder or its .safetensors file"):
        return Path(downloaded(name, WANTED, LEFT))


def check_place(path: str | Path) -> None:
    """Raise unless a path exists or may be a Hub id; nothing is downloaded.

    Raises:
        UserError: it does not exist, and cannot be one.
    """
    name = str(path)
    if Path(path).expanduser().exists():
        return
    if isinstance(path, Path) or not is_hub_id(name) or name.endswith((".safetensors", ".ckpt")):
        raise UserError(f"{path} does not exist; give a .safetensors file, a diffusers folder, or a Hub id such as {EXAMPLE}.")
