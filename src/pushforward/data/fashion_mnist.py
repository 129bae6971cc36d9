"""Fashion-MNIST: small greyscale images of clothes, from Debian's package, local files, or the Hugging Face Hub.

Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms, 2017,
arXiv 1708.07747.
"""

import importlib.util
from pathlib import Path

import numpy
import torch

from pushforward.data.dataset import Dataset
from pushforward.data.idx import read_idx
from pushforward.data.splits import check_split, split_indices
from pushforward.errors import DamagedDataError, DataError
from pushforward.registry import export

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HUB_NAME = "hf:zalando-datasets/fashion_mnist"
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
VALIDATION = 12  # one in 12 official training examples: 5,000 of 60,000


@export("data.fashion_mnist", loader=True)
def fashion_mnist(split: str = "train", *, path: str | Path | None = None, seed: int = 0) -> Dataset:
    """Images of clothes, 28 by 28 pixels in 256 levels, 10 classes: 55,000 train, 5,000 validation and the official 10,000 test.

    Validation is a stratified twelfth of the official training examples, 500 of each class, selected by `seed`; test is the same for
    every seed. The files are read from `path`, else from the folder of Debian's package dataset-fashion-mnist, else from the
    Hugging Face Hub, if the package datasets is installed.

    Args:
        split: "train", "validation" or "test".
        path: a folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain
            or with the suffix .gz.
        seed: seed of the split into train and validation.

    Returns:
        The set with x (N, 1, 28, 28), integers 0 (black) to 255, and labels (N,) in 0 to 9.

    Raises:
        UserError: `split` is not one of the three.
        DataError: the files are not found, or one of them is invalid.

    Example:
        >>> from pushforward import data
        >>> data.fashion_mnist("test")  # doctest: +SKIP
        Dataset('fashion_mnist', 10000 examples, shape (1, 28, 28), 10 classes, 256 levels)

    Source: Xiao et al., 2017, arXiv 1708.07747.
    """
    check_split(split)
    part = "t10k" if split == "test" else "train"
    images, labels = _from_files(_folder(path), part) if path is not None or DEBIAN.is_dir() else _from_hub(part)
    x, cond = torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(numpy.int64))
    taken = 0 if split == "test" else len(x) // VALIDATION
    chosen = split_indices("train" if split == "test" else split, (len(x) - taken, taken, 0), seed if taken else 0, labels)
    return Dataset("fashion_mnist", x[chosen], cond[chosen], classes=len(CLASSES), levels=256, class_names=CLASSES)


def _folder(path: str | Path | None) -> Path:
    folder = DEBIAN if path is None else Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"path is {folder}, which is not a folder; give the one with the four files of Fashion-MNIST.")
    return folder


def _from_files(folder: Path, part: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    images = read_idx(_file(folder, f"{part}-images-idx3-ubyte"), 3)
    labels = read_idx(_file(folder, f"{part}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise DamagedDataError(f"{folder} has {len(images)} images but {len(labels)} labels in its files {part}-...; get them again.")
    return images, labels


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} has no file {name} (or {name}.gz); the four files of Fashion-MNIST must be in it.")


def _from_hub(part: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    how = "run apt-get install dataset-fashion-mnist, give path=FOLDER with its four files, or pip install 'pushforward[data]'"
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"fashion_mnist is not on this machine: {how}.")
    from pushforward.data.hub import load_parts

    try:
        table = load_parts(HUB_NAME)["test" if part == "t10k" else "train"]
    except DataError as error:
        raise DataError(f"fashion_mnist is not on this machine, and {error} Otherwise {how}.") from None
    return numpy.stack([numpy.asarray(image) for image in table["image"]]), numpy.asarray(table["label"])
