"""How good a model is: likelihood beside baselines, distances between sets of samples, a classifier, and a check for memorisation."""

from pushforward.registry import namespace

namespace(__name__)
