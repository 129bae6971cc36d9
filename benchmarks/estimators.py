"""`FlowDensity` next to scikit-learn's densities: `python -m benchmarks.estimators` writes its table into the guide.

Held-out nats a row, in the data's own units, over five folds of scikit-learn's tables, and on one table of 10,000 rows of 10 columns.
KernelDensity has its bandwidth by cross-validation, and GaussianMixture components and covariance type, on standardised rows. Columns of
integers are spread over their unit cells for all of them, as `FlowDensity` does itself: a density of a column that repeats a few values
would grow without bound.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import sklearn.datasets
import torch
from numpy import ndarray
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

import pushforward as pf

TABLES = ("iris", "wine", "breast_cancer", "diabetes", "digits")
RESULT = Path(__file__).parents[1] / "docs/assets/results/estimators.json"
PAGES = [RESULT.parents[2] / language / "scikit-learn.md" for language in ("en", "zh")]
SEPARATOR = "|---|---:|---:|---:|---:|---:|\n"
DRAWS = 8
ROWS, MANY = 10_000, 5_000
OWN, OTHERS = "FlowDensity", ("KernelDensity", "GaussianMixture")


def rows_of(name: str) -> ndarray:
    """Return all rows of one of scikit-learn's tables, without labels."""
    raw = {"scaled": False} if name == "diabetes" else {}
    found: ndarray = getattr(sklearn.datasets, f"load_{name}")(**raw).data
    return found


def curved(n: int) -> tuple[ndarray, ndarray]:
    """Return n rows of 10 columns, four of which depend on others by a square, a sine, a scale and a fold, and their true log-densities."""
    z = numpy.random.RandomState(0).normal(size=(n, 10))
    x = z.copy()
    x[:, 1] += x[:, 0] ** 2
    x[:, 3] += numpy.sin(3 * x[:, 2])
    x[:, 5] *= numpy.exp(x[:, 4] / 2)
    x[:, 7] = numpy.abs(x[:, 6]) + 0.3 * x[:, 7]
    truth = -0.5 * (z**2).sum(1) - 5 * math.log(2 * math.pi) - x[:, 4] / 2 - math.log(0.3)
    return x, truth


class Standardised:
    """One of scikit-learn's densities by cross-validation, on standardised rows whose integers are spread over their cells."""

    def __init__(self, search: GridSearchCV, x: ndarray, cells: ndarray) -> None:
        self.cells, self.random = cells, numpy.random.RandomState(0)
        spread = self.spread(x)
        self.mean, self.std = spread.mean(0), spread.std(0)
        self.search = search.fit((spread - self.mean) / self.std)

    def spread(self, x: ndarray) -> ndarray:
        """Return rows with a draw within the cells of their integers."""
        found: ndarray = x + self.cells * self.random.uniform(size=x.shape)
        return found

    def score(self, x: ndarray) -> float:
        """Return the mean log-density of rows, over draws within their cells."""
        draws = DRAWS if self.cells.any() else 1
        each = [self.search.best_estimator_.score_samples((self.spread(x) - self.mean) / self.std).mean() for _ in range(draws)]
        return float(numpy.mean(each) - numpy.log(self.std).sum())


def kernel_density(x: ndarray, cells: ndarray) -> Standardised:
    """Return a kernel density with its bandwidth by cross-validation."""
    count, folds = (25, 5) if len(x) < MANY else (9, 2)  # each evaluation of a row sums over all others
    return Standardised(GridSearchCV(KernelDensity(rtol=1e-4), {"bandwidth": numpy.geomspace(0.05, 2, count)}, cv=folds), x, cells)


def gaussian_mixture(x: ndarray, cells: ndarray) -> Standardised:
    """Return a mixture of Gaussians with components, covariance type and its regularisation by cross-validation."""
    grid = {
        "n_components": [1, 2, 3, 5, 8, 12, 20] + [30] * (len(x) > 1000),
        "covariance_type": ["full", "tied", "diag"],
        "reg_covar": [1e-6, 1e-2] if len(x) <= 1000 else [1e-3],
    }
    return Standardised(GridSearchCV(GaussianMixture(random_state=0), grid), x, cells)


