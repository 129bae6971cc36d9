"""The in-memory data set that models, evaluation and the Trainer accept: x and its labels, validated once."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils import data as torch_data

from pushforward._checks import shown
from pushforward._pandas import is_frame
from pushforward.column import Word
from pushforward.data.checks import as_tensor, checked_cond, checked_levels, is_numbers, refuse_not_finite, refuse_other_than_levels
from pushforward.data.inference import described
from pushforward.data.raw_frame import columns_of
from pushforward.data.rounding import warn_of_rounded_rows
from pushforward.data.rows import Rows
from pushforward.data.tabulate import Table, by_schema, tabulated
from pushforward.errors import DataError, UserError
from pushforward.functional.levels import Level
from pushforward.registry import export
from pushforward.schema import Schema

Batch = tuple[Tensor, Tensor | None]


@export("data.Dataset", example=lambda: Dataset("pairs", torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])))
class Dataset(torch_data.Dataset[Batch]):
    """An in-memory, map-style torch data set of (x, cond).

    x stays in the units of its source; a model normalises it in its own `preprocess`. Data with levels (pixels) hold the integers
    0 .. levels - 1, so that neighbouring values differ by 1; dequantisation noise is added by the loss and by
    `evaluation.bits_per_dim`, never here. A batch of a set without labels has cond None. Data with up to 256 levels are stored
    as uint8, in a quarter of the memory, and returned as float32; `x` is then a new copy on each access.

    Args:
        name: what messages and reports call the set.
        x: examples (N, *shape) in the units of the source, a tensor or an array of numpy's, handed out as float32; or a DataFrame of
            pandas without missing values (`data.load` knows what to do with some).
        cond: labels (N,), integers in 0 .. classes - 1, held as int64; or vectors (N, features) in a floating dtype, such as encoded
            captions, or images (N, channels, height, width), such as masks, held as float32; None for a set without; of a DataFrame the
            name of the label column.
        classes: number of classes; by default the largest label plus 1.
        levels: number of values a coordinate can take, for integer-valued data such as pixels; None for continuous data; for a table
            one entry per column: such a number, (lowest, highest) for integers, None for the continuous ones.
        class_names: names of the classes, if the source has them.
        columns: names of the features of a table.
        categories: for each categorical column, by name, the strings that its levels stand for.
        schema: what the columns and the classes are, in place of the three before; by default it is read from them and from x. A
            DataFrame, such as a test set, is read as this schema has it.

    Raises:
        DataError: x is empty, has no event axis, contains NaN or infinity (the first such row is reported, counted from 0) or a value
            that is not one of the levels; a label is not an integer, out of range or missing; the number of names does not match.

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

    schema: Schema | None
    captions: tuple[str, ...] | None = None  # the caption of each example, of a set that has some
    groups: Tensor | None = None  # the number of each example's shape (N,), of a set with several: see `Bucketed`
    shards: Tensor | None = None  # the number of the shard (N,) that holds each example, of a set that is read shard by shard
    window: int = 1  # how many shards are mixed in training
    unaugmented: str = ""  # why examples cannot be flipped or shifted, where they cannot

    def __init__(
        self,
        name: str,
        x: Any,
        cond: Tensor | numpy.ndarray | str | None = None,
        *,
        classes: int | None = None,
        levels: int | Sequence[Level] | None = None,
        class_names: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        categories: Mapping[str, Sequence[Word]] | None = None,
        schema: Schema | None = None,
    ) -> None:
        if is_frame(x):
            table = _of_frame(name, x, cond, schema)
            x, cond, schema = table.x, table.cond, table.schema
        x, cond = as_tensor(name, "x", x), None if cond is None else as_tensor(name, "cond", cond)
        if x.ndim < 2:
            raise DataError(f"{name}: x has shape {tuple(x.shape)}, but must be (N, *shape); for scalar examples pass x[:, None].")
        if x.numel() == 0:
            raise DataError(f"{name}: x has shape {tuple(x.shape)} and contains no values; give at least one example with one value.")
        if x.is_complex() or x.dtype is torch.bool:
            raise DataError(f"{name}: x has dtype {x.dtype}, but must hold real numbers; convert it first.")
        if schema is not None:
            levels, columns, categories = schema.levels if levels is None else levels, schema.names or None, schema.categories
            schema = schema.of_condition(None if cond is None else tuple(cond.shape[1:]))
            if cond is not None and not is_numbers(cond) and schema is not None:
                class_names = schema.class_names if class_names is None else class_names
                classes = schema.classes if classes is None else classes
        self._describe(name, tuple(x.shape), cond, classes, levels, class_names, columns, categories)
        if schema is None and x.dtype in (torch.float64, torch.int64, torch.int32):
            warn_of_rounded_rows(name, x.detach().cpu().numpy())
        in_bytes = isinstance(self.levels, int) and self.levels <= 256
        x = x.detach() if in_bytes and x.dtype is torch.uint8 else x.detach().to(torch.float32)
        refuse_not_finite(name, x)
        refuse_other_than_levels(name, x, self.levels)
        self._held = x.to(torch.uint8) if in_bytes else x
        self.schema = schema or described(self.columns, self.levels, self.categories, self.class_names, x)

    def _describe(
        self,
        name: str,
        shape: tuple[int, ...],
        cond: Tensor | None,
        classes: int | None,
        levels: int | Sequence[Level] | None,
        class_names: Sequence[str] | None,
        columns: Sequence[str] | None = None,
        categories: Mapping[str, Sequence[Word]] | None = None,
    ) -> None:
        """Validate and store everything except x, whose full shape is `shape`."""
        self.name = name
        self.cond, self.classes = checked_cond(name, shape[0], cond, classes)
        self.levels = checked_levels(name, levels, shape[1:])
        self.class_names = None if class_names is None else tuple(class_names)
        self.columns = None if columns is None else tuple(columns)
        self.categories = {column: tuple(words) for column, words in (categories or {}).items()}
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise DataError(f"{name}: class_names has {len(self.class_names)} names for {self.classes} classes; give one for each.")
        if self.columns is not None and shape[1:] != (len(self.columns),):
            raise DataError(f"{name}: columns has {len(self.columns)} names for examples of shape {shape[1:]}; give one for each feature.")

    @property
    def x(self) -> Tensor:
        """All examples (N, *shape) in float32."""
        return self._held.to(torch.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self._held.shape[1:])

    @property
    def cond_features(self) -> int | None:
        """The length of the conditions if they are vectors, None for others."""
        return self.cond.shape[1] if self.cond is not None and self.cond.ndim == 2 else None

    @property
    def cond_image(self) -> tuple[int, ...] | None:
        """The shape of one condition if they are images, None for others."""
        return tuple(self.cond.shape[1:]) if self.cond is not None and self.cond.ndim > 2 else None

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, index: int | slice) -> Batch:
        return self._held[index].to(torch.float32), None if self.cond is None else self.cond[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Rows:
        """Return the examples of a batch, as a DataLoader asks for them; with `collate_fn=keep_batch` they are never taken apart."""
        return Rows(self.batch(indices))

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return the examples with these indices as one batch (x, cond)."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self._held.device)
        return self._held[chosen].to(torch.float32), None if self.cond is None else self.cond[chosen]

    def readable(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, list[int]]:
        """Return the examples x with these indices that can be read, and their indices: all, except in a set of image files."""
        return self.batch(indices)[0], torch.as_tensor(indices).tolist()

    def take(self, n: int) -> "Dataset":
        """Return the set of the first n examples."""
        if not 1 <= n <= len(self):
            raise UserError(f"n is {n}, but {self.name} has {len(self)} examples; take between 1 and that many.")
        return self.subset(range(n))

    def subset(self, indices: Sequence[int] | Tensor) -> "Dataset":
        """Return the set of the examples with these indices, in this order; classes and levels are kept."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self._held.device)
        if len(chosen) == 0:
            raise DataError(f"{self.name}: the subset is empty; give at least one example.")
        part = copy.copy(self)
        part._held, part.cond = self._held[chosen], None if self.cond is None else self.cond[chosen]
        return part

    def with_cond(self, cond: Tensor | numpy.ndarray | None, classes: int | None = None) -> "Dataset":
        """Return the set with other conditions: vectors (N, features), such as encoded captions, images, labels (N,), or None for none."""
        changed = copy.copy(self)
        given = None if cond is None else as_tensor(self.name, "cond", cond)
        changed.cond, changed.classes = checked_cond(self.name, len(self), given, classes)
        changed.class_names = None
        changed.schema = None if self.schema is None else self.schema.of_condition(None)
        return changed

    def in_memory(self, most: int | None = None) -> "Dataset":
        """Return the set itself, which is already in memory; a lazy set reads its examples, the first `most` if given."""
        return self

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of x, cond, shape, classes and levels (not of the name)."""
        digest = hashlib.sha256(repr(((len(self), *self.shape), self.classes, self.levels)).encode())
        for rows in self._held.split(4096):  # as float32 and in chunks, to bound the memory of uint8 images
            digest.update(rows.to(torch.float32).cpu().contiguous().numpy().tobytes())
        if self.cond is not None:
            digest.update(self.cond.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        parts = [repr(self.name), f"{len(self)} examples", f"shape {self.shape}"]
        parts += [f"{self.classes} classes"] if self.classes is not None else []
        parts += [f"conditions {tuple(self.cond.shape[1:])}"] if self.cond is not None and self.classes is None else []
        parts += [f"{self.levels} levels"] if isinstance(self.levels, int) else []
        parts += [f"{sum(one is not None for one in self.levels)} columns with levels"] if isinstance(self.levels, tuple) else []
        return f"{type(self).__name__}({', '.join(parts)})"


@export("data.keep_batch", example=lambda: (torch.zeros(3, 2), None))
def keep_batch(batch: Any) -> Any:
    """Return the batch as it is: the `collate_fn` for a DataLoader over a `Dataset`, which makes whole batches itself.

    A DataLoader without it gives the same, a little slower, as it takes the batch apart and stacks it again.

    Args:
        batch: (x, cond) of a whole batch.

    Returns:
        The same object, or the whole batch that a `Dataset` made.

    Example:
        >>> from pushforward import data
        >>> data.keep_batch((1, None))
        (1, None)
    """
    return batch.batch if isinstance(batch, Rows) else batch


def _of_frame(name: str, frame: Any, label: Any, schema: Schema | None) -> Table:
    columns = columns_of(name, frame)
    if schema is not None:
        if label is not None:
            raise UserError(f"{name}: cond is {shown(label)}, but the label of a DataFrame with a schema is the schema's; leave it out.")
        return by_schema(name, columns, schema)
    titles = [one.title for one in columns]
    if label is not None and (not isinstance(label, str) or label not in titles):
        raise UserError(
            f"{name}: cond is {shown(label)}, but of a DataFrame it is the name of the label column: one of {', '.join(titles)}."
        )
    return tabulated(name, columns, label=label)
