"""Syntax in prompts that other programs interpret, and that is read literally here."""

import re
import warnings
from collections.abc import Iterable

# What is meant literally keeps its meaning: parentheses, "(16:9)", and the word in quotes.
SYNTAX = (
    (re.compile(r"\([^()]*[^()\d\s]\s*:\s*[+-]?\d*\.?\d+\s*\)"), "a weight of words"),
    (re.compile(r"\(\([^()]+\)\)"), "a weight of words"),
    (re.compile(r"(?<!['\"\w])BREAK(?!['\"\w])"), "a new chunk of tokens"),
    (re.compile(r"<(?:lora|lyco|hypernet):[^<>]+>"), "a LoRA, which is loaded by load_lora or --lora"),
    (re.compile(r"\bembedding:\w+"), "a textual inversion"),
)


def warn_of_syntax(prompts: Iterable[str]) -> None:
    """Warn of weights and other syntax in prompts.

    Stable Diffusion 3 has been trained on plain sentences, and no common definition of weights exists for its three encoders.

    Warns:
        UserWarning: a prompt has such syntax; once for each kind.
    """
    for pattern, meaning in SYNTAX:
        found = next(filter(None, map(pattern.search, prompts)), None)
        if found is not None:
            warnings.warn(
                f"the prompt has {found[0]!r}, which other programs read as {meaning}; here its letters are encoded as they are: "
                "write what you mean in words, or ignore this if they belong to the image.",
                stacklevel=2,
            )