def flow_density(x: ndarray, cells: ndarray) -> Any:
    """Return the library's density by its defaults."""
    return pf.estimators.FlowDensity(random_state=0).fit(x)


FITS: dict[str, Callable[[ndarray, ndarray], Any]] = {
    OWN: flow_density,
    "KernelDensity": kernel_density,
    "GaussianMixture": gaussian_mixture,
}


def measured(x: ndarray, folds: list[tuple[ndarray, ndarray]], name: str) -> dict[str, Any]:
    """Return held-out nats and seconds of the CPU for a fit, of each fold by model."""
    cells = (x == numpy.rint(x)).all(0).astype(float)
    nats: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for train, test in folds:
        for model, fit in FITS.items():
            since = time.process_time()
            density = fit(x[train], cells)
            seconds.setdefault(model, []).append(round(time.process_time() - since, 1))
            nats.setdefault(model, []).append(round(density.score(x[test]), 3))
            if model == OWN:
                print(f"{name}: {density.weights_}, steps {density.n_steps_}", flush=True)
        print(f"{name}, fold {len(nats[OWN])}: " + ", ".join(f"{model} {each[-1]:.2f}" for model, each in nats.items()), flush=True)
    return {"rows": len(x), "columns": x.shape[1], "nats": nats, "seconds": seconds}


def result(name: str) -> dict[str, Any]:
    """Return the measurement of one table."""
    if name in TABLES:
        x = rows_of(name)
        return measured(x, list(KFold(5, shuffle=True, random_state=0).split(x)), name)
    x, truth = curved(ROWS + 2000)
    found = measured(x, [(numpy.arange(ROWS), numpy.arange(ROWS, len(x)))], name)
    return found | {"rows": ROWS, "truth": round(float(truth[ROWS:].mean()), 3)}


def table(results: dict[str, Any]) -> str:
    """Return the rows of the table in Markdown: means over the folds, and the paired difference to the best of scikit-learn's."""
    lines = []
    for name, one in results.items():
        nats = {model: numpy.array(each) for model, each in one["nats"].items()}
        best = max(OTHERS, key=lambda model: nats[model].mean())
        difference = nats[OWN] - nats[best]
        error = f" ± {difference.std(ddof=1) / math.sqrt(len(difference)):.2f}" if len(difference) > 1 else ""
        shown = " | ".join(f"{nats[model].mean():.2f}" for model in (OWN, *OTHERS))
        seconds = numpy.mean(one["seconds"][OWN])
        lines.append(f"| {name}, {one['rows']:,} × {one['columns']} | {shown} | {difference.mean():+.2f}{error} | {seconds:.0f} s |")
    return "\n".join(lines)


def write_rows(page: Path, rows: str) -> None:
    """Replace the rows of the page's table by these."""
    before, line, after = page.read_text(encoding="utf-8").partition(SEPARATOR)
    rest = after.lstrip("\n").splitlines(keepends=True)
    kept = next((k for k, one in enumerate(rest) if not one.startswith("|")), len(rest))
    page.write_text(before + line + rows + "\n" + "".join(rest[kept:]), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description="FlowDensity next to scikit-learn's densities.")
    parser.add_argument("--only", choices=(*TABLES, "curved"), help="measure one table, and keep the others' results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in (*TABLES, "curved") if options.only is None else (options.only,):
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        known[name] = result(name)
        ordered = {one: known[one] for one in (*TABLES, "curved") if one in known}
        RESULT.write_text(json.dumps(ordered, indent=1) + "\n")
    rows = table(json.loads(RESULT.read_text()))
    for page in PAGES:
        write_rows(page, rows)
    print(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
