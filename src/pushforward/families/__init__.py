"""The families of generative models, with one interface: loss, sample, log_prob, encode, decode."""

from pushforward.registry import namespace

namespace(__name__)
