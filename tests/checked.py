"""The type checker of the tests: beartype, except under a compiler, which calls functions with tensors that have no values."""

import functools

import beartype
import torch


def checked(function):
    """Return a function whose annotations beartype checks at each call."""
    with_checks = beartype.beartype(function)

    @functools.wraps(function)
    def call(*args, **options):
        return function(*args, **options) if torch.compiler.is_compiling() else with_checks(*args, **options)

    return call
