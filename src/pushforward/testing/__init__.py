"""The laws that a bijection, a path, a sampler or a model must obey, to be called from the tests of other packages."""

from pushforward.registry import namespace

namespace(__name__)
