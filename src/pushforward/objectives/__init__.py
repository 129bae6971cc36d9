"""How flow maps are learned: one objective per file."""

from pushforward.registry import namespace

namespace(__name__)
