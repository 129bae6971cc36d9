"""Study of the four improvements of Stable Diffusion 3 over earlier latent diffusion, at equal numbers of steps.

    python -m benchmarks.sd3_study --part times --write     # into docs/assets/results/sd3_study/; also positions, latents, qk_norm
    python -m benchmarks.sd3_study --table                  # prints the tables of these files

Data: pictures of coloured shapes with captions, drawn in code (`benchmarks/shapes.py`). A run of the same part, steps and torch version
continues where its file ends.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import sd3_study_parts as parts

FOLDER = Path(__file__).parents[1] / "docs" / "assets" / "results" / "sd3_study"
PARTS: dict[str, tuple[Callable[[str, int, int], parts.Values], list[str], int]] = {  # a run, the variants, steps
    "times": (parts.times, list(parts.TIMES), 300),
    "positions": (parts.positions, list(parts.AXES), 200),
    "latents": (parts.latents, list(parts.CHANNELS), 150),
    "qk_norm": (parts.qk_norm, list(parts.RATES), 120),
}


def study(part: str, seeds: int, steps: int, file: Path | None) -> dict[str, Any]:
    """Return the results of a part by variant and seed; with a file, those in it are kept and new ones are added after each run."""
    run, variants, _ = PARTS[part]
    settings = {"steps": steps, "torch": str(torch.__version__)}
    numbers = read(file) if file is not None and file.exists() else {}
    if any(numbers.get(key) != value for key, value in settings.items()):
        command = f"python -m benchmarks.sd3_study --part {part} --seeds {seeds} --steps {steps} --write"
        numbers = {"command": command, **settings, "cpu_seconds": 0, "rows": {variant: {} for variant in variants}}
    for seed in range(seeds):
        for variant in variants:
            if str(seed) in numbers["rows"][variant]:
                continue
            began = time.process_time()
            numbers["rows"][variant][str(seed)] = values = run(variant, seed, steps)
            numbers["cpu_seconds"] += round(time.process_time() - began)
            print(variant, seed, {name: round(one, 4) for name, one in values.items()}, f"{numbers['cpu_seconds']} s", flush=True)
            if file is not None:
                file.parent.mkdir(exist_ok=True)
                file.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return numbers


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def table(numbers: dict[str, Any]) -> str:
    """Return a Markdown table of mean ± standard error over the seeds."""
    columns = list(next(iter(next(iter(numbers["rows"].values())).values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for variant, seeds in numbers["rows"].items():
        cells = [cell([values[name] for values in seeds.values()]) for name in columns]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    digits = 1 if mean >= 10 else 3
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sd3_study", description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps of a run; latents: of the autoencoder, twice as many of the flow")
    parser.add_argument("--write", action="store_true", help=f"write {FOLDER.name}/PART.json")
    parser.add_argument("--table", action="store_true", help="print the tables of the files, without a run")
    options = parser.parse_args()
    for part in [options.part] if options.part else list(PARTS):
        steps = options.steps or PARTS[part][2]
        file = FOLDER / f"{part}.json"
        numbers = read(file) if options.table else study(part, options.seeds, steps, file if options.write else None)
        print(f"\n{part}: {numbers['steps']} steps, {numbers['cpu_seconds']} CPU seconds\n\n{table(numbers)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
