"""What `pushforward compare --explain` prints: what normalizing flows and diffusion have in common, for runs or for untrained models."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pushforward import registry
from pushforward.cli.run import load_data, run_config
from pushforward.errors import UserError
from pushforward.evaluation.explain import explain
from pushforward.formats.model import described, load, located

SHOWN = {"normalizing flow": "realnvp", "continuous flow": "ffjord", "flow matching": "rectified_flow", "diffusion": "ddpm"}
ROWS = 256  # examples for cost measurements


def explained(runs: Sequence[Path], device: torch.device) -> dict[str, dict[str, str]]:
    """Return the answers by question and model."""
    if runs:
        folders = {str(run): located(run) for run in runs}
        shapes = {described(folder).shape for folder in folders.values()}
        if len(shapes) > 1:
            raise UserError(f"the runs have events of shapes {', '.join(map(str, sorted(shapes)))}; compare runs of one shape.")
        models = {name: load(folder).to(device) for name, folder in folders.items()}
        x = load_data(run_config(runs[0]).get("data", {}), "test").in_memory(ROWS).x[:ROWS]
    else:
        torch.manual_seed(0)
        models = {name: registry.get(f"models.{preset}")(shape=(2,)).eval().to(device) for name, preset in SHOWN.items()}
        x = load_data({"name": "moons"}, "test").x[:ROWS]
    return explain(models, x.to(device))
