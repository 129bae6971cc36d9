"""Outliers by likelihood and by typicality, on Fashion-MNIST: `python -m benchmarks.outliers RUN [--path FOLDER]`.

Trains a Glow without classes on one core (about eight minutes), scores other images with it, and writes docs/assets/results/outliers.json
and outliers.svg. RUN is a folder for the trained model, which is used again if it exists; FOLDER holds the files of Fashion-MNIST.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import pushforward as pf

OUT = Path(__file__).parents[1] / "docs" / "assets" / "results"
STEPS, IMAGES, GROUP, INK = 1500, 1000, 10, "#1f2933"
COMMAND = "python -m benchmarks.outliers RUN"


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def trained(run: Path, data: Any) -> tuple[Any, float]:
    """Return the model of a run, trained if it does not exist yet, and the CPU time of the training in seconds."""
    record = run.with_suffix(".seconds")
    if not run.exists():
        before = time.process_time()
        model = pf.models.glow(1, 28, levels=2, depth=8, hidden=64, values=256)
        fitted = pf.Trainer(model, data, steps=STEPS, batch_size=64, warmup=100, ema=0.995).fit()
        record.write_text(f"{time.process_time() - before:.0f}\n")
        pf.save(fitted.averaged_model, run)
    return pf.load(run), float(record.read_text())


def others(test: Tensor) -> dict[str, Tensor]:
    """Return images (n, 1, 28, 28) in 256 levels that are no clothes, or clothes that were changed."""
    n = len(test)
    digits = pf.data.load("digits").x[:n] * 255 / 16
    enlarged = F.pad(F.interpolate(digits, scale_factor=3, mode="bilinear"), (2, 2, 2, 2))
    order = torch.randperm(28 * 28, generator=seed(1))
    return {
        "digits, enlarged": enlarged.round(),
        "black": torch.zeros_like(test),
        "one grey level": torch.randint(256, (n, 1, 1, 1), generator=seed(2)).expand(n, 1, 28, 28).to(test),
        "smoothed clothes": F.avg_pool2d(test, 3, 1, 1, count_include_pad=False).round(),
        "clothes at half contrast": (test / 2).floor(),
        "clothes upside down": test.flip(2),
        "clothes with shuffled pixels": test.flatten(1)[:, order].view_as(test),
        "noise": torch.randint(256, test.shape, generator=seed(3)).to(test),
    }


def rows(model: Any, validation: Any, test: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the numbers of each set, and its bits per dimension."""
    detector = pf.evaluation.outlier_detector(model, validation, generator=seed(0))
    limit, group_limit = (detector.threshold(size=size, false_alarms=0.05, generator=seed(4)) for size in (1, GROUP))
    own = detector.score(test, generator=seed(5))
    made: dict[str, Any] = {}
    bits = {"clothes (test)": own.likelihood}
    for name, x in {"clothes (test)": test, **others(test)}.items():
        scores = own if name == "clothes (test)" else detector.score(x, generator=seed(6))
        bits[name] = scores.likelihood
        groups, own_groups = scores.grouped(GROUP), own.grouped(GROUP)
        made[name] = {
            "images": len(x),
            "bits": float(scores.likelihood.mean()),
            "auroc_likelihood": pf.evaluation.auroc(own.likelihood, scores.likelihood),
            "auroc_typicality": pf.evaluation.auroc(own.typicality, scores.typicality),
            "auroc_typicality_groups": pf.evaluation.auroc(own_groups.typicality, groups.typicality),
            "found": float((scores.typicality > limit).double().mean()),
            "found_groups": float((groups.typicality > group_limit).double().mean()),
        }
    return made, bits


def picture(bits: dict[str, Tensor], entropy: float) -> None:
    """Draw the distribution of bits per dimension of each set."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = figure.subplots()
    shown = {name: values for name, values in bits.items() if name not in ("noise", "clothes with shuffled pixels")}  # far to the right
    for name, values in shown.items():
        own = name == "clothes (test)"
        axes.hist(
            values.tolist(),
            bins=60,
            range=(0, 8),
            density=True,
            histtype="stepfilled" if own else "step",
            label=name,
            alpha=0.4 if own else 1,
        )
    axes.axvline(entropy, color=INK, linewidth=1, linestyle=":")
    axes.set(xlabel="bits per dimension (left: more likely)", yticks=[])
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(OUT / "outliers.svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outliers", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="folder for the trained model")
    parser.add_argument("--path", help="folder with the files of Fashion-MNIST")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, validation, test = (pf.data.fashion_mnist(split, path=options.path) for split in ("train", "validation", "test"))
    model, seconds = trained(options.run, pf.data.Dataset("fashion_mnist", train.x, levels=256))
    held = pf.data.Dataset("validation", validation.x[torch.randperm(len(validation), generator=seed(7))[:IMAGES]], levels=256)
    made, bits = rows(model.eval(), held, test.x[:IMAGES].to(torch.float32))
    entropy = float(pf.evaluation.bits_per_dim(model, held, generator=seed(0)).mean)
    found = {"command": COMMAND, "steps": STEPS, "train_cpu_seconds": seconds, "entropy": entropy, "group": GROUP, "sets": made}
    (OUT / "outliers.json").write_text(json.dumps(found, indent=1) + "\n")
    picture(bits, entropy)
    for name, row in made.items():
        print(
            f"| {name} | {row['bits']:.2f} | {row['auroc_likelihood']:.3f} | {row['auroc_typicality']:.3f} "
            f"| {row['auroc_typicality_groups']:.3f} | {row['found']:.0%} |"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
