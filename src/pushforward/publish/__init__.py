"""Publishing: a run or a model, with a card that describes it, as a repository of the Hugging Face Hub."""

from pushforward.registry import namespace

namespace(__name__)
