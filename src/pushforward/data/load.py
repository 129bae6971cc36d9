"""Real data behind one name: a registered set, or a file of one's own."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pushforward import registry
from pushforward.data.arrays import read_npy, read_npz
from pushforward.data.dataset import Dataset
from pushforward.data.splits import check_split
from pushforward.data.tables import read_csv
from pushforward.errors import DataError, UserError

READERS: dict[str, Callable[..., Dataset]] = {".npy": read_npy, ".npz": read_npz, ".csv": read_csv}


@registry.export("data.load", example=lambda: load("moons", n=16))
def load(name_or_path: str | Path, split: str = "train", *, seed: int = 0, **options: Any) -> Dataset:
    """Load one split of a data set by its name, or of a file of your own by its path.

    Choose on validation, report on test. A name is that of a function of the registry's group `data` with the fact `loader=True`
    (digits, moons, eight_gaussians, checkerboard, spirals, pinwheel, mixture, and those of other packages). A file that is not split
    already is split 80/10/10 by a seeded permutation, stratified when there are labels.

    Args:
        name_or_path: a name, or the path of a file: .npy with an array (N, *shape); .npz with x and maybe labels y (N,), or with
            x_train, x_validation, x_test and maybe y_train, ..., and maybe one number `levels`; .csv with numeric columns. Images in
            uint8, (N, H, W), (N, H, W, C) or (N, C, H, W), become (N, C, H, W) with 256 levels.
        split: "train", "validation" or "test".
        seed: seed of the permutation, or of the draws. It is not the seed of a training run: another seed is another test set.
        options: what the set takes besides: `n` for the densities in the plane, `levels` for files, `label` (the column of classes)
            and `delimiter` for .csv.

    Returns:
        The split as a `Dataset` of (x, cond) in the units of its source.

    Raises:
        UnknownNameError: there is no such name; the nearest is offered.
        DataError: there is no such file, or it does not hold what it should (row and column are named).
        UserError: the split or an option is unknown.

    Example:
        >>> from pushforward import data
        >>> data.load("digits", "validation")
        Dataset('digits', 180 examples, shape (1, 8, 8), 10 classes, 17 levels)
        >>> data.load("moons", n=100, seed=1).x.shape
        torch.Size([100, 2])
    """
    check_split(split)
    name = str(name_or_path)
    public = f"data.{name}"
    if public in registry.names("data") and registry.entry(public).facts.get("loader"):
        loader = registry.get(public)
        _check_options(name, loader, options)
        return loader(split, seed=seed, **options)
    path = Path(name_or_path).expanduser()
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise _unknown(name, path)
    if not path.is_file():
        raise DataError(_missing(name, path))
    _check_options(path.suffix.lower(), reader, options)
    return reader(path, split, seed, **options)


def _check_options(what: str, loader: Callable[..., Dataset], options: dict[str, Any]) -> None:
    allowed = [p.name for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    for option in options:
        if option not in allowed:
            known = (
                registry.unknown(f"option of {what}", option, allowed) if allowed else f"{what} takes no options, but {option!r} was given."
            )
            raise UserError(known)


def _missing(name: str, path: Path) -> str:
    if path.exists():
        return f"{name} is a folder, not a file; give the path of a {path.suffix.lower()} file."
    beside = [one.name for one in path.parent.iterdir() if one.suffix.lower() in READERS] if path.parent.is_dir() else []
    if beside:
        return registry.unknown(f"file of data in {path.parent.resolve()}", path.name, beside)
    return f"the file {name} does not exist, nor any other file of data in {path.parent.resolve()}; check the path."


def _unknown(name: str, path: Path) -> Exception:
    if path.exists():
        what = "folder" if path.is_dir() else "file"
        return DataError(f"{name} is a {what} that cannot be read; files of data end in {', '.join(READERS)}.")
    loaders = [entry.name.rpartition(".")[2] for entry in registry.entries("data", loader=True)]
    return registry.UnknownNameError(f"{registry.unknown('data set', name, loaders)} A file of your own ends in {', '.join(READERS)}.")
