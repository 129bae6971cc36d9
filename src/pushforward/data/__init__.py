"""Data sets of (x, cond) in the units of their source, loaded by name or path, each with train, validation and test splits."""

from pushforward.registry import namespace

namespace(__name__)
