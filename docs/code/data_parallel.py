import os
import subprocess
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import pushforward as pf

INK, SOFT, ACCENT, COLOURS = "#1f2933", "#9aa5b1", "#2563eb", ["#2563eb", "#e8590c", "#2f9e44", "#9c36b5"]
EXAMPLE = Path(pf.__file__).parents[2] / "examples" / "ddp_minimal.py"


def torchrun(number, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


# The output of the example in two processes, grouped by process.
lines = torchrun(2, EXAMPLE).splitlines()
print("\n".join(line for rank in range(2) for line in lines if line.startswith(f"[process {rank} of 2]")))

# The same run in 1, 2 and 4 processes: the differences of losses and weights.
LAW = """
import sys, torch, pushforward as pf

dtype, file = getattr(torch, sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
net = pf.nn.MLP.Config(hidden=(64, 64))
model = pf.models.rectified_flow(net, (2,), pairing=pf.pairings.MinibatchOT(), preprocess="standardise").to(dtype)
losses = []

class Log(pf.training.Callback):
    def on_step(self, trainer, metrics):
        losses.append(metrics["loss"])

trainer = pf.Trainer(model, pf.data.load("moons").x, steps=200, batch_size=256, block=32, log_every=1, warmup=20, callbacks=[Log()]).fit()
if trainer.processes.main:
    torch.save({"losses": losses, "weights": torch.cat([p.detach().flatten() for p in model.parameters()])}, file)
"""
Path("law.py").write_text(LAW)
runs = {}
for dtype in ("float32", "float64"):
    for number in (1, 2, 4):
        torchrun(number, "law.py", dtype, f"{dtype}-{number}.pt")
        runs[dtype, number] = torch.load(f"{dtype}-{number}.pt", weights_only=True)
print("\nlargest difference from one process after 200 steps, in units of the largest weight:")
for dtype in ("float32", "float64"):
    one = runs[dtype, 1]["weights"]
    for number in (2, 4):
        print(f"  {number} processes, {dtype}: {float((runs[dtype, number]['weights'] - one).abs().max() / one.abs().max()):.1e}")

figure = Figure(figsize=(9, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
for number, width, colour in ((1, 6, SOFT), (2, 3, ACCENT), (4, 1, INK)):
    left.plot(runs["float32", number]["losses"], color=colour, lw=width, label=f"{number} process" + "es" * (number > 1))
left.set(xlabel="step", title="loss")
left.legend(frameon=False)
for dtype, style in (("float32", "-"), ("float64", ":")):
    for number, colour in ((2, ACCENT), (4, INK)):
        many, one = (torch.tensor(runs[dtype, k]["losses"], dtype=torch.float64) for k in (number, 1))
        right.semilogy((many - one).abs().cummax(0).values, style, color=colour, lw=1.5, label=f"{number} processes, {dtype}")
right.set(xlabel="step", title="largest difference from one process so far", ylim=(1e-17, 1e-6))
right.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.5))
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("same.svg")

# The ring: the state of each of four processes after every turn. Colours are pieces, heights are the number of summands.
size = 4
held = [[1] * size for _ in range(size)]
states = [[row[:] for row in held]]
for turn in range(2 * (size - 1)):
    before = [row[:] for row in held]
    for rank in range(size):
        piece = (rank - turn) % size
        right_one = (rank + 1) % size
        held[right_one][piece] = before[right_one][piece] + before[rank][piece] if turn < size - 1 else before[rank][piece]
    states.append([row[:] for row in held])
assert states[-1] == [[size] * size] * size
figure = Figure(figsize=(10, 2.9), layout="constrained")
for turn, (axes, state) in enumerate(zip(figure.subplots(1, len(states), sharey=True), states, strict=True)):
    for rank in range(size):
        for piece in range(size):
            full = state[rank][piece] == size
            axes.bar(5 * rank + piece, state[rank][piece], color=COLOURS[piece], alpha=1.0 if full else 0.35, width=0.9)
    axes.set(xticks=[5 * rank + 1.5 for rank in range(size)], xticklabels=range(size), yticks=[], ylim=(0, 4.6))
    axes.set_title("start" if turn == 0 else f"turn {turn}", fontsize=10, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if turn in (3, 6):
        axes.set_xlabel("all added" if turn == 3 else "all known", color=ACCENT)
figure.savefig("ring.svg")

# A step: each process computes the gradient of its part of the batch; after the all-reduce all of them hold the same mean.
figure = Figure(figsize=(9, 2.9), layout="constrained")
axes = figure.subplots()
axes.set(xlim=(-0.2, 17.4), ylim=(-0.3, 5.6))
axes.set_axis_off()


def box(left, bottom, width, height, text, colour):
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.08", fc=colour + "18", ec=colour))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(start, stop):
    axes.annotate("", stop, start, arrowprops={"arrowstyle": "->", "color": SOFT})


box(0, 0, 1.5, 5.2, "a batch\nof $B$\nsamples", SOFT)
box(10.1, 0, 2.0, 5.2, "all-reduce\n\n$g = \\frac{1}{N} \\sum_r g_r$", INK)
for rank, colour in enumerate(COLOURS):
    bottom = 4.2 - 1.4 * rank
    box(2.6, bottom, 4.6, 1.0, f"process {rank}: model, $B / N$ samples", colour)
    box(8.2, bottom, 0.9, 1.0, f"$g_{rank}$", colour)
    box(13.1, bottom, 4.1, 1.0, f"process {rank}: same step by $g$", colour)
    for start, stop in ((1.6, 2.5), (7.3, 8.1), (9.2, 10.0), (12.2, 13.0)):
        arrow((start, bottom + 0.5), (stop, bottom + 0.5))
figure.savefig("step.svg")
