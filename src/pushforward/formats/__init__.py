"""File formats: run folders, checkpoints and configurations."""

from pushforward.registry import namespace

namespace(__name__)
