"""Study of couplings: OT-CFM, I-CFM, FM and reflowed rectified flow on four pairs of distributions in the plane.

    python -m benchmarks.coupling_study            # writes docs/assets/results/couplings.json and couplings.svg
    python -m benchmarks.coupling_study --table    # prints the table of that file, measured and published numbers

Measured: the exact 2-Wasserstein distance of samples to data on 10,000 points each (by the network simplex of the package POT, 20 s an
assignment), and the normalised path energy |int E|v|² dt - W2²| / W2², where W2 is that of the two ends. Published: Tong et al.,
2307.03672, table 2.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path as FilePath
from typing import Any

import numpy
import torch
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import make_moons, make_s_curve
from torch import Tensor

import pushforward as pf
from pushforward.paths import Linear, Path

OUT = FilePath(__file__).parents[1] / "docs" / "assets" / "results"
POINTS, STEPS, BATCH, PAIRS = 10_000, 1500, 256, 10_000
FEW = 2048  # largest size for scipy's assignment, which takes minutes for 10,000
NET = pf.nn.MLP.Config(hidden=(64, 64, 64))
METHODS = ("OT-CFM", "I-CFM", "FM", "RF, reflowed")
NAMES = {"n-8g": "N → 8 gaussians", "m-8g": "moons → 8 gaussians", "n-m": "N → moons", "n-s": "N → S-curve"}

# Tong et al., 2307.03672, table 2: mean and standard deviation over 5 seeds on 10,000 points, in their own scales and steps.
PUBLISHED: dict[str, dict[str, dict[str, tuple[float, float] | None]]] = {
    "W2": {
        "OT-CFM": {"n-8g": (0.303, 0.043), "m-8g": (0.601, 0.027), "n-m": (0.130, 0.016), "n-s": (0.144, 0.028)},
        "I-CFM": {"n-8g": (0.373, 0.103), "m-8g": (1.557, 0.407), "n-m": (0.178, 0.014), "n-s": (0.242, 0.141)},
        "FM": {"n-8g": (0.343, 0.058), "m-8g": None, "n-m": (0.209, 0.055), "n-s": (0.198, 0.037)},
        "RF, reflowed": {"n-8g": (0.421, 0.071), "m-8g": (1.525, 0.330), "n-m": (0.283, 0.045), "n-s": (0.345, 0.079)},
    },
    "NPE": {
        "OT-CFM": {"n-8g": (0.031, 0.027), "m-8g": (0.015, 0.010), "n-m": (0.083, 0.009), "n-s": (0.027, 0.012)},
        "I-CFM": {"n-8g": (0.202, 0.055), "m-8g": (2.680, 0.292), "n-m": (0.891, 0.120), "n-s": (0.856, 0.031)},
        "FM": {"n-8g": (0.190, 0.054), "m-8g": None, "n-m": (0.762, 0.099), "n-s": (0.743, 0.116)},
        "RF, reflowed": {"n-8g": (0.044, 0.031), "m-8g": (0.203, 0.090), "n-m": (0.130, 0.078), "n-s": (0.099, 0.066)},
    },
}


class Smoothed(Path):
    """Flow matching's own path (Lipman et al.): alpha = 1 - t, sigma = s + (1 - s) t, where s = 0.01 remains at the data."""

    least = 0.01

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return self.least + (1 - self.least) * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.least)


def draw(name: str, n: int, seed: int) -> Tensor:
    """Return n points (n, 2) of "n", "8g", "m" or "s"."""
    generator = torch.Generator().manual_seed(seed)
    if name == "n":
        return torch.randn(n, 2, generator=generator)
    if name == "8g":  # on a circle of radius 5, standard deviation 0.56
        angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
        return 5 * torch.stack((angle.cos(), angle.sin()), 1) + 0.1**0.25 * torch.randn(n, 2, generator=generator)
    if name == "m":
        return torch.as_tensor(3 * make_moons(n, noise=0.2, random_state=seed)[0] - 1, dtype=torch.float32)
    return torch.as_tensor(make_s_curve(n, noise=0.05, random_state=seed)[0][:, [0, 2]] * [2.0, 1.0], dtype=torch.float32)


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Return the 2-Wasserstein distance of two point sets of equal size, by optimal assignment."""
    cost = (torch.cdist(x.double(), y.double()) ** 2).numpy()
    if len(x) <= FEW:
        return float(cost[linear_sum_assignment(cost)].mean() ** 0.5)
    import ot  # only needed by this study

    shares = numpy.full(len(x), 1 / len(x))
    return float(ot.emd2(shares, shares, cost, numItermax=10_000_000) ** 0.5)


def trained(model: Any, data: Any, steps: int, seed: int) -> Any:
    """Return the model after training, with averaged weights."""
    trainer = pf.Trainer(model, data, steps=steps, batch_size=BATCH, block=BATCH, lr=2e-3, ema=0.995, seed=seed, weight_decay=0.0)
    return trainer.fit().averaged_model.eval()


def models(pair: str, seed: int, steps: int = STEPS, methods: tuple[str, ...] = METHODS) -> dict[str, Any]:
    """Return the trained models of a pair of distributions: from the first one to the second."""
    source, target = pair.split("-")
    data = draw(target, 50_000, 1000 + seed)
    base = None if source == "n" else pf.bases.Samples(draw(source, 50_000, 2000 + seed))
    couplings: dict[str, tuple[Any, Any]] = {
        "OT-CFM": (Linear(), pf.pairings.MinibatchOT()),
        "I-CFM": (Linear(), pf.pairings.Independent()),
        "FM": (Smoothed(), pf.pairings.Independent()),
    }
    found = {}
    for name, (path, pairing) in couplings.items():
        if (name == "FM" and base is not None) or name not in (*methods, "I-CFM"):
            continue
        torch.manual_seed(seed)
        model = pf.families.PathModel(NET.build((2,)), (2,), path, pairing=pairing, base=base)
        found[name] = trained(model, data, steps, seed)
    if "RF, reflowed" in methods:
        pairs = pf.reflow(found["I-CFM"], PAIRS, generator=torch.Generator().manual_seed(seed))
        found["RF, reflowed"] = trained(deepcopy(found["I-CFM"]), pairs, steps, seed)
    return {name: found[name] for name in methods if name in found}


def measured(pair: str, model: Any, ends: float, seed: int, points: int = POINTS) -> dict[str, float]:
    """Return a model's distance to held-out data and its normalised path energy."""
    source, target = pair.split("-")
    noise, truth = draw(source, points, 3000 + seed), draw(target, points, 4000 + seed)
    with torch.no_grad():
        made = model.decode(noise)
    energy = pf.evaluation.straightness(model, 4000, generator=torch.Generator().manual_seed(seed)).energy
    return {"W2": wasserstein(made, truth), "energy": energy, "NPE": abs(energy - ends**2) / ends**2}


