"""The kinds of generative model, behind one set of verbs: loss, sample, log_prob, encode, decode."""

from pushforward.registry import namespace

namespace(__name__)
