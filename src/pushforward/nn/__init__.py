"""Layers and networks: a layer is the module version of the function of the same name in `pushforward.functional`."""

from pushforward.registry import namespace

namespace(__name__)
