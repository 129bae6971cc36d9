"""Shards by DCP: what is written is read, and what could act, lies elsewhere or is damaged is refused."""

import dataclasses
import os
import pickle

import pytest
import torch

from pushforward.errors import CheckpointError
from pushforward.formats.shards import METADATA, read_shards, stored_shards, write_shards

TENSORS = {"a": torch.arange(6.0).view(3, 2), "b": torch.ones(4, dtype=torch.float64)}


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path, TENSORS, None)
    return tmp_path


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def changed(folder, change):
    """Rewrite the metadata, which is trusted here, after a change."""
    found = pickle.loads((folder / METADATA).read_bytes())
    found = change(found) or found
    (folder / METADATA).write_bytes(pickle.dumps(found))


def test_what_is_written_is_read(folder):
    assert stored_shards(folder) == {"a": (3, 2), "b": (4,)}
    found = {name: torch.zeros_like(one) for name, one in TENSORS.items()}
    read_shards(folder, found)
    assert all(torch.equal(found[name], one) for name, one in TENSORS.items())


def test_a_folder_without_shards_has_none(tmp_path):
    assert stored_shards(tmp_path) == {}


def _elsewhere(found):
    found.storage_data = {key: dataclasses.replace(one, relative_path="../elsewhere") for key, one in found.storage_data.items()}


def _plugin(found):
    found.storage_data = {key: dataclasses.replace(one, transform_descriptors=["zstd"]) for key, one in found.storage_data.items()}


def _bytes(found):
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    found.state_dict_metadata["a"] = BytesStorageMetadata()


def _acts(found):
    found.planner_data = Harmful()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_acts, "names (posix|nt).mkdir"),
        (_elsewhere, "a part lies in '../elsewhere'"),
        (_plugin, "a part lies in"),
        (_bytes, "names .*BytesStorageMetadata"),
        (lambda found: {"a": 1}, "something else than tensors"),
    ],
    ids=["acts", "elsewhere", "plugin", "bytes", "a mapping"],
)
def test_metadata_that_no_run_writes_is_refused(folder, change, match, monkeypatch):
    monkeypatch.chdir(folder)
    changed(folder, change)
    with pytest.raises(CheckpointError, match=match):
        stored_shards(folder)
    with pytest.raises(CheckpointError, match=match):
        read_shards(folder, {"a": torch.zeros(3, 2)})
    assert not (folder / "harm").exists()


def test_damaged_files_are_refused(folder):
    (part,) = folder.glob("*.distcp")
    intact = part.read_bytes()
    part.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_shards(folder, {name: torch.zeros_like(one) for name, one in TENSORS.items()})
    part.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_shards(folder, {name: torch.zeros_like(one) for name, one in TENSORS.items()})
    (folder / METADATA).write_bytes((folder / METADATA).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="damaged"):
        stored_shards(folder)


@pytest.mark.parametrize("wanted", [{"c": torch.zeros(2)}, {"a": torch.zeros(4, 2)}], ids=["name", "shape"])
def test_tensors_that_are_not_there_are_refused(folder, wanted):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_shards(folder, wanted)
