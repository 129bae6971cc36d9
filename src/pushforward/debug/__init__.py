"""Tools that find what is wrong in a user's own PyTorch code, or show what it does."""

from pushforward.registry import namespace

namespace(__name__)
