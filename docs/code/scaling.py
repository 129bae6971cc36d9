import json
from pathlib import Path

import torch

import pushforward as pf


# --8<-- [start:costs]
def inputs(n):  # 1024 pixels: latents of 16 x 128 x 128; texts of two CLIPs and T5
    return torch.zeros(n, 16, 128, 128), torch.zeros(n), pf.TextContext(torch.zeros(n, 333, 4096), torch.zeros(n, 2048))


def medium():
    return pf.nn.MMDiT((16, 128, 128), qk_norm=False)


costs = pf.training.costs_of(medium, inputs, activation_checkpointing=True)
# --8<-- [end:costs]
print(f"{costs.parameters:,} parameters, {costs.flops / 1e12:.1f} TFLOP a step and image")
# --8<-- [start:plan]
print(pf.training.plan(costs, images=8, processes=64, parallel="hybrid"))
# --8<-- [end:plan]

large = pf.training.costs_of(lambda: pf.nn.MMDiT((16, 128, 128), depth=38, heads=38), inputs, activation_checkpointing=True)
stored = pf.training.costs_of(medium, inputs)

rows = ["| | weights | gradients | moments | average | blocks in use | activations | in all |", "|---|" + "---:|" * 7]
for name, cost in (("medium", costs), ("medium, activations stored", stored), ("3.5 large", large)):
    for kind in ("ddp", "fsdp"):
        plan = pf.training.plan(cost, 8, 8, kind)
        sizes = [plan.memory.get(part, 0.0) for part in ("weights", "gradients", "moments", "average", "gathered blocks", "activations")]
        rows.append(f"| {name}, `{kind}` | " + " | ".join(f"{size / 1e9:.1f}" for size in (*sizes, plan.bytes)) + " |")
Path("memory.txt").write_text("\n".join(rows) + "\n")

rows = ["| | GPUs | GB in each GPU | GB sent a step | seconds of computation | of communication | efficiency |", "|---|" + "---:|" * 6]
for name, cost in (("medium", costs), ("3.5 large", large)):
    for kind in ("ddp", "fsdp", "hybrid"):
        for gpus in (8, 64, 256, 1024):
            plan = pf.training.plan(cost, 8, gpus, kind)
            low, high = plan.efficiency
            fits = "" if plan.bytes < pf.training.Cluster().memory else " (does not fit)"
            rows.append(
                f"| {name}, `{kind}` | {gpus:,} | {plan.bytes / 1e9:.0f}{fits} | {plan.sent / 1e9:.1f} | {plan.compute:.2f} | "
                f"{plan.communication:.2f} | {100 * low:.0f} to {100 * high:.0f} % |"
            )
Path("efficiency.txt").write_text("\n".join(rows) + "\n")

measured = json.loads((Path(pf.__file__).parents[2] / "docs" / "assets" / "results" / "scaling.json").read_text())
rows = ["| | MB by plan | measured | MB sent by plan | counted | seconds by the form | measured |", "|---|" + "---:|" * 6]
for row in measured["steps"]:
    rows.append(
        f"| {row['processes']}, `{row['parallel']}` | {row['plan_mb']:.0f} | {row['measured_mb']:.0f} | {row['plan_sent_mb']:.0f} | "
        f"{row['sent_mb']:.0f} | {row['plan_seconds']:.2f} | {row['seconds']:.2f} |"
    )
Path("measured.txt").write_text("\n".join(rows) + "\n")
rows = ["| | MB an image by plan | measured |", "|---|---:|---:|"]
for row in measured["activations"]:
    rows.append(f"| {'recomputed' if row['recomputed'] else 'stored'} | {row['plan_mb']:.1f} | {row['measured_mb']:.1f} |")
Path("activations.txt").write_text("\n".join(rows) + "\n")
