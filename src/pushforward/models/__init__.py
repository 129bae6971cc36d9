"""A paper is a page: each preset says what the paper adds and composes parts."""

from pushforward.registry import namespace

namespace(__name__)
