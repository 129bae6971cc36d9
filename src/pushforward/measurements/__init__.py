"""Measurements: known functions of an event with noise, from which guidance recovers the event."""

from pushforward.registry import namespace

namespace(__name__)
