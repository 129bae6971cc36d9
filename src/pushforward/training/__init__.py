"""Training: one loop on torch's own parts, whose every random number belongs to a place in the data and not to a process."""

from pushforward.registry import namespace

namespace(__name__)
