"""Tiny checkpoints, each built once for all tests of a process."""

import shutil

import pytest
import tiny_sd3


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a variant to its checkpoint."""
    built = {}

    def of(variant):
        if variant not in built:
            built[variant] = tiny_sd3.build(tmp_path_factory.mktemp("sd3") / variant, variant)
        return built[variant]

    return of


@pytest.fixture
def copied(tiny, tmp_path):
    """Return a function that copies a layout of a variant, to be spoilt."""

    def of(layout, variant="medium"):
        source, target = getattr(tiny(variant), layout), tmp_path / "copy"
        if source.is_dir():
            return shutil.copytree(source, target)
        return shutil.copy(source, target.with_suffix(".safetensors"))

    return of
