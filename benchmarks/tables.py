"""Flows by their defaults on small real tables, five folds: `python -m benchmarks.tables` writes docs/assets/results/tables.json.

Compared with each flow: a Gaussian, a kernel density and a Gaussian mixture, regularised on validation, and zuko's flow of the same kind
with its own defaults, ended early on validation. Held-out nats a row in the data's own units; classes are not used.
"""

import argparse
import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy
import sklearn.datasets
import torch
import zuko
from sklearn.model_selection import KFold
from torch import Tensor

import pushforward as pf
from pushforward.data.dataset import Dataset
from pushforward.functional.levels import spread

TABLES = ("iris", "wine", "breast_cancer", "diabetes", "digits")
BASELINES = ("gaussian", "kernel_density", "gaussian_mixture")
FLOWS = ("nsf", "maf")
RESULT = Path(__file__).parents[1] / "docs/assets/results/tables.json"
DRAWS = 8  # dequantisation draws of quantised rows
EPOCHS, PATIENCE = 2000, 50  # of zuko: at most, and without improvement
Fold = tuple[Dataset, Dataset, Dataset]


def folds(name: str, seed: int = 0) -> list[Fold]:
    """Return (train, validation, test) of each of five folds over all rows, without labels; a fifth of the non-test rows is validation.

    The seed is that of the split, so that another one shows how far the results are those of the rows that were drawn.

    Tables are read as their CSV would be, so columns of integers are dequantised: the density of a column that repeats a few values would
    otherwise grow with the sharpness of a model without bound.
    """
    if name == "digits":
        splits = [pf.data.load(name, split) for split in ("train", "validation", "test")]
        whole = Dataset(name, torch.cat([one.x for one in splits]), levels=splits[0].levels)
    else:
        raw = {"scaled": False} if name == "diabetes" else {}
        whole = Dataset(name, getattr(sklearn.datasets, f"load_{name}")(as_frame=True, **raw).data)
    found: list[Any] = []
    for rest, test in KFold(5, shuffle=True, random_state=seed).split(whole.x):
        chosen = numpy.random.RandomState(seed).permutation(rest)
        cut = len(rest) // 5
        found.append(tuple(whole.subset(rows.tolist()) for rows in (chosen[cut:], chosen[:cut], test)))
    return found


def flow(preset: str, train: Dataset, validation: Dataset) -> Any:
    """Return a preset trained by its defaults, with the weights that were best on validation."""
    torch.manual_seed(0)
    chosen = pf.training.defaults(preset, train)
    data = {"shape": train.shape, "levels": train.levels, "schema": train.schema}
    model = getattr(pf.models, preset)(**data, **chosen.model)
    return pf.Trainer(model, train, validation=validation, log_every=10_000, **chosen.training).fit().best_model


class Zuko:
    """A flow of zuko with its own defaults on standardised rows, trained by Adam until validation has not improved for 50 epochs."""

    def __init__(self, kind: str, train: Dataset, validation: Dataset) -> None:
        torch.manual_seed(0)
        self.levels, rows = train.levels, train.x.flatten(1)
        self.mean, std = rows.mean(0), rows.std(0)
        self.std = torch.where(std > 0, std, 1.0)
        if isinstance(train.levels, int):
            self.std = self.std.clamp_min(1.0)  # a pixel that is nearly always 0 is spread over a cell of width 1
        self.flow = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF}[kind](rows.shape[1])
        optimiser = torch.optim.Adam(self.flow.parameters(), lr=1e-3)
        best, weights, since = -math.inf, copy.deepcopy(self.flow.state_dict()), 0
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(rows)).split(64):
                loss = -self.log_prob(self.dequantised(train.x[batch])).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                torch.manual_seed(1)
                now = float(self.log_prob(self.dequantised(validation.x)).mean())
            best, since, weights = (now, 0, copy.deepcopy(self.flow.state_dict())) if now > best else (best, since + 1, weights)
            if since >= PATIENCE:
                break
        self.flow.load_state_dict(weights)

    def dequantised(self, x: Tensor) -> Tensor:
        """Return quantised rows spread uniformly over their cells, others as they are."""
        return x if self.levels is None else spread(x, self.levels, torch.rand(x.shape))

    def log_prob(self, x: Tensor, cond: Any = None) -> Tensor:
        """Return log p (n,) of dequantised rows, in nats."""
        value: Tensor = self.flow().log_prob((x.flatten(1) - self.mean) / self.std) - self.std.log().sum()
        return value


