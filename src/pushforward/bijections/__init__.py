"""Invertible maps that return their value and log|det| together."""

from pushforward.registry import namespace

namespace(__name__)
