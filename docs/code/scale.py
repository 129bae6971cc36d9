"""Efficiency and memory from 8 to 1,024 GPUs by the plan: the moving picture and the table of the article on scale."""

import json
from pathlib import Path

import torch
from docs_moving import save
from matplotlib.figure import Figure

import pushforward as pf

PAPER, TEXT, SOFT = "#12161f", "#dfe6f0", "#6b7685"
COLOURS = {"ddp": "#ff922b", "fsdp": "#74a9ff", "hybrid": "#69db7c"}
GPUS = [8, 16, 32, 64, 128, 256, 512, 1024]


# --8<-- [start:plan]
def inputs(n):  # 1024 pixels: latents of 16 x 128 x 128, texts of two CLIPs and T5
    return torch.zeros(n, 16, 128, 128), torch.zeros(n), pf.TextContext(torch.zeros(n, 333, 4096), torch.zeros(n, 2048))


costs = pf.training.costs_of(lambda: pf.nn.MMDiT((16, 128, 128), depth=38, heads=38), inputs, activation_checkpointing=True)
plans = {kind: [pf.training.plan(costs, 8, gpus, kind) for gpus in GPUS] for kind in ("ddp", "fsdp", "hybrid")}
# --8<-- [end:plan]
limit = pf.training.Cluster().memory
print(f"{costs.parameters / 1e9:.1f} billion parameters, {costs.flops / 1e12:.0f} TFLOP a step and image")
for kind in plans:
    last = plans[kind][-1]
    fits = "fits" if last.bytes < limit else "does not fit"
    print(
        f"{kind:6} at {GPUS[-1]} GPUs: {last.bytes / 1e9:5.0f} GB in each ({fits} into {limit / 1e9:.0f}), "
        f"communication {100 * last.communication / (last.communication + last.compute):.0f} % of the time if nothing overlaps"
    )


def frame(k, rows, size):
    figure = Figure(size, dpi=80, facecolor=PAPER, layout="constrained")
    left, right = figure.subplots(rows, 2 // rows)
    for axes in (left, right):
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=TEXT, labelsize=9)
        for spine in axes.spines.values():
            spine.set_color(SOFT)
    for kind, found in plans.items():
        high = [100 * plan.efficiency[1] for plan in found[: k + 1]]
        low = [100 * plan.efficiency[0] for plan in found[: k + 1]]
        left.fill_between(GPUS[: k + 1], low, high, color=COLOURS[kind], alpha=0.3, linewidth=0)
        left.plot(GPUS[: k + 1], low, color=COLOURS[kind], linewidth=2, marker="o", markersize=4, label=kind)
    left.set_xscale("log", base=2)
    left.set(xlim=(7, 1200), ylim=(0, 105), xticks=GPUS, xticklabels=[str(n) for n in GPUS])
    left.set_title(f"computing, % of the time: {GPUS[k]} GPUs", color=TEXT, fontsize=11)
    left.legend(labelcolor=TEXT, facecolor=PAPER, edgecolor=SOFT, loc="lower left", fontsize=9)
    sizes = [plans[kind][k].bytes / 1e9 for kind in plans]
    right.barh(list(plans), sizes, color=[COLOURS[kind] for kind in plans])
    right.axvline(limit / 1e9, color=TEXT, linewidth=1.2, linestyle="--")
    right.set(xlim=(0, 1.1 * max(plan.bytes for found in plans.values() for plan in found) / 1e9))
    right.set_title(f"GB in each GPU; the line is one of {limit / 1e9:.0f} GB", color=TEXT, fontsize=11)
    return figure


for name, rows, size in (("gpus", 1, (9.6, 3.4)), ("gpus_narrow", 2, (4.8, 6.4))):
    shown = [0, *range(len(GPUS)), *[len(GPUS) - 1] * 4]
    save(name, (frame(k, rows, size) for k in shown), duration=600, quality=50)

# What was measured, in the words of the article.
results = Path(pf.__file__).parents[2] / "docs" / "assets" / "results"
measured = json.loads((results / "scaling.json").read_text())
rows = []
for row in measured["steps"]:
    rows.append(
        f"| {row['processes']}, `{row['parallel']}` | {row['measured_mb']:.0f} ({row['plan_mb']:.0f}) | "
        f"{row['sent_mb']:.0f} ({row['plan_sent_mb']:.0f}) | {row['seconds']:.2f} ({row['plan_seconds']:.2f}) |"
    )
Path("measured.txt").write_text("\n".join(rows) + "\n")
faults = json.loads((results / "faults.json").read_text())
names = {"killed, plain": "`ddp`", "killed, asynchronous": "`ddp`, `--async-checkpoints`", "killed, sharded": "`fsdp`"}
names["killed, sharded and asynchronous"] = "`fsdp`, `--async-checkpoints`"
rows = [f"| {title} | {faults[name]['times']} | {faults[name]['lost']} |" for name, title in names.items()]
Path("killed.txt").write_text("\n".join(rows) + "\n")
reading = {row["source"]: row["samples_per_second"]["0"] for row in json.loads((results / "streaming.json").read_text())["cpu"]["reading"]}
rows = [f"| {source} | {reading[source]:,.0f} |" for source in ("image folder", "tar shards", "parquet shards", "cached latents")]
Path("reading.txt").write_text("\n".join(rows) + "\n")
