import json
import math
import re
import statistics
from pathlib import Path

import pushforward as pf

FOLDER = Path(pf.__file__).parents[2] / "docs" / "assets" / "results" / "sd3_study"
# Mean rank of 61 variants over metrics and settings of sampling, by their table 1: lower is better.
RANKS = {"uniform": 5.67, "logit-normal(0, 1)": 1.54, "logit-normal(0.5, 0.6)": 2.71, "logit-normal(1, 0.6)": 2.08}
RANKS |= {"mode(1.29)": 2.75, "mode(1.75)": 3.33, "CosMap": 4.13}
FORMS = {
    "right": (100, "{:.0f}"),
    "energy": (1000, "{:.1f}"),
    "PSNR": (1, "{:.1f}"),
    "largest logit": (1, "{:.0f}"),
    "spikes": (1, "{:.1f}"),
}


def shown(name, values):
    """Mean ± standard error; shares in per cent, energy distances in thousandths."""
    scale, form = next((form for start, form in FORMS.items() if name.startswith(start)), (1, "{:.3f}"))
    values = [scale * one for one in values]
    if not all(math.isfinite(one) for one in values):
        return "not finite"
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {form.format(statistics.stdev(values) / len(values) ** 0.5)}" if len(values) > 1 else mean


for file in sorted(FOLDER.glob("*.json")):
    numbers = json.loads(file.read_text(encoding="utf-8"))
    rows = {variant: list(seeds.values()) for variant, seeds in numbers["rows"].items() if seeds}
    columns = list(next(iter(rows.values()))[0])
    paper = ["mean rank in the paper"] if file.stem == "times" else []
    heads = [re.sub("^energy", "energy × 1000", re.sub("^right", "right, %", name)) for name in columns]
    heads = [re.sub(r" (\d+ steps)$", r", \1", name) for name in heads]
    lines = ["| | " + " | ".join(heads + paper) + " | seeds |", "|---|" + "---:|" * (len(columns + paper) + 1)]
    for variant, values in rows.items():
        cells = [shown(name, [one[name] for one in values]) for name in columns] + [f"{RANKS[variant]:.2f}" for _ in paper]
        lines.append(f"| {variant} | " + " | ".join(cells) + f" | {len(values)} |")
    Path(f"{file.stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path(f"{file.stem}-command.txt").write_text(numbers["command"] + f"   # {numbers['cpu_seconds']} CPU seconds\n", encoding="utf-8")
