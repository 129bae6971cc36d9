"""Discrete flows on Fashion-MNIST with equal training time on one core.

    python -m benchmarks.image_flows RUNS     # resumes from RUNS; writes docs/assets/results/fashion-flows.json, and pictures

Steps were set so that every training command takes about a quarter of an hour on one core of the machine on which this was first run; the
measured time is reported with the results.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from pushforward.evaluation.pictures import picture_of

OUT = Path(__file__).parents[1] / "docs" / "assets" / "results"
COMMON = "--data fashion_mnist --batch-size 64 --warmup 100 --ema 0.995 --validate-every 500 --checkpoint-every 500 --log-every 50"
TRAIN = {
    "nice": "nice --steps 2250 --preprocess logit",
    "realnvp_image": "realnvp_image --steps 2100",
    "glow": "glow --steps 3300 --levels 2 --depth 8 --hidden 64",
    "nsf": "nsf --steps 1300 --layers 6 --hidden 256 256 --preprocess logit",
    "tarflow": "tarflow --steps 2000 --layers 4 --width 96 --depth 2 --noise 0 --no-denoise --preprocess logit",
}
EVALUATE = "--samples 500 --compared 500 --scored 500 --draws 1"  # as for the U-Net and DiT; bits per dimension are of all test images


def command(arguments: str, record: Path) -> float:
    """Run the command line and return its CPU time in seconds, which is stored in the file `record`."""
    if not record.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "pushforward", *shlex.split(arguments)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        record.write_text(f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.0f}\n")
    return float(record.read_text())


def judged(name: str, run: Path) -> dict[str, Any]:
    """Train and evaluate a flow, and return its row."""
    train = f"train {TRAIN[name].partition(' ')[0]} {COMMON} {TRAIN[name].partition(' ')[2]}"
    seconds = command(f"{train} --out {shlex.quote(str(run))}", run.with_suffix(".trained"))
    command(f"evaluate {shlex.quote(str(run))} {EVALUATE}", run.with_suffix(".judged"))
    model = pf.load(run)
    test = pf.data.load("fashion_mnist", "test")
    bits = pf.evaluation.bits_per_dim(model, test, cond="given", generator=torch.Generator().manual_seed(0))
    parameters = sum(p.numel() for p in model.parameters())
    found = {"command": f"pushforward {train}", "cpu_seconds": seconds, "parameters": parameters, "test_images": len(test)}
    return {**found, "bits": bits.mean, "bits_error": bits.standard_error, **json.loads((run / "evaluation.json").read_text())}


def pictures(name: str, run: Path) -> None:
    """Draw four samples of each class, and interpolations between test images of a class."""
    model = pf.load(run)
    labels = torch.arange(10)
    made = [model.sample(10, labels, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    test = pf.data.load("fashion_mnist", "test")
    rows = {int(label): [k for k in range(300) if int(test[k][1]) == label][:2] for label in (0, 5, 7, 8)}
    a, b = (torch.stack([test[places[end]][0] for places in rows.values()]) for end in (0, 1))
    between = pf.editing.interpolate(model, a, b, steps=10, cond=torch.tensor(list(rows)))
    picture_of(torch.cat((*made, between.flatten(0, 1))), OUT / f"fashion-{name}-samples.png", levels=model.levels, columns=10)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows of the page's table."""
    lines = []
    for name, row in rows.items():
        ratio = row["distance"] / row["distance_train"]
        lines.append(
            f"| `{name}` | {row['parameters']:,} | {row['cpu_seconds'] / 60:.1f} | {row['bits']:.3f} ± {row['bits_error']:.3f} "
            f"| {row['distance']:.1f} ({ratio:.2f}x) | {row['recognised']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", choices=TRAIN)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    file = OUT / "fashion-flows.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    for name in TRAIN if options.only is None else (options.only,):
        run = options.runs / f"fashion-{name}"
        rows[name] = judged(name, run)
        pictures(name, run)
        file.write_text(json.dumps({one: rows[one] for one in TRAIN if one in rows}, indent=1) + "\n")
        print(table({name: rows[name]}), flush=True)


if __name__ == "__main__":
    main()
