"""A trained model's likelihood on digits next to a Gaussian's, paired by row: `python -m benchmarks.digits_likelihood runs/ddpm-digits`.

The run is that of `pushforward train ddpm --data digits --out runs/ddpm-digits`. The likelihood is the ODE's given the class, with one
dequantisation draw and one Hutchinson estimate a row.
"""

import argparse
import math

import torch
from torch import Tensor

import pushforward as pf
from pushforward.data.dataset import Dataset

BASELINES = {"gaussian": "none", "gaussian_per_class": "given"}  # and whether they are given the class


def nats(density: object, rows: Dataset, cond: str, **options: str) -> Tensor:
    """Return log p (n,) of rows in nats."""
    bits = pf.evaluation.bits_per_dim(density, rows, draws=1, cond=cond, generator=torch.Generator().manual_seed(0), **options)
    return -bits.per_example * rows.x[0].numel() * math.log(2)


def shown(values: Tensor) -> str:
    return f"{float(values.mean()):.1f} ± {float(values.std()) / math.sqrt(len(values)):.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits_likelihood", description="Held-out nats of a run on digits.")
    parser.add_argument("run", help="a run of digits, trained with classes")
    parser.add_argument("--rows", type=int, default=90, help="test rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, validation, test = (pf.data.load("digits", split) for split in ("train", "validation", "test"))
    test = test.subset(range(options.rows))
    own = nats(pf.load(f"{options.run}/checkpoints/best").eval(), test, "given", divergence="hutchinson")
    print(f"{options.run}, given the class: {shown(own)} nats a row")
    fitted = pf.evaluation.fit_baselines(train, validation, torch.Generator().manual_seed(0), only=tuple(BASELINES))
    for name, cond in BASELINES.items():
        other = nats(fitted[name], test, cond)
        print(f"{name}: {shown(other)}; the run is ahead by {shown(own - other)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
