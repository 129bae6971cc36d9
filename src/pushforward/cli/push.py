"""`pushforward push RUN OWNER/NAME`: upload a run to the Hugging Face Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pushforward.cli.options import parse
from pushforward.cli.output import result
from pushforward.cli.run import notify
from pushforward.publish.push import push_to_hub


@dataclass(frozen=True)
class Push:
    """Upload a run or a saved model to the Hugging Face Hub, with a card that describes it.

    The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        run: run folder, checkpoint, or folder written by pushforward.save.
        name: OWNER/NAME of the repository, which is created if it does not exist.
        private: make a new repository private.
        license: the Hub's identifier of a licence for the card, such as mit or cc-by-4.0.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        message: message of the commit.
    """

    run: Annotated[Path, tyro.conf.Positional]
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    private: bool = False
    license: str | None = None
    checkpoint: str = "best"
    message: str | None = None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Push, arguments, prog="pushforward push", description="Upload a run to the Hugging Face Hub.")
    address = push_to_hub(
        options.run, options.name, private=options.private or None, license=options.license, checkpoint=options.checkpoint,
        message=options.message,
    )  # fmt: skip
    if options.license is None:
        notify("the card states no licence: without one others may not use the model; --license mit would add one.")
    result(address, address=address, run=options.run, name=options.name)
    print(f"{options.run} is at {address}; it is loaded by pf.load({options.name!r}).")
    return 0
