"""The tensors of one folder of diffusers: safetensors, or the older .bin, whose pickle is read without running code."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from pushforward._files import regular
from pushforward.errors import CheckpointError, PushforwardError
from pushforward.formats.saved_file import load_saved
from pushforward.formats.sd3_find import folder_part
from pushforward.formats.tensor_file import Stored

BIN = "diffusion_pytorch_model.bin"


class Tensors:
    """Named tensors of a folder; of safetensors only the header is read before `tensor` asks for one.

    Args:
        folder: the folder, with diffusion_pytorch_model.safetensors (or shards of it), or diffusion_pytorch_model.bin.

    Raises:
        CheckpointError: there is none, or it is damaged or holds anything but tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.where = folder
        self._stored: Stored | None = None
        self._loaded: dict[str, Tensor] = {}
        if (folder / BIN).is_file() and not any(folder.glob("*.safetensors*")):
            self._loaded = _unpickled(folder / BIN)
        else:
            self._stored = folder_part(folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded if self._stored is None else self._stored)

    def __contains__(self, name: str) -> bool:
        return name in (self._loaded if self._stored is None else self._stored)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, memory-mapped where it can be."""
        return self._loaded[name] if self._stored is None else self._stored.mapped(name)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless there is a tensor of floats of this name and shape.

        Raises:
            CheckpointError: it is missing, or another one.
        """
        if name not in self:
            raise CheckpointError(f"{self.where} lacks the tensor {name}; download it again, or convert it again.")
        if self._stored is None:
            found, dtype = tuple(self._loaded[name].shape), self._loaded[name].dtype
        else:
            found, dtype = self._stored.shape(name), self._stored.entry(name).dtype
        if found != shape:
            raise CheckpointError(f"{self.where}: {name} is {found}, but its config.json describes {shape}; download both again.")
        if not dtype.is_floating_point:
            raise CheckpointError(f"{self.where}: {name} is stored as {dtype}, but weights are floats; convert the file to float32.")


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that torch.save wrote, by torch's reader of weights alone, which runs no code."""
    try:
        read = load_saved(regular(path, CheckpointError))
    except PushforwardError:
        raise
    except Exception as error:  # a damaged pickle fails in many ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path} is not a file of weights alone ({reason}); convert it to .safetensors.") from None
    if not isinstance(read, dict) or not all(isinstance(key, str) and type(one) is Tensor for key, one in read.items()):
        raise CheckpointError(f"{path} holds something other than tensors by name; convert it to .safetensors.")
    return read