@torch.no_grad()
def nats(model: Any, data: Dataset) -> float:
    """Return the mean log-likelihood of a row, in nats."""
    draws = DRAWS if data.levels is not None else 1
    bits = pf.evaluation.bits_per_dim(model, data, draws=draws, cond="none", generator=torch.Generator().manual_seed(0))
    return -bits.mean * data.x[0].numel() * math.log(2)


def measured(name: str, others: bool = True, seed: int = 0) -> dict[str, Any]:
    """Return the nats of each fold by model, for one table; without the others, of the library's flows alone."""
    rows: dict[str, list[float]] = {}
    for train, validation, test in folds(name, seed):
        fits: dict[str, Any] = {kind: flow(kind, train, validation) for kind in FLOWS}
        if others:
            fits |= pf.evaluation.fit_baselines(train, validation, torch.Generator().manual_seed(0), only=BASELINES)
            fits |= {f"zuko {kind}": Zuko(kind, train, validation) for kind in FLOWS}
        for model, fit in fits.items():
            rows.setdefault(model, []).append(round(nats(fit, test), 3))
        print(f"{name}, fold {len(rows['nsf'])}: " + ", ".join(f"{model} {value[-1]:.2f}" for model, value in rows.items()), flush=True)
    return {"rows": len(train) + len(validation) + len(test), "columns": test.x[0].numel(), "nats": rows}


def behind(nats_of: dict[str, list[float]], model: str, other: str) -> tuple[float, float]:
    """Return the mean difference between a model and another over the folds, and its standard error."""
    difference = numpy.array(nats_of[model]) - numpy.array(nats_of[other])
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def table(results: dict[str, Any]) -> str:
    """Return the results as a table in Markdown: means, and differences to the best baseline and to zuko with their standard errors."""
    lines = [
        "| table | flow | nats a row | best baseline | difference | zuko, ended early | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        of = one["nats"]
        best = max(BASELINES, key=lambda model: numpy.mean(of[model]))
        for kind in FLOWS:
            shown = [f"{numpy.mean(of[model]):.2f}" for model in (kind, best, f"zuko {kind}")]
            versus = ["{:+.2f} ± {:.2f}".format(*behind(of, kind, other)) for other in (best, f"zuko {kind}")]
            size = f"{name}, {one['rows']} x {one['columns']}"
            lines.append(f"| {size} | {kind} | {shown[0]} | {best.replace('_', ' ')} {shown[1]} | {versus[0]} | {shown[2]} | {versus[1]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description="Held-out nats on small tables, five folds.")
    parser.add_argument("--only", choices=TABLES, help="measure one table, and keep the others' results")
    parser.add_argument("--own", action="store_true", help="measure the library's flows, and keep the results of baselines and zuko")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split into folds; of another than 0 the table is printed only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = TABLES if options.only is None else (options.only,)
    if options.seed:
        print(table({name: measured(name, seed=options.seed) for name in names}))
        return 0
    for name in names:
        result = measured(name, others=not options.own)
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        if options.own:
            result["nats"] = known[name]["nats"] | result["nats"]
        known = {one: known[one] for one in TABLES if one in known and "rows" in known[one]} | {name: result}
        RESULT.write_text(json.dumps({one: known[one] for one in TABLES if one in known}, indent=1) + "\n")
    print(table(json.loads(RESULT.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
