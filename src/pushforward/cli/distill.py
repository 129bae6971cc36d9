"""`pushforward distill RUN`: distill a run's model into a one-step sampler."""

from collections.abc import Sequence
from pathlib import Path

from pushforward.cli.options import parse
from pushforward.cli.reflow import OnPairs, check_pairs, joined_for, path_model, rehearse_on_pairs, train_on_pairs
from pushforward.training.reflow import one_step


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(OnPairs, arguments, prog="pushforward distill", description="Distill a run's model into a one-step sampler.")
    out = options.out or Path(f"{str(options.run).rstrip('/')}-distilled")
    with joined_for(options) as among:
        among.of_main(lambda: repr(one_step(check_pairs(options, [out], among))), "checking the run folder")
        with among.agreed("reading the run"):
            teacher = path_model(options.run, options, among)
            student = one_step(teacher)
        if options.dry_run:
            return rehearse_on_pairs("distill", teacher, student, out, options, among)
        return train_on_pairs(teacher, student, options.run, out, options, {"distill": {"of": str(options.run)}}, among)
