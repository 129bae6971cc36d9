"""Files in and out: run folders, checkpoints and their configuration."""

from pushforward.registry import namespace

namespace(__name__)
