"""The mathematics as pure functions of tensors: they have no state and do not modify their arguments."""

from pushforward.registry import namespace

namespace(__name__)
