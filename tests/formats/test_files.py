"""Files are whole or not there: whatever interrupts the writing, the old one stays and nothing is left beside it."""

import errno
import os

import pytest

from pushforward.errors import CheckpointError
from pushforward.formats.files import check_folder, write_atomically, write_folder, write_text


def no_space(path):
    path.write_text("half of i")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def interrupted(path):
    path.write_text("half of i")
    raise KeyboardInterrupt


@pytest.mark.parametrize(("write", "error"), [(no_space, OSError), (interrupted, KeyboardInterrupt)])
def test_an_interrupted_file_leaves_the_old_one(tmp_path, write, error):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(("fill", "error"), [(no_space, OSError), (interrupted, KeyboardInterrupt)])
def test_an_interrupted_folder_leaves_the_old_one(tmp_path, fill, error):
    folder = tmp_path / "step"
    write_folder(folder, lambda temporary: (temporary / "x").write_text("old"))
    with pytest.raises(error):
        write_folder(folder, lambda temporary: fill(temporary / "x"))
    check_folder(folder)
    assert (folder / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["step"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_is_never_lost_while_it_is_replaced(tmp_path, monkeypatch, which):
    """An error at either renaming, of the old folder or the new one, leaves the old one in place."""
    folder = tmp_path / "step"
    write_folder(folder, lambda temporary: (temporary / "x").write_text("old"))

    replace, calls = os.replace, []

    def crash(source, target):
        calls.append(source)
        if len(calls) == which + 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, lambda temporary: (temporary / "x").write_text("new"))
    monkeypatch.undo()
    check_folder(folder)
    assert (folder / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["step"]


def test_a_finished_file_replaces_the_old_one(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new"


@pytest.mark.parametrize("manifest", ["", "[]", "{}x", '{"x": 3}', '{"x": {"bytes": "many", "sha256": ""}}'])
def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match="no readable manifest.json"):
        check_folder(tmp_path)
