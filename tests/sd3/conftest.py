"""Tiny checkpoints, each built once for all tests of a process."""

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
