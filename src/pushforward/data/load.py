"""Load data by name or path: a registered set, a local file or folder, or a Hugging Face data set."""

import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pushforward import registry
from pushforward._checks import shown, whole
from pushforward._memory import memory_errors
from pushforward._pandas import is_frame
from pushforward._text import value_of
from pushforward.data.archives import read_npz
from pushforward.data.arrays import read_npy
from pushforward.data.dataset import Dataset
from pushforward.data.frames import read_frame, read_parquet
from pushforward.data.gather import ACCEPTED, is_map_style, of_loader
from pushforward.data.given import read_given
from pushforward.data.hub import HUB, read_hub, read_saved
from pushforward.data.image_folder import holds_images, read_images
from pushforward.data.mapped import read_mapped
from pushforward.data.splits import check_split
from pushforward.data.tables import read_csv
from pushforward.data.webdataset import SHARDS, SUFFIX, is_list_of_shards, read_shards
from pushforward.errors import DataError, UserError

Reader = Callable[..., Dataset]
FOLDERS = "a folder holds x.npy (and y.npy), images, or a data set saved by `datasets`"


def _read_npy(path: Path, split: str, seed: int, *, levels: int | None = None, mapped: bool = False) -> Dataset:
    return (read_mapped if mapped else read_npy)(path, split, seed, levels=levels)


READERS: dict[str, Reader] = {".npy": _read_npy, ".npz": read_npz, ".csv": read_csv, ".parquet": read_parquet}

_TABLE = "; save it as .csv or .parquet, or give load the DataFrame that pandas reads"
CONVERTED = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".json", ".jsonl", ".feather", ".pkl", ".dta", ".sav", ".arff"), _TABLE),
    **dict.fromkeys((".tsv", ".txt", ".dat"), "; a table of text is a .csv, with delimiter=... for another one than a comma"),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst"), "; unpack it first"),
    **dict.fromkeys((".pt", ".pth"), "; give load the tensors in it, or save them by numpy.save"),
    **dict.fromkeys((".h5", ".hdf5", ".mat"), "; save its arrays as .npy or .npz"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff"), "; give the folder of the images"),
}


@registry.export("data.load", example=lambda: load("moons", n=16))
def load(name_or_path: Any, split: str = "train", *, seed: int = 0, **options: Any) -> Dataset:
    """Load one split of a data set by name, of a local file or folder by path, or of a DataFrame, array or set of torch.

    Choose on validation, report on test. A name refers to a function in the registry's group `data` with the fact `loader=True`
    (`pushforward list data` shows them, including those of other packages), or is "hf:owner/name" for a Hugging Face data set. Data without
    splits are split 80/10/10 by a seeded permutation, stratified if there are labels; fewer than 10 examples are all train. Folders are not
    read into memory: they are returned as a `LazyDataset`.

    Args:
        name_or_path: a name, or the path of a file: .npy with an array (N, *shape); .npz with x and optional y, or with
            x_train, x_validation, x_test and optional y_train, ..., and optionally `levels`; y are labels (N,), or conditions: vectors
            (N, features) or images (N, channels, height, width), such as masks; .csv or .parquet with columns of
            numbers and words. Images in uint8, (N, H, W), (N, H, W, C) or (N, C, H, W), become (N, C, H, W) with 256 levels. Or the path of
            a folder: with x.npy and optionally y.npy, which stay on disk; with images, in sub-folders that are classes or splits or
            neither; or written by `save_to_disk` of the package datasets. Or what is in memory: a DataFrame, an array or tensor
            (N, *shape), a map-style set of x or (x, label), which is read.
        split: "train", "validation" or "test".
        seed: seed of the permutation, or of the draws. It is not the seed of a training run: a different seed gives a different test set.
        options: options of the set: `n` for the densities in the plane; `levels` for files; `mapped=True` for a .npy that stays
            on disk; `label` (the column of classes), `given` (the columns that the others are conditional on), `categorical`, `missing`
            ("refuse", "drop" or "model" missing values), `scales` and `exclude` for tables, `delimiter` for .csv; `y` (labels or
            conditions) for arrays; `size` and `channels` for images, `missing` ("refuse" or "drop" those without a caption, where others
            have one) and `smallest`; `image` or `columns`, `label`, `caption` for Hugging Face.

    Returns:
        The split as a `Dataset` of (x, cond) in the units of its source.

    Raises:
        UnknownNameError: there is no such name; the message suggests the closest.
        DataError: there is no such file or folder, or its content is invalid (with row and column).
        UserError: the split or an option is unknown.

    Example:
        >>> from pushforward import data
        >>> data.load("digits", "validation")
        Dataset('digits', 180 examples, shape (1, 8, 8), 10 classes, 17 levels)
        >>> data.load("moons", n=100, seed=1).x.shape
        torch.Size([100, 2])
        >>> import pandas
        >>> frame = pandas.DataFrame({"height": [1.6, 1.7, 1.8] * 10, "eyes": ["blue", "brown", "grey"] * 10})
        >>> data.load(frame).schema.categories
        {'eyes': ('blue', 'brown', 'grey')}
    """
    check_split(split)
    whole("seed", seed, 0, 2**32 - 1)
    what, reader, source = _reader(name_or_path)
    _check_options(what, reader, options)
    with memory_errors(f"the data of {what}", "use fewer examples, or a folder with x.npy, of which only the rows of a batch are read"):
        return _registered(what, reader, split, seed, options) if source is None else reader(source, split, seed, **options)


