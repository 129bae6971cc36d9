"""Parquet shards as a table that is read by row group: what `datasets` streams, but with rows in any order and known lengths."""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._files import regular
from pushforward._memory import check_unpacked
from pushforward.data.shard_cache import Cache, retried
from pushforward.data.shard_files import Shard, check_unchanged, is_remote, reached, remote
from pushforward.errors import DamagedDataError, DataError, ShardError

AT_A_TIME = 8  # files whose facts are read together
SUFFIX = ".parquet"


class ParquetRows:
    """The rows of parquet files, with the part of the interface of `datasets.Dataset` that `hub` uses.

    A row group is decoded as one; the latest ones stay in memory, as many as are mixed in training. One of another machine is copied to the
    cache, decoded, when its first row is needed, and is then mapped into memory by all processes.

    Args:
        shards: the files.
        cache: where copies of them are.
        features: returns the columns' types, given the schema of the first file.
        window: how many row groups are mixed; two more stay in memory, decoded.

    Raises:
        DataError: a file is damaged, states too many bytes or has other columns than the first one.
    """

    def __init__(self, shards: Sequence[Shard], cache: Cache, features: Any, window: int) -> None:
        self.shards, self.cache, self.window = tuple(shards), cache, window
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            facts = list(pool.map(self._facts, self.shards))
        first = facts[0][0]
        for shard, (schema, _) in zip(self.shards, facts, strict=True):
            if not schema.equals(first):
                raise DataError(f"{shard.url} has other columns than {self.shards[0].url}; give shards of one set.")
        try:
            self.features: Mapping[str, Any] = features(first)
        except Exception as error:  # `datasets` notes the types as JSON of any content
            raise DamagedDataError(f"{self.shards[0].url} states types of columns that cannot be read ({error}); write it again.") from None
        self.columns = tuple(self.features)
        self.groups = [(number, group) for number, (_, some) in enumerate(facts) for group in range(len(some))]
        self.sizes = [size for _, some in facts for _, size in some]
        counts = torch.tensor([rows for _, some in facts for rows, _ in some], dtype=torch.int64)
        self.starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
        self.shard_of: Tensor = torch.arange(len(counts)).repeat_interleave(counts)
        self._held: OrderedDict[int, Any] = OrderedDict()

    @property
    def about(self) -> str | None:
        """What identifies shards of another machine without reading them, None for files of this one."""
        facts = [(one.name, one.size) for one in self.shards]
        return repr((facts, self.starts.tolist())) if is_remote(self.shards[0].url) else None

    def __len__(self) -> int:
        return len(self.shard_of)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict()}

    def select_columns(self, columns: Sequence[str]) -> "ParquetRows":
        """Return the table of these columns."""
        part = copy.copy(self)
        part.columns, part.features, part._held = tuple(columns), {one: self.features[one] for one in columns}, OrderedDict()
        return part

    def cast_column(self, column: str, feature: Any) -> "ParquetRows":
        """Return the table itself, whose images are never decoded."""
        return self

    def __getitem__(self, rows: int | slice | Sequence[int]) -> dict[str, Any]:
        if isinstance(rows, int):
            return {column: values[0] for column, values in self[[rows]].items()}
        in_turn = isinstance(rows, slice)  # a whole column is read from where it is, without a copy of its shard
        listed = numpy.arange(len(self))[rows] if in_turn else numpy.asarray(rows, dtype=numpy.int64)
        found = numpy.empty((len(self.columns), len(listed)), dtype=object)
        numbers = self.shard_of.numpy()[listed]
        for number in numpy.unique(numbers).tolist():
            here = numpy.flatnonzero(numbers == number)
            table = self._group(number, copied=not in_turn).take(listed[here] - int(self.starts[number]))
            for k, column in enumerate(self.columns):
                for place, value in zip(here, table.column(column).to_pylist(), strict=True):
                    found[k, place] = value
        return {column: found[k].tolist() for k, column in enumerate(self.columns)}

    def _group(self, number: int, copied: bool) -> Any:
        """Return a row group, decoded."""
        table = self._held.get(number)
        if table is None:
            place, group = self.groups[number]
            shard, columns = self.shards[place], list(self.columns)

            def read() -> Any:
                return self._read(shard, lambda file: file.read_row_group(group, columns=columns))

            if copied and is_remote(shard.url):
                name = shard.digest(group, columns)
                size = self.sizes[number]
                table = retried(lambda: _mapped(self.cache.kept(name, size, lambda path: _write(path, read()))))
            else:
                table = read()
            self._held[number] = table
        self._held.move_to_end(number)
        while len(self._held) > self.window + 2:
            self._held.popitem(last=False)
        return table

    def _facts(self, shard: Shard) -> tuple[Any, list[tuple[int, int]]]:
        """Return the schema of a file, and the rows and bytes of its row groups."""

        def read(file: Any) -> tuple[Any, list[tuple[int, int]]]:
            held = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
            return file.schema_arrow, [(one.num_rows, max(one.total_byte_size, 8 * one.num_rows)) for one in held]

        schema, groups = self._read(shard, read)
        for number, (_, size) in enumerate(groups):
            check_unpacked(f"{shard.url}, row group {number},", size, shard.size)
        if not sum(rows for rows, _ in groups):
            raise DataError(f"{shard.url} has no rows; leave it out.")
        return schema, groups

    def _read(self, shard: Shard, of: Any) -> Any:
        """Return what a function reads from a file."""
        from pyarrow.parquet import ParquetFile

        try:
            if not is_remote(shard.url):
                path = regular(Path(shard.url), DataError)
                check_unchanged(shard, path.stat())
                with ParquetFile(path, memory_map=True) as file:
                    return of(file)
            system, there = remote(shard.url)
            with reached(shard.url), system.open(there, "rb") as content, ParquetFile(content) as file:
                return of(file)
        except DataError:
            raise
        except FileNotFoundError:
            raise ShardError(f"{shard.url} is no longer there; put it back, or load the set again.") from None
        except Exception as error:  # pyarrow's errors have several types
            reason = (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
            raise DamagedDataError(f"{shard.url} cannot be read as a parquet file ({reason}); write it again.") from None


def _write(path: Path, table: Any) -> None:
    """Write a table in Arrow's format, which is mapped into memory by all processes that read it."""
    import pyarrow

    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mapped(path: Path) -> Any:
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
