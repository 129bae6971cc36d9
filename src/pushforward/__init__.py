"""pushforward: flow-based generative models in PyTorch, from NICE to Stable Diffusion 3, behind one set of verbs.

Importing it loads nothing heavy: a public name imports its module, and torch, at first use.
"""

from pushforward.registry import namespace

__version__ = "0.1.0"

namespace(__name__)
