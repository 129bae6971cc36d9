"""The mathematics as pure functions on tensors: nothing here has state, and nothing the caller owns is written."""

from pushforward.registry import namespace

namespace(__name__)
