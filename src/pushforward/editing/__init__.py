"""Editing: a given event is changed as a model knows it, towards another condition, between two events, or along a direction."""

from pushforward.registry import namespace

namespace(__name__)
