"""Every model side by side at equal training time: the study behind the page "Every model side by side", built on `pushforward compare`.

    python -m benchmarks.comparison --seconds 60                          # all parts; resumes if interrupted
    python -m benchmarks.comparison --only meanflow --seconds 30          # models, reflow, plane, meanflow
    python -m benchmarks.comparison --data fashion_mnist --net unet --seconds 900

Parts: `models`, all presets on digits; `reflow`, rectified flow after 0, 1 and 2 reflows and distilled; `plane`, the 2-Wasserstein distance
(by optimal assignment) at 1, 2, 4 and 8 evaluations on sets of points; `meanflow`, MeanFlow's four switches. Each part replaces its
entry of docs/assets/results/comparison.json.
"""

import argparse
import inspect
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from benchmarks.coupling_study import wasserstein
from pushforward import registry
from pushforward.cli import main as command_line
from pushforward.cli.contestants import labels_of, name_of
from pushforward.errors import PushforwardError
from pushforward.evaluation.report import environment
from pushforward.formats.files import write_text
from pushforward.samplers import Dopri5

RESULTS = Path(__file__).parents[1] / "docs" / "assets" / "results"
MLP_OF_DIGITS = "net:mlp --net.hidden 512 512 --net.time-features 32 --preprocess standardise --batch-size 256 --lr 2e-3"
PLANES, COUNTS, POINTS = ("moons", "eight_gaussians", "checkerboard"), (1, 2, 4, 8), 1024
FEW_STEPS = ("meanflow", "improved_meanflow", "shortcut", "consistency")
TRAJECTORIES = 500
# MeanFlow's switches, each varied alone, with the FID of Geng et al., 2505.13447, table 1 (ImageNet 256, B/4, 80 epochs, without guidance).
SWITCHES: dict[str, dict[str, tuple[str, float]]] = {
    "share of r ≠ t": {
        "0 %": ("--instantaneous 1", 329.0), "25 %": ("", 61.1), "50 %": ("--instantaneous 0.5", 63.1),
        "100 %": ("--instantaneous 0", 67.3),
    },
    "power p of the loss weight": {
        "0": ("--power 0", 79.8), "0.5": ("--power 0.5", 64.0), "1": ("", 61.1), "1.5": ("--power 1.5", 66.6), "2": ("--power 2", 69.2),
    },
    "times": {"logit-normal(-0.4, 1)": ("", 61.1), "uniform": ("times:uniform", 65.9)},
    "guidance scale": {
        "1": ("", 61.1), "1.5": ("--guidance 1.5 --drop-cond 0.1", 33.3), "2": ("--guidance 2 --drop-cond 0.1", 20.2),
        "3": ("--guidance 3 --drop-cond 0.1", 15.5), "5": ("--guidance 5 --drop-cond 0.1", 20.8),
    },
}  # fmt: skip


def presets(net: str, skip: Sequence[str]) -> list[str]:
    """Return all presets that model examples given their class, those with a network of their own choice with the network's options.

    Without the autoencoder, which has no classes, and Stable Diffusion 3, which is given texts.
    """
    known = [one.removeprefix("models.") for one in registry.names("models")]
    fitting = [name for name in known if "classes" in inspect.signature(registry.get(f"models.{name}")).parameters]
    return [f"{name} {options_of(name, net)}".strip() for name in fitting if name not in skip]


def options_of(preset: str, net: str) -> str:
    """Return the options of a preset: those of the network if it takes one, and for FFJORD an estimated divergence."""
    function = registry.get(f"models.{preset}")
    takes = inspect.signature(function).parameters
    estimate = " --divergence hutchinson" if preset == "ffjord" else ""
    return ("" if net == "unet" or "net" not in takes else MLP_OF_DIGITS) + estimate


def compare(models: Sequence[str], out: Path, *options: str) -> dict[str, Any]:
    """Run `pushforward compare` into a folder and return its table.json; a model that fails stays in it with the reason."""
    arguments = ["compare", *models, *options, "--out", str(out)]
    status = command_line(arguments)
    if status not in (0, 1):
        sys.exit(status)
    table: dict[str, Any] = json.loads((out / "table.json").read_text(encoding="utf-8"))
    return {"rows": table["rows"], "columns": table["columns"], "notes": table["notes"]}


def trained_on(options: argparse.Namespace) -> list[str]:
    """Return the options of training that all parts share."""
    budget = ["--train-steps", str(options.steps)] if options.steps else ["--seconds", f"{options.seconds:g}"]
    return [*budget, "--seeds", *map(str, range(options.seeds))]


def straightness(folder: Path, data: str) -> dict[str, float] | None:
    """Return the straightness of a run's trajectories under the conditions of test data, or None for a model without trajectories."""
    model = pf.load(folder)
    if getattr(model, "one_step", False):  # it has learned the end of a trajectory, and none of its velocities
        return None
    cond = pf.data.load(data, "test").cond if model.classes else None
    if cond is not None:
        cond = cond[torch.arange(TRAJECTORIES) % len(cond)]
    try:
        found = pf.evaluation.straightness(
            model, TRAJECTORIES, cond, sampler=Dopri5(1e-3, 1e-3), generator=torch.Generator().manual_seed(0)
        )
    except PushforwardError:
        return None
    return {"bend": found.bend, "error": found.standard_error, "energy": found.energy, "transport": found.transport}


