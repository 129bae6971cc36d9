"""A paper is a page: each preset documents what its paper adds and composes parts."""

from pushforward.registry import namespace

namespace(__name__)
