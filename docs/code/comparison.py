import json
from pathlib import Path

from matplotlib.figure import Figure

import pushforward as pf

INK, SOFT = "#1f2933", "#9aa5b1"
RESULTS = Path(pf.__file__).parents[2] / "docs" / "assets" / "results" / "comparison.json"
numbers = json.loads(RESULTS.read_text(encoding="utf-8"))
fashion = json.loads(RESULTS.with_name("comparison-fashion_mnist.json").read_text(encoding="utf-8"))
SHOWN = {"bits": "likelihood", "ms": "milliseconds", "SW": "sliced_wasserstein", "KID × 1000": "kernel_distance"}
SHOWN |= {name: name for name in ("precision", "recall", "coverage", "recognised")}
PRESETS = {one.split()[0] for one in numbers["models"]["straightness"]}
FORMS = {"likelihood": "{:.2f}", "milliseconds": "{:.2g}", "sliced_wasserstein": "{:.2f}", "kernel_distance": "{:.0f}"}


def short(label):
    """The preset of a label; its options are in the command."""
    return f"`{label.split()[0]}`"


def number(row, key):
    cell = row["cells"].get(key, {"mean": None})
    if cell["mean"] is None:
        return "—"
    text = FORMS.get(key, "{:.2f}").format(cell["mean"] * (1000 if key == "kernel_distance" else 1))
    return (
        text
        if cell["sd"] is None
        else f"{text} ± {FORMS.get(key, '{:.2f}').format(cell['sd'] * (1000 if key == 'kernel_distance' else 1))}"
    )


def evaluations(row):
    return {None: "1 pass", 0: "—"}.get(row["evaluations"], str(row["evaluations"]))


def table(file, heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1), *("| " + " | ".join(row) + " |" for row in rows)]
    Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


def whole(value):
    return "—" if value["mean"] is None else f"{value['mean']:,.0f}"


def metrics(part, file, name=short, counts=(None, 0, 1, 4, 64)):
    """The rows of a comparison at some numbers of evaluations; of each model the size and the training first."""
    rows = [row for row in part["rows"] if row["evaluations"] in counts]
    heads = ["", "evaluations", "parameters", "steps", "training s", *SHOWN]
    lines, before = [], None
    for row in rows:
        again, before = row["model"] == before, row["model"]
        trained = [whole(row["cells"][key]) for key in ("parameters", "steps", "seconds")]
        label = name(row["model"]) if row["evaluations"] != 0 else "training data"
        lines.append(["" if again else label, evaluations(row), *([""] * 3 if again else trained)])
        lines[-1] += ["" if again and key == "likelihood" else number(row, key) for key in SHOWN.values()]
    table(file, heads, lines)


def straight(found, file, name=short):
    """The straightness of trajectories, the straightest first."""
    known = sorted((one["bend"] / one["energy"], label, one) for label, one in found.items() if one is not None)
    rows = [[name(label), f"{one['bend']:.1f} ± {one['error']:.1f}", f"{one['energy']:.1f}", f"{share:.1%}"] for share, label, one in known]
    table(file, ["", "bend S", "energy", "S / energy"], rows)


metrics(numbers["models"], "models.txt")
straight(numbers["models"]["straightness"], "straightness.txt")
metrics(numbers["reflow"], "reflow.txt", name=str, counts=(None, 0, 1, 2, 4, 8, 64))
straight(numbers["reflow"]["straightness"], "reflow-straightness.txt", name=str)

metrics(fashion["models"], "models-fashion.txt")
metrics(fashion["reflow"], "reflow-fashion.txt", name=str, counts=(None, 0, 1, 2, 4, 8, 64))

rows = []
for data, one in numbers["plane"]["sets"].items():
    for name, found in one["models"].items():
        distances = [f"{found['W2'][count]:.3f}" if count in found["W2"] else "—" for count in ("1", "2", "4", "8")]
        bend = found["straightness"]
        rows.append([data, short(name) if name in PRESETS else name, *distances, "—" if bend is None else f"{bend['bend']:.3f}"])
    rows.append([data, "data to data", *[f"{one['data to data']:.3f}"] * 4, "—"])
table("plane.txt", ["", "model", "W2 at 1", "at 2", "at 4", "at 8", "bend S"], rows)

part, rows = numbers["meanflow"], []
for switch, values in part["switches"].items():
    for value, one in values.items():
        found = next(row for row in part["rows"] if row["model"] == one["model"] and row["evaluations"] in (1, None))
        rows.append(
            [
                switch,
                value,
                f"{one['published FID']:g}",
                whole(found["cells"]["steps"]),
                *(number(found, SHOWN[name]) for name in ("SW", "KID × 1000", "recall", "recognised")),
            ]
        )
table("meanflow.txt", ["switch", "value", "published FID", "steps", "SW", "KID × 1000", "recall", "recognised"], rows)

figure = Figure(figsize=(9, 4), layout="constrained")
panels = figure.subplots(1, 2)
lines = {}
for row in numbers["models"]["rows"]:
    if row["evaluations"] and row["cells"]["sliced_wasserstein"]["mean"] is not None:
        lines.setdefault(row["model"].split()[0], []).append(row)
marks = "osD^vP*X<>"
for axes, key, label in zip(panels, ("sliced_wasserstein", "recognised"), ("sliced Wasserstein distance", "recognised"), strict=True):
    for place, (name, rows) in enumerate(lines.items()):
        known = [(row["evaluations"], row["cells"][key]["mean"]) for row in rows if row["cells"][key]["mean"] is not None]
        axes.plot(*zip(*known, strict=True), f"{marks[place % 10]}-", color=f"C{place % 10}", markersize=4, linewidth=1, label=name)
    axes.set(xscale="log", xlabel="network evaluations", ylabel=label)
    axes.set_xticks([1, 2, 4, 8, 16, 64], ["1", "2", "4", "8", "16", "64"])
    axes.minorticks_off()
    axes.grid(alpha=0.2)
panels[0].set_yscale("log")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
figure.savefig("quality.svg")


def commands(found):
    """The commands that measured the parts of a file."""
    for part, one in found.items():
        budget = f"{one['steps']} steps" if one.get("steps") else f"{one['seconds']:g} s"
        took = "run in several sittings" if one["took"] is None else f"{one['took'] / 60:.0f} min in all"
        yield f"{part}: {one['command']}  # {budget} a model, {one['seeds']} seed(s), {took}"


for line in commands({part: numbers[part] for part in ("models", "reflow", "plane", "meanflow")}):
    print(line)
print(numbers["models"]["environment"]["processor"])
Path("fashion.txt").write_text("\n".join(commands({part: fashion[part] for part in ("models", "reflow")})) + "\n", encoding="utf-8")
