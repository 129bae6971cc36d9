"""All laws run in float64: examples are built under it, so their tensors and parameters have it."""

import pytest


@pytest.fixture(autouse=True)
def _float64(float64):
    return float64
