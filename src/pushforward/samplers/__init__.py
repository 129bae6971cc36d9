"""Samplers, which map noise to data: each is a frozen object called as sampler(denoiser, x, t_start, t_end, generator)."""

from pushforward.registry import namespace

namespace(__name__)
