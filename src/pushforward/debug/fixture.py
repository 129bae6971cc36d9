"""The pytest fixture `detect_aliasing`: a test that uses it fails where it writes shared memory, with the lines that cause it.

pytest loads this module by its entry point, so that it is only the fixture and must not import torch.
"""

from collections.abc import Generator
from typing import Any

import pytest

NAME = "detect_aliasing"


@pytest.fixture(name=NAME)
def _detector() -> Any:
    """Watch the test by `pushforward.debug.detect_aliasing`."""
    from pushforward.debug.aliasing import detect_aliasing

    return detect_aliasing()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Enter the context around the test itself, so that an error of torch becomes the explained one."""
    if NAME not in getattr(item, "fixturenames", ()):
        return (yield)
    with item.funcargs[NAME]:  # type: ignore[attr-defined]
        return (yield)
