"""Evaluation: likelihood and baselines, distances between sets of samples, a classifier, and a memorisation check."""

from pushforward.registry import namespace

namespace(__name__)
