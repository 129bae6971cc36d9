"""What Stable Diffusion 3 needs beside its networks: text encoders, tokenizers, prompts, memory, pictures that carry their settings."""

from pushforward.registry import namespace

namespace(__name__)
