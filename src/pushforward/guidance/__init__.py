"""Guidance wraps a denoiser into another one."""

from pushforward.registry import namespace

namespace(__name__)
