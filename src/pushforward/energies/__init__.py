"""Training from an energy instead of data: targets, the reverse divergence, and importance weights."""

from pushforward.registry import namespace

namespace(__name__)
