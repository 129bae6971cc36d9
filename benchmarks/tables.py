"""Flows on small real tables, five folds: `python -m benchmarks.tables` writes docs/assets/results/tables.json and a table."""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from sklearn.model_selection import KFold

import pushforward as pf
from pushforward.data.dataset import Dataset
from pushforward.families.model import GenerativeModel

TABLES = ("iris", "wine", "breast_cancer", "diabetes")
BASELINES = ("gaussian", "kernel_density", "gaussian_mixture")
RESULT = Path(__file__).parents[1] / "docs/assets/results/tables.json"


def _maf(data: Dataset) -> GenerativeModel:
    return pf.models.maf(shape=data.shape, layers=5, hidden=(64, 64), activation="tanh", preprocess="standardise", levels=data.levels)


def _nsf(data: Dataset) -> GenerativeModel:
    return pf.models.nsf(shape=data.shape, layers=4, bins=8, hidden=(64, 64), preprocess="standardise", levels=data.levels)


FLOWS: dict[str, Callable[[Dataset], GenerativeModel]] = {"maf": _maf, "nsf": _nsf}


def folds(name: str) -> list[tuple[Dataset, Dataset, Dataset]]:
    """Return (train, validation, test) of each of five folds over all rows, without labels; a fifth of the non-test rows is validation.

    Measurement columns are standardised with train's mean and standard deviation, as densities with one bandwidth or ridge require.
    """
    splits = [pf.data.load(name, split) for split in ("train", "validation", "test")]
    x = torch.cat([one.x for one in splits])
    levels = splits[0].levels
    measured = torch.tensor([not isinstance(levels, tuple) or levels[k] is None for k in range(x.shape[1])])
    found = []
    for rest, test in KFold(5, shuffle=True, random_state=0).split(x):
        chosen = numpy.random.RandomState(0).permutation(rest)
        cut = len(rest) // 5
        train, validation = chosen[cut:], chosen[:cut]
        scaled = torch.where(measured, (x - x[train].mean(0)) / x[train].std(0), x)
        whole = Dataset(name, scaled, levels=levels)
        found.append((whole.subset(train.tolist()), whole.subset(validation.tolist()), whole.subset(test.tolist())))
    return found


def fitted(build: Callable[[Dataset], GenerativeModel], train: Dataset, validation: Dataset, steps: int) -> GenerativeModel:
    """Return the flow at the step with the highest validation likelihood."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as out:
        options = {"lr": 1e-3, "warmup": 20, "ema": 0.98, "validate_every": 20, "checkpoint_every": 0, "log_every": steps}
        pf.Trainer(build(train), train, validation=validation, out=Path(out), steps=steps, batch_size=64, **options).fit()
        return pf.load(out, checkpoint="best")


def nats(model: GenerativeModel, data: Dataset) -> float:
    """Return the mean log-likelihood of a row, in nats."""
    bits = pf.evaluation.bits_per_dim(model, data, draws=8, cond="none", generator=torch.Generator().manual_seed(0))
    return -bits.mean * data.x[0].numel() * float(numpy.log(2))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description="Held-out nats on small tables, five folds.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", choices=TABLES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in TABLES if options.only is None else (options.only,):
        rows: dict[str, list[float]] = {one: [] for one in (*FLOWS, *BASELINES)}
        for train, validation, test in folds(name):
            for flow, build in FLOWS.items():
                rows[flow].append(nats(fitted(build, train, validation, options.steps), test))
            fits = pf.evaluation.fit_baselines(train, validation, torch.Generator().manual_seed(0))
            for one in BASELINES:
                rows[one].append(nats(fits[one], test))
        results[name] = {one: [round(float(numpy.mean(v)), 3), round(float(numpy.std(v, ddof=1)), 3)] for one, v in rows.items()}
        print(name, len(train) + len(validation) + len(test), "rows,", test.x.shape[1], "columns:", results[name], flush=True)
    if options.only is None:
        RESULT.write_text(json.dumps({"steps": options.steps, "nats": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
