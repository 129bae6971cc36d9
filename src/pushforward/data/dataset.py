"""The one kind of data set that models, evaluation and the Trainer take: x and its labels, checked once and held in memory."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import data as torch_data

from pushforward.errors import DataError, UserError
from pushforward.registry import export

T = TypeVar("T")
Batch = tuple[Tensor, Tensor | None]


@export("data.Dataset", example=lambda: Dataset("pairs", torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])))
class Dataset(torch_data.Dataset[Batch]):
    """Hold examples x with their labels in memory, as a map-style torch data set of (x, cond).

    x stays in the units of its source; a model normalises in its own `preprocess`. Data with levels (pixels) hold the integers
    0 .. levels - 1, so that neighbouring values are 1 apart; noise that fills the gaps is added by the loss and by
    `evaluation.bits_per_dim`, never here. The whole batch of a set without labels has cond None.

    Args:
        name: what messages and reports call the set.
        x: examples (N, *shape) in the units of the source, held as float32.
        cond: labels (N,), integers in 0 .. classes - 1, held as int64; None for a set without labels.
        classes: number of classes; by default the largest label plus 1.
        levels: number of values a coordinate can take, for integer-valued data such as pixels; None for continuous data.
        class_names: what the classes are called, when their source has names for them.

    Raises:
        DataError: x is empty, has no event axis, holds NaN or infinity (the first such row is named, counted from 0) or a value
            that is none of the levels; a label is no integer, out of range or missing.

    Example:
        >>> import torch
        >>> from pushforward import data
        >>> pairs = data.Dataset("pairs", torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0]))
        >>> pairs
        Dataset('pairs', 3 examples, shape (2,), 2 classes)
        >>> x, cond = pairs[:2]
        >>> x.shape, cond
        (torch.Size([2, 2]), tensor([0, 1]))
        >>> loader = torch.utils.data.DataLoader(pairs, batch_size=2, collate_fn=data.keep_batch)
        >>> [tuple(x.shape) for x, cond in loader]
        [(2, 2), (1, 2)]
    """

    def __init__(
        self,
        name: str,
        x: Tensor,
        cond: Tensor | None = None,
        *,
        classes: int | None = None,
        levels: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if x.ndim < 2:
            raise DataError(f"{name}: x has shape {tuple(x.shape)}, but needs (N, *shape); one number an example is x[:, None].")
        if x.numel() == 0:
            raise DataError(f"{name}: x has shape {tuple(x.shape)} and so no values; give at least one example with one value.")
        if x.is_complex() or x.dtype is torch.bool:
            raise DataError(f"{name}: x has dtype {x.dtype}, but needs real numbers; convert it first.")
        self.name = name
        self.x = x.detach().to(torch.float32)
        self.cond, self.classes = _checked_labels(name, len(x), cond, classes)
        self.levels = levels
        self.class_names = None if class_names is None else tuple(class_names)
        _refuse_not_finite(name, self.x)
        if levels is not None:
            _refuse_other_than_levels(name, self.x, levels)
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise DataError(f"{name}: class_names has {len(self.class_names)} names for {self.classes} classes; give one for each.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int | slice) -> Batch:
        return self.x[index], None if self.cond is None else self.cond[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return one batch (x, cond) at once, which a DataLoader with `collate_fn=keep_batch` asks for instead of single examples."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.x.device)
        return self.x[chosen], None if self.cond is None else self.cond[chosen]

    def take(self, n: int) -> "Dataset":
        """Return the set of the first n examples."""
        if not 1 <= n <= len(self):
            raise UserError(f"n is {n}, but {self.name} has {len(self)} examples; take between 1 and that many.")
        return self.subset(range(n))

    def subset(self, indices: Sequence[int] | Tensor) -> "Dataset":
        """Return the set of the examples with these indices, in this order; classes and levels stay."""
        x, cond = self.__getitems__(indices)
        return Dataset(self.name, x, cond, classes=self.classes, levels=self.levels, class_names=self.class_names)

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of x, cond, shape, classes and levels (not of the name)."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes, self.levels)).encode())
        digest.update(self.x.cpu().contiguous().numpy().tobytes())
        if self.cond is not None:
            digest.update(self.cond.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        parts = [repr(self.name), f"{len(self)} examples", f"shape {self.shape}"]
        parts += [f"{self.classes} classes"] if self.classes is not None else []
        parts += [f"{self.levels} levels"] if self.levels is not None else []
        return f"Dataset({', '.join(parts)})"


@export("data.keep_batch", example=lambda: (torch.zeros(3, 2), None))
def keep_batch(batch: T) -> T:
    """Return the batch as it is: the `collate_fn` for a DataLoader over a `Dataset`, which makes whole batches itself.

    Args:
        batch: (x, cond) of a whole batch.

    Returns:
        The same object.

    Example:
        >>> from pushforward import data
        >>> data.keep_batch((1, None))
        (1, None)
    """
    return batch


def _checked_labels(name: str, count: int, cond: Tensor | None, classes: int | None) -> tuple[Tensor | None, int | None]:
    if cond is None:
        if classes is not None:
            raise DataError(f"{name}: classes is {classes}, but there are no labels; give cond too, or leave classes out.")
        return None, None
    if cond.is_floating_point() or cond.is_complex() or cond.dtype is torch.bool:
        raise DataError(f"{name}: the labels have dtype {cond.dtype}, but classes are numbered by integers; convert them first.")
    if tuple(cond.shape) != (count,):
        raise DataError(f"{name}: the labels have shape {tuple(cond.shape)}, but {count} examples need shape ({count},).")
    labels = cond.detach().to(torch.int64)
    allowed = int(labels.max()) + 1 if classes is None else classes
    wrong = ((labels < 0) | (labels >= allowed)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        limit = f"0 to {allowed - 1}" if allowed > 0 else "0 or more"
        raise DataError(f"{name}: row {row} has label {int(labels[row])}, but labels must be {limit} ({len(wrong)} of {count} are not).")
    return labels, allowed


def _refuse_not_finite(name: str, x: Tensor) -> None:
    rows = (~torch.isfinite(x).flatten(1).all(dim=1)).nonzero().flatten()
    if len(rows):
        what = "NaN" if x[rows[0]].isnan().any() else "an infinite value"
        raise DataError(
            f"{name}: row {int(rows[0])} (counted from 0) holds {what}; {len(rows)} of {len(x)} rows hold NaN or infinity: "
            "remove them or fill them in."
        )


def _refuse_other_than_levels(name: str, x: Tensor, levels: int) -> None:
    if levels < 2:
        raise DataError(f"{name}: levels is {levels}, but a coordinate needs at least 2 values; leave levels out for continuous data.")
    rows = ((x < 0) | (x > levels - 1) | (x != x.floor())).flatten(1).any(dim=1).nonzero().flatten()
    if len(rows):
        raise DataError(
            f"{name}: row {int(rows[0])} (counted from 0) holds a value that is no integer in 0 to {levels - 1} ({len(rows)} of "
            f"{len(x)} rows do); scale x to its levels, or leave levels out."
        )