def models(options: argparse.Namespace) -> dict[str, Any]:
    """Compare all presets."""
    out = options.out / options.data / "models"
    names = presets(options.net, options.skip)
    table = compare(names, out, "--data", options.data, *trained_on(options))
    runs = {name: run_folder(out, name) for name in names}
    return {
        **table,
        "straightness": {name: straightness(run, options.data) for name, run in runs.items() if (run / "checkpoints").is_dir()},
    }


def run_folder(out: Path, label: str) -> Path:
    """Return the run of a preset's first seed in a comparison."""
    return out / "runs" / f"{name_of(label)}-seed0"


def chain(base: Path, out: Path, pairs: int) -> dict[str, Path]:
    """Reflow a run twice and distill the last round, each for as many steps as the run; return the runs by name."""
    for command in (("reflow", "--rounds", "2", "--out", str(out / "reflow")), ("distill", "--out", str(out / "distilled"))):
        source = base if command[0] == "reflow" else out / "reflow-2"
        if command_line([command[0], str(source), *command[1:], "--pairs", str(pairs), "--resume"]):
            sys.exit(1)
    return {"rectified flow": base, "1 reflow": out / "reflow-1", "2 reflows": out / "reflow-2", "2 reflows, distilled": out / "distilled"}


def reflow(options: argparse.Namespace) -> dict[str, Any]:
    """Compare rectified flow after 0, 1 and 2 reflows and distilled."""
    out = options.out / options.data / "reflow"
    label = f"rectified_flow {options_of('rectified_flow', options.net)}".strip()
    compare([label], out / "base", "--data", options.data, "--seconds", f"{options.seconds:g}")
    runs = chain(run_folder(out / "base", label), out, options.pairs)
    table = compare([str(run) for run in runs.values()], out / "table")
    for row in table["rows"]:
        row["model"] = next((name for name, run in runs.items() if str(run) == row["model"]), row["model"])
    return {**table, "pairs": options.pairs, "straightness": {name: straightness(run, options.data) for name, run in runs.items()}}


def plane(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the 2-Wasserstein distance to test data at few evaluations on sets of points in the plane."""
    found = {}
    for data in PLANES:
        out, names = options.out / data, ["rectified_flow", "ot_flow_matching", *FEW_STEPS]
        compare(names, out / "models", "--data", data, "--seconds", f"{options.seconds:g}", "--evaluations", *map(str, COUNTS))
        runs = {name: run_folder(out / "models", name) for name in names} | chain(
            run_folder(out / "models", "rectified_flow"), out, options.pairs
        )
        del runs["rectified_flow"]  # "rectified flow" is the same run
        test, train = pf.data.load(data, "test"), pf.data.load(data, "train")
        found[data] = {
            "data to data": wasserstein(train.x[:POINTS], test.x[:POINTS]),
            "models": {name: {"W2": distances(run, test), "straightness": straightness(run, data)} for name, run in runs.items()},
        }
        print(data, {name: one["W2"] for name, one in found[data]["models"].items()}, flush=True)
    return {"points": POINTS, "sets": found, "pairs": options.pairs}


def distances(folder: Path, test: Any) -> dict[str, float]:
    """Return the exact 2-Wasserstein distance of as many samples, with the conditions of the test points, by number of evaluations."""
    model, cond = pf.load(folder), test.cond[:POINTS] if test.cond is not None else None
    counts = (1,) if getattr(model, "one_step", False) else COUNTS
    generator = torch.Generator().manual_seed
    return {
        str(count): wasserstein(
            model.sample(POINTS, cond if model.classes else None, sampler=model.sampler_of(count), generator=generator(0)), test.x[:POINTS]
        )
        for count in counts
    }


def meanflow(options: argparse.Namespace) -> dict[str, Any]:
    """Vary MeanFlow's switches one at a time."""
    net = options_of("meanflow", options.net)
    typed = {words: f"meanflow {net} {words}".strip() for each in SWITCHES.values() for words, _ in each.values()}
    labels = dict(zip(typed, labels_of(list(typed.values())), strict=True))
    out = options.out / options.data / "meanflow"
    table = compare(list(typed.values()), out, "--data", options.data, *trained_on(options), "--evaluations", "1", "2")
    switches = {
        switch: {value: {"model": labels[words], "published FID": fid} for value, (words, fid) in values.items()}
        for switch, values in SWITCHES.items()
    }
    return {**table, "switches": switches}


PARTS = {"models": models, "reflow": reflow, "plane": plane, "meanflow": meanflow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each model, and of each round of reflow")
    parser.add_argument("--steps", type=int, help="optimisation steps of each model of the parts models and meanflow, instead of seconds")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--skip", nargs="*", default=[], help="presets to leave out")
    parser.add_argument("--net", choices=("mlp", "unet"), default="mlp", help="network of the presets that take one; unet is their default")
    parser.add_argument("--pairs", type=int, default=5000, help="pairs of each round of reflow")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    options = parser.parse_args()
    file = RESULTS / ("comparison.json" if options.data == "digits" else f"comparison-{options.data}.json")
    for part in options.only:
        began, continued = time.perf_counter(), (options.out / options.data / part).exists()
        found = PARTS[part](options)
        numbers = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        given = shlex.join(sys.argv[1:]).replace(f" --out {options.out}", "")  # where it was run is of no use to others
        facts = {
            "command": f"python -m benchmarks.comparison {given}",
            "seconds": options.seconds,
            "steps": options.steps,
            "seeds": options.seeds,
        }
        took = {"took": None if continued else round(time.perf_counter() - began), "environment": environment()}
        numbers[part] = {**facts, **took, "net": options.net, **found}
        write_text(file, json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