def _registered(name: str, loader: Reader, split: str, seed: int, options: Mapping[str, Any]) -> Dataset:
    """Return what a registered loader returns, which may be that of another package.

    Raises:
        UserError: it is not called as loaders are, or returns something else than a set.
    """
    try:
        inspect.signature(loader).bind(split, seed=seed, **options)
    except TypeError as error:
        raise UserError(
            f'the loader of {name} is not called as others are ({error}); define it as `def {name}(split="train", *, seed=0, ...)`.'
        ) from None
    found = loader(split, seed=seed, **options)
    if not is_map_style(found):
        raise UserError(f"the loader of {name} returned {shown(found)}, but it must return a pushforward.data.Dataset; return one.")
    return found


def options_from_text(name_or_path: str | Path, options: Mapping[str, str]) -> dict[str, Any]:
    """Return options of a data set as its loader takes them, from the texts of a command line.

    A text stays what it is where the loader takes text (`label yes`, `delimiter ,`); see `_text.value_of`.

    Raises:
        UserError: an option is unknown, or its text is not of any type that the loader takes.
    """
    what, reader, _ = _reader(name_or_path)
    _check_options(what, reader, options)
    hints = typing.get_type_hints(reader)
    return {name: value_of(name, text, hints.get(name, str)) for name, text in options.items()}


def _reader(name_or_path: Any) -> tuple[str, Reader, Any]:
    """Return what a name or path is called in messages, its reader, and the reader's first argument, None for a registered set."""
    if is_frame(name_or_path):
        return "a DataFrame", read_frame, name_or_path
    if is_list_of_shards(name_or_path):
        return "shards", read_shards, name_or_path
    if not isinstance(name_or_path, str | Path):
        if not is_map_style(of_loader(name_or_path)):
            raise UserError(f"the data are {shown(name_or_path)}, but load takes a name, a path, {ACCEPTED}.")
        return "data in memory", read_given, name_or_path
    name = str(name_or_path)
    public = f"data.{name}"
    if public in registry.names("data") and registry.entry(public).facts.get("loader"):
        return name, registry.get(public), None
    if name.startswith(HUB):
        return HUB, read_hub, name
    if name.startswith(SHARDS) or name.endswith(SUFFIX):
        return "shards", read_shards, name
    path = Path(name_or_path).expanduser()
    what, reader = _reader_of_folder(path) if path.is_dir() else (path.suffix.lower(), READERS.get(path.suffix.lower()))
    if reader is None:
        raise _unknown(name, path)
    if not path.exists():
        raise DataError(_missing(name, path))
    return what, reader, path


def _reader_of_folder(path: Path) -> tuple[str, Reader | None]:
    if (path / "x.npy").is_file():
        return "a folder with x.npy", read_mapped
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return "a folder of datasets", read_saved
    return "a folder of images", read_images if holds_images(path) else None


def _check_options(what: str, loader: Reader, options: Mapping[str, Any]) -> None:
    allowed = [p.name for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    for option in options:
        if option not in allowed:
            known = (
                registry.unknown(f"option of {what}", option, allowed) if allowed else f"{what} takes no options, but {option!r} was given."
            )
            raise UserError(known)


def _missing(name: str, path: Path) -> str:
    siblings = [one.name for one in path.parent.iterdir() if one.suffix.lower() in READERS] if path.parent.is_dir() else []
    if siblings:
        return registry.unknown(f"file of data in {path.parent.resolve()}", path.name, siblings)
    return f"the file {name} does not exist, nor any other file of data in {path.parent.resolve()}; check the path."


def _unknown(name: str, path: Path) -> Exception:
    if path.exists():
        if path.is_dir():
            return DataError(f"{name} is a folder without data; {FOLDERS}.")
        how = CONVERTED.get(path.suffix.lower(), "")
        return DataError(f"{name} is a file that cannot be read; files of data end in {', '.join(READERS)}{how}.")
    if "/" in name:
        of_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
        hint = f" If it is a Hugging Face data set, write {HUB}{name}." if of_hub else ""
        return DataError(f"there is no folder {name}; check the path ({FOLDERS}).{hint}")
    loaders = [entry.name.rpartition(".")[2] for entry in registry.entries("data", loader=True)]
    own = f"A file of your own ends in {', '.join(READERS)}; {FOLDERS}; a Hugging Face data set is {HUB}owner/name."
    return registry.UnknownNameError(f"{registry.unknown('data set', name, loaders)} {own}")