def transport(pair: str, seed: int, points: int = POINTS) -> float:
    """Return the 2-Wasserstein distance between the two distributions of a pair."""
    source, target = pair.split("-")
    return wasserstein(draw(source, points, 3000 + seed), draw(target, points, 4000 + seed))


def study(file: FilePath, seeds: int, steps: int) -> None:
    """Write all results by pair, method and seed; results already in a file with the same settings are kept."""
    settings = {"points": POINTS, "steps": steps, "batch": BATCH, "pairs": PAIRS, "torch": str(torch.__version__)}
    numbers = json.loads(file.read_text()) if file.exists() else {}
    if any(numbers.get(key) != value for key, value in settings.items()):
        numbers = {"command": "python -m benchmarks.coupling_study", **settings, "cpu_seconds": 0, "rows": {pair: {} for pair in NAMES}}
    for seed in range(seeds):
        for pair, rows in numbers["rows"].items():
            if str(seed) in rows:
                continue
            began, target = time.process_time(), pair.split("-")[1]
            ends = transport(pair, seed)
            floor = wasserstein(draw(target, POINTS, 5000 + seed), draw(target, POINTS, 4000 + seed))
            found = {name: measured(pair, model, ends, seed) for name, model in models(pair, seed, steps).items()}
            rows[str(seed)] = {"ends": ends, "floor": floor, "methods": found}
            numbers["cpu_seconds"] += round(time.process_time() - began)
            file.write_text(json.dumps(numbers, indent=1) + "\n")
            print(pair, seed, {name: round(one["NPE"], 3) for name, one in found.items()}, f"{numbers['cpu_seconds']} s", flush=True)


def table(numbers: dict[str, Any], what: str) -> str:
    """Return a Markdown table of "W2" or "NPE": measured values, published values in parentheses."""
    lines = ["| | " + " | ".join(NAMES.values()) + " |", "|---|" + "---|" * len(NAMES)]
    for method in METHODS:
        cells = []
        for pair in NAMES:
            values = [row["methods"][method][what] for row in numbers["rows"][pair].values() if method in row["methods"]]
            known = PUBLISHED[what][method][pair]
            own = f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else "–"
            cells.append(own + (f" ({known[0]:.3f} ± {known[1]:.3f})" if known else ""))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if what == "W2":
        floors = [statistics.mean(row["floor"] for row in numbers["rows"][pair].values()) for pair in NAMES]
        lines.append("| data to data | " + " | ".join(f"{value:.3f}" for value in floors) + " |")
    return "\n".join(lines)


def picture(path: FilePath, steps: int) -> None:
    """Draw trajectories of each method from moons to 8 gaussians."""
    found = models("m-8g", 0, steps)
    figure = Figure(figsize=(3.4 * len(found), 3.5), dpi=150, layout="constrained")
    noise = draw("m", 300, 3000)
    for axes, (name, model) in zip(figure.subplots(1, len(found), sharex=True, sharey=True), found.items(), strict=True):
        states = [noise]
        for k in range(40):
            states.append(pf.samplers.Heun(1)(model.denoiser(), states[-1], 1 - k / 40, 1 - (k + 1) / 40).detach())
        ways = torch.stack(states)
        axes.plot(ways[:, :, 0], ways[:, :, 1], color="#9aa5b1", linewidth=0.4, rasterized=True)
        axes.scatter(*noise.T, s=3, color="#1f2933", linewidths=0, zorder=3, rasterized=True)
        axes.scatter(*ways[-1].T, s=3, color="#2563eb", linewidths=0, zorder=3, rasterized=True)
        axes.set_title(name, fontsize=11, color="#1f2933")
        axes.set_aspect("equal")
        axes.set_axis_off()
    figure.savefig(path, metadata={"Date": None})


def main(line: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    file = OUT / "couplings.json"
    if not options.table:
        study(file, options.seeds, options.steps)
        picture(OUT / "couplings.svg", options.steps)
    numbers = json.loads(file.read_text())
    for what in ("W2", "NPE"):
        line(f"\n{what}, measured (published)\n\n{table(numbers, what)}")


if __name__ == "__main__":
    main()
