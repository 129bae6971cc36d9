"""`pushforward demo`: a class-conditional rectified flow on real handwritten digits, trained and evaluated in two minutes."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pushforward.cli.evaluate import Evaluate, evaluate, show
from pushforward.cli.options import check_whole, parse
from pushforward.cli.run import check_folder, device_of, load_data, notify
from pushforward.cli.starting import finish, start
from pushforward.formats.run import check_free
from pushforward.nn.mlp import MLP
from pushforward.training.settings import Settings


@dataclass(frozen=True)
class Demo:
    """Train and evaluate a rectified flow on scikit-learn's handwritten digits.

    Args:
        out: run folder.
        steps: optimisation steps; the default takes under a minute on one CPU core.
        seed: seed of everything random.
        device: "auto", "cpu", "cuda", ...
        threads: CPU threads while training. The matrices are so small that a second thread is a third faster on an idle machine, but
            much slower (60 to 10 steps/s) when another process uses the core.
        overwrite: replace an existing run.
    """

    out: Path = Path("runs/demo")
    steps: int = 4000
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_whole(self, {"steps": 1, "seed": 0, "threads": 1})


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Demo, arguments, prog="pushforward demo", description="Train and evaluate a rectified flow on handwritten digits.")
    began = time.perf_counter()
    check_free(options.out, options.overwrite)
    check_folder(options.out, f"--out is {options.out}")
    device_of(options.device)
    section = {"name": "digits"}
    train, validation = load_data(section, "train"), load_data(section, "validation")
    section["fingerprint"] = train.fingerprint()
    model = {"net": MLP.Config(hidden=(512, 512), time_features=32), "drop_cond": 0.1, "preprocess": "standardise"}
    settings = Settings(steps=options.steps, lr=2e-3, seed=options.seed, validate_every=500, checkpoint_every=1000, log_every=25)
    trainer = start(
        "rectified_flow", model, settings, train, validation, options.out,
        section=section, device=device_of(options.device), overwrite=options.overwrite,
    )  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    trainer.fit()
    torch.set_num_threads(before)
    if trainer.stopped_by is not None:
        return finish(trainer)
    command = "pushforward demo " + " ".join(shlex.quote(one) for one in arguments)
    facts = {"seconds of training": f"{trainer.seconds:.0f}"}
    judging = Evaluate(run=options.out, seed=options.seed, device=options.device)
    judged = evaluate(judging, command.strip(), facts, lambda text: notify(f"{text} ..."))
    if judged is not None:
        show(judged, options.out)
    notify(f"the whole command took {time.perf_counter() - began:.0f} s")
    return 0
