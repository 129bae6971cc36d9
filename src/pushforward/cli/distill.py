"""`pushforward distill RUN`: distill a run's model into a one-step sampler."""

from collections.abc import Sequence
from pathlib import Path

from pushforward.cli.options import parse
from pushforward.cli.reflow import OnPairs, check_pairs, path_model, train_on_pairs
from pushforward.training.reflow import one_step


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(OnPairs, arguments, prog="pushforward distill", description="Distill a run's model into a one-step sampler.")
    out = options.out or Path(f"{str(options.run).rstrip('/')}-distilled")
    one_step(check_pairs(options, [out]))
    teacher = path_model(options.run, options)
    return train_on_pairs(teacher, one_step(teacher), options.run, out, options, {"distill": {"of": str(options.run)}})
