"""Cached latents and encoded captions as a data set."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import shown, whole
from pushforward.conditions import TextContext
from pushforward.data.dataset import Dataset
from pushforward.data.lazy import LazyDataset
from pushforward.data.splits import check_split
from pushforward.errors import CheckpointError, UserError
from pushforward.formats.tensor_file import TensorFile
from pushforward.registry import export
from pushforward.sd3.cache_files import INDEX, NONE, Index, check_same, fingerprint_of, latents_file, read_index, text_file
from pushforward.sd3.text_layout import TextLayout


@export("sd3.LatentPairs")
class LatentPairs(LazyDataset):
    """Latents (N, channels, height, width) with a `TextContext` each, which `sd3.cache_latents` wrote; batches are read from mapped files.

    Mirrored latents, if there are some, are further examples, behind the others. Any part that trains a model on a `Dataset` takes it, with
    any number of DataLoader workers. `text` is the layout of the encoders, by which a model drops them one by one without loading them.

    Args:
        folder: the folder that was given to `cache_latents`.
        split: "train", "validation" or "test".
        flips: whether mirrored latents are in the set.
        vae: the autoencoder, or what identifies it, that the latents must be of; None does not check.
        text: the text encoders, or what identifies them, likewise.
        window: how many shards are mixed in training, for a cache larger than memory; None mixes all.

    Raises:
        NoCheckpointError: there is no finished cache.
        CheckpointError: a file is damaged.
        UserError: the cache is of another autoencoder or other text encoders.

    Example:
        >>> from pushforward import sd3
        >>> x, cond = sd3.LatentPairs("cache")[:8]  # doctest: +SKIP
        >>> x.shape, cond.context.shape  # doctest: +SKIP
        (torch.Size([8, 4, 16, 16]), torch.Size([8, 32, 256]))
    """

    unaugmented = "a mirrored or shifted latent is not that of a mirrored or shifted image; encode with cache_latents(flips=True) instead"

    def __init__(
        self, folder: str | Path, split: str = "train", *, flips: bool = True, vae: Any = None, text: Any = None, window: int | None = None
    ) -> None:
        check_split(split)
        self._by_shard = window is not None
        if window is not None:
            self.window = whole("window", window, 1, hint="it is the number of shards that are mixed")
        self.folder = (Path(folder) / split).resolve()  # workers may start in another working directory
        index = read_index(self.folder)
        self.plan, self._captions, self._per_shard = index.plan, index.captions, index.per_shard
        wanted = {} if vae is None else {"vae": vae if isinstance(vae, str) else fingerprint_of(vae)}
        wanted |= {} if text is None else {"text": text if isinstance(text, str) else text.fingerprint()}
        check_same(self.folder, self.plan, wanted)
        self._files: dict[Path, TensorFile] = {}
        self._starts = torch.tensor([0, *index.counts]).cumsum(0)
        none = TextContext(*(self._mapped(self.folder / NONE, name).clone() for name in ("context", "pooled")))
        self.text = TextLayout(index.parts, none, self.plan["null"])
        self._check(index)
        shards = range(len(index.counts))
        self._caption, self.sources = (
            torch.cat([self._mapped(latents_file(self.folder, k), name) for k in shards]) for name in ("caption", "row")
        )
        count = len(self._caption)
        if not 0 <= int(self._caption.min()) <= int(self._caption.max()) < len(index.captions):
            raise CheckpointError(f"{self.folder} has latents of captions that are not in {INDEX}; remove the folder and cache them again.")
        rows = torch.arange(2 * count if flips and index.flips else count)  # behind the others the mirrored ones
        super().__init__(f"{Path(folder).name}/{split}", rows, index.shape)

    def _check(self, index: Index) -> None:
        """Raise unless all files are there with the shapes that the index states."""
        wanted: list[tuple[Path, str, tuple[int, ...]]] = []
        for shard, count in enumerate(index.counts):
            path = latents_file(self.folder, shard)
            wanted += [(path, name, (count,)) for name in ("caption", "row")]
            wanted += [(path, name, (count, *index.shape)) for name in ("latents", *(["flipped"] if index.flips else [])) if count]
        for shard, start in enumerate(range(0, len(index.captions), index.per_shard)):
            count, path = min(index.per_shard, len(index.captions) - start), text_file(self.folder, shard)
            wanted += [(path, name, (count, *getattr(self.text.none, name).shape[1:])) for name in ("context", "pooled")]
        for path, name, shape in wanted:
            if self._mapped(path, name).shape != shape:
                raise CheckpointError(
                    f"{path} has {name} of shape {tuple(self._mapped(path, name).shape)} instead of {shape}; remove the folder and cache "
                    "the latents again."
                )

    @property
    def shards(self) -> Tensor | None:  # type: ignore[override]
        """The number of the shard (N,) that holds each example, if they are read shard by shard: see `window`."""
        return torch.bucketize(self.rows % len(self._caption), self._starts[1:], right=True) if self._by_shard else None

    @property
    def captions(self) -> tuple[str, ...]:  # type: ignore[override]
        """The caption of each example."""
        return tuple(self._captions[k] for k in self._caption[self.rows % len(self._caption)].tolist())

    def batch(self, indices: Sequence[int] | Tensor) -> Any:
        """Return the examples with these indices as one batch: latents in float32, and their `TextContext`."""
        places = torch.as_tensor(indices, dtype=torch.int64).cpu()
        return self._read(places)[0], self._texts(self._caption[self.rows[places] % len(self._caption)])

    def _texts(self, chosen: Tensor) -> Any:
        """Return the condition of the captions with these numbers."""
        context, pooled = (torch.empty(len(chosen), *getattr(self.text.none, name).shape[1:]) for name in ("context", "pooled"))
        for shard in (chosen // self._per_shard).unique().tolist():
            here, path = (chosen // self._per_shard == shard).nonzero().flatten(), text_file(self.folder, shard)
            for out, name in ((context, "context"), (pooled, "pooled")):
                out[here] = self._mapped(path, name)[chosen[here] % self._per_shard].float()
        return TextContext(context, pooled)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.batch(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has no example {index}; it has {len(self)}.")
        x, cond = self.batch([index % len(self)])
        return x[0], cond

    def with_cond(self, cond: Any, classes: int | None = None) -> Dataset:
        """Raise: the conditions are the cached encodings."""
        raise UserError(
            f"{self.name} has the encoded captions as conditions, which are not replaced by {shown(cond)}; cache other captions."
        )

    def in_memory(self, most: int | None = None) -> Dataset:
        """Return the latents, or the first `most` of them, as a set in memory, without their captions."""
        x = self.batch(range(len(self) if most is None else min(most, len(self))))[0]
        return Dataset(self.name, x)

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of a SHA-256 of what identifies encoders, data and options, and of the rows."""
        digest = hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode() + repr(self.shape).encode())
        digest.update(self.rows.numpy().tobytes() + self.sources.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        rows, x = self.rows[places], torch.empty(len(places), *self.shape)
        place, mirrored = rows % len(self._caption), rows >= len(self._caption)
        shards = torch.bucketize(place, self._starts[1:], right=True)
        for name, wanted in (("latents", ~mirrored), ("flipped", mirrored)):
            for shard in shards[wanted].unique().tolist():
                here = (wanted & (shards == shard)).nonzero().flatten()
                x[here] = self._mapped(latents_file(self.folder, shard), name)[place[here] - self._starts[shard]].float()
        return x, places

    def _mapped(self, path: Path, name: str) -> Tensor:
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = TensorFile(path)
        if name not in file.entries:
            raise CheckpointError(f"{path} has no {name}, so it is not a file of cached latents; cache them again.")
        return file.mapped(name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # maps are opened again in another process
