"""Data behind one name: sets of (x, cond) in the units of their source, each in train, validation and test."""

from pushforward.registry import namespace

namespace(__name__)
