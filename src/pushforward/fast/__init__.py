"""Faster ways of computing what the plain modules compute; `dispatch` decides when they are used, `disabled()` switches them off."""

from pushforward.registry import namespace

namespace(__name__)
