"""Stable Diffusion 3 apart from its networks: text encoders, tokenizers, prompts, memory, images with embedded settings."""

from pushforward.registry import namespace

namespace(__name__)
