"""`pushforward app RUN`: a page in the browser, on which trained models are tried."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pushforward.cli.options import parse
from pushforward.errors import UserError


@dataclass(frozen=True)
class App:
    """Try trained models in the browser: noise becomes data step by step.

    Args:
        runs: run folders, checkpoints, saved models, or a Stable Diffusion 3.
        host: address to listen at; 127.0.0.1 is only this machine, 0.0.0.0 all networks: then any machine that reaches it uses the models.
        port: port to listen at.
        browser: whether to open the page in the browser.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        device: "auto", "cpu", "cuda", ...
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    host: str = "127.0.0.1"
    port: int = 7860
    browser: bool = True
    checkpoint: str = "best"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("no run is given; give the folder of a run, such as `pushforward app runs/moons`.")
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}, but it must be from 1 to 65535; try 7860.")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(App, arguments, prog="pushforward app", description="Try trained models in the browser.")
    from pushforward.app.serve import check_gradio, served

    check_gradio()
    from pushforward.cli.run import device_of  # imports torch

    device = device_of(options.device)
    where = (options.runs, options.host, options.port)
    with served(*where, browser=options.browser, checkpoint=options.checkpoint, device=device) as address:
        print(f"{', '.join(map(str, options.runs))}: {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    return 0
