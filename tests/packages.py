"""Packages that few tests use, imported where they are used: each process of pytest-xdist collects all files, and runs a part of them."""

import importlib
import importlib.util

import pytest


class Package:
    """A package that is imported when its content is asked for."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("_"):  # pytest asks each object of a module for its __test__
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


def package(name):
    """Return a package, and skip the file where it is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return Package(name)
