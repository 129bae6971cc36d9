"""Copies of the tiny checkpoints, which tests may spoil."""

import shutil

import pytest


@pytest.fixture
def copied(tiny, tmp_path):
    """Return a function that copies a layout of a variant, to be spoilt."""

    def of(layout, variant="medium"):
        source, target = getattr(tiny(variant), layout), tmp_path / "copy"
        if source.is_dir():
            return shutil.copytree(source, target)
        return shutil.copy(source, target.with_suffix(".safetensors"))

    return of
