"""Guidance: wrappers that turn a denoiser into a guided denoiser."""

from pushforward.registry import namespace

namespace(__name__)
