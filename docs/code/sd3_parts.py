import math
from itertools import pairwise
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from sklearn.datasets import load_sample_image
from torch._subclasses.fake_tensor import FakeTensorMode

import pushforward as pf

INK, SOFT, ACCENT, WARM = "#1f2933", "#9aa5b1", "#2563eb", "#d9480f"

# --8<-- [start:counts]
with FakeTensorMode():  # shapes without data: 8 billion parameters use no memory
    nets = {
        "SD3 medium": pf.nn.MMDiT((16, 128, 128), depth=24, heads=24, qk_norm=False),
        "SD3.5 medium": pf.nn.MMDiT((16, 128, 128), depth=24, heads=24, positions=384, dual=13),
        "SD3.5 large": pf.nn.MMDiT((16, 128, 128), depth=38, heads=38),
    }
for name, net in nets.items():
    counts = {part: sum(p.numel() for p in net.blocks.get_submodule(f"0.{part}").parameters()) / 1e6 for part in ("image", "text")}
    modulations = sum(p.numel() for key, p in net.named_parameters() if "modulation" in key) / 1e9
    total = sum(p.numel() for p in net.parameters()) / 1e9
    block = f"first block: image {counts['image']:.0f} million, text {counts['text']:.0f}"
    print(f"{name:13} {total:.2f} billion, of which modulations {modulations:.2f}; {block}")
# --8<-- [end:counts]

# One block of MMDiT: two streams of tokens with weights of their own, which meet in the attention.
figure = Figure(figsize=(9, 3.1), layout="constrained")
axes = figure.subplots()
axes.set(xlim=(-0.3, 18.1), ylim=(-0.1, 6.1))
axes.set_axis_off()


def box(left, bottom, width, height, text, colour):
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.08", fc=colour + "18", ec=colour))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(*points):
    for start, stop in pairwise(points):
        axes.annotate("", stop, start, arrowprops={"arrowstyle": "->" if stop == points[-1] else "-", "color": SOFT})


box(6.6, 1.0, 2.8, 3.2, "joint attention\nover all tokens", INK)
for row, (name, colour) in {3.1: ("image tokens", ACCENT), 1.0: ("text tokens", WARM)}.items():
    arrow((2.3, row + 0.55), (2.75, row + 0.55))
    arrow((5.95, row + 0.55), (6.5, row + 0.55))
    arrow((9.5, row + 0.55), (10.05, row + 0.55))
    arrow((11.75, row + 0.55), (12.35, row + 0.55))
    arrow((15.15, row + 0.55), (15.7, row + 0.55))
    box(-0.1, row, 2.3, 1.1, name, colour)
    box(2.85, row, 3.0, 1.1, "modulated norm\nq, k, v", colour)
    box(10.15, row, 1.5, 1.1, "project\ngate, +", colour)
    box(12.45, row, 2.6, 1.1, "modulated norm\nMLP, gate, +", colour)
    box(15.8, row, 2.1, 1.1, name, colour)
box(6.6, 5.0, 2.8, 0.9, "time + pooled text", SOFT)
arrow((6.5, 5.45), (4.35, 5.45), (4.35, 4.3))
arrow((9.5, 5.45), (13.75, 5.45), (13.75, 4.3))
axes.text(5.4, 5.6, "shift, scale", ha="center", fontsize=8, color=INK)
axes.text(11.6, 5.6, "shift, scale, gate (of both streams)", ha="center", fontsize=8, color=INK)
axes.text(8.0, 0.2, "each colour: weights of its own", ha="center", fontsize=8, color=INK)
figure.savefig("block.svg")

# --8<-- [start:joint]
torch.manual_seed(0)
net = pf.nn.MMDiT((16, 8, 8), depth=2, heads=2, head_width=16, context_width=24, pooled_width=8, positions=16, base_size=4, null_tokens=3)
for p in net.parameters():
    torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
net.requires_grad_(False)
x, t, text = torch.randn(1, 16, 8, 12), torch.tensor([0.5]), pf.TextContext(torch.randn(1, 5, 24), torch.randn(1, 8))
velocity = net(x, t, text)
one_word = pf.TextContext(text.context.clone(), text.pooled)
one_word.context[0, 3] += 0.1
moved = (net(x, t, one_word) - velocity).flatten(2).norm(dim=1)[0]
print(f"\none text token changed: another velocity at {int((moved > 0).sum())} of {8 * 12} positions")
turned = pf.TextContext(text.context.flip(1), text.pooled)
print(f"text tokens permuted: {float((net(x, t, turned) - velocity).abs().max()):.0e} apart")
# --8<-- [end:joint]

# --8<-- [start:positions]
with torch.no_grad():
    wide = pf.nn.MMDiT((16, 128, 128), depth=1, heads=24, positions=384)
    near = {sides: wide.placed(*sides) for sides in ((64, 64), (32, 88))}  # patches of 1024x1024 and of 512x1408
square, band = (near[sides].view(*sides, -1) for sides in near)
print(f"\nthe centre of both windows is the same: {torch.equal(square[16:48], band[:, 12:76])}")
# --8<-- [end:positions]

figure = Figure(figsize=(11, 3.2), layout="constrained")
panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.4])
table = wide.positions.view(384, 384, -1)[::6, ::6]
for axes, channel in zip(panels, (20, 1536 // 2 + 60), strict=False):
    axes.imshow(table[:, :, channel], cmap="coolwarm", extent=(0, 384, 384, 0))
    for rows, columns in near:
        left, top = (384 - columns) / 2, (384 - rows) / 2
        axes.plot([left, left + columns, left + columns, left, left], [top, top, top + rows, top + rows, top], color=INK, linewidth=1)
    axes.set_title(f"channel {channel}: of the {'column' if channel < 768 else 'row'}", fontsize=9, color=INK)
for axes, (sides, rows) in zip(panels[2:], near.items(), strict=True):
    middle = rows[(sides[0] // 2) * sides[1] + sides[1] // 2]
    axes.imshow((rows @ middle / middle.square().sum()).view(sides), cmap="magma", vmin=0.6, vmax=1)
    axes.set_title(f"similarity to the centre, {16 * sides[0]}x{16 * sides[1]}", fontsize=9, color=INK)
for axes in panels:
    axes.set_axis_off()
figure.savefig("positions.svg", dpi=110)

# --8<-- [start:channels]
photo = torch.from_numpy(numpy.asarray(load_sample_image("flower.jpg")[:424, :640]) / 255.0).float()
patches = photo.view(53, 8, 80, 8, 3).permute(0, 2, 1, 3, 4).reshape(-1, 192)  # 192 numbers for 8x8 pixels
middle = patches.mean(0)
directions = torch.linalg.svd(patches - middle, full_matrices=False)[2]
print()
rebuilt = {}
for channels in (4, 16):
    kept = directions[:channels]
    rebuilt[channels] = ((patches - middle) @ kept.T @ kept + middle).clamp(0, 1)
    noise = 10 * math.log10(1 / float((rebuilt[channels] - patches).square().mean()))
    print(f"{channels:2} numbers for each 8x8 pixels, best linear map, PSNR {noise:.1f} dB")
# --8<-- [end:channels]

figure = Figure(figsize=(11, 3.1), layout="constrained")
titles = {"192 numbers: the photo": patches, "4 numbers": rebuilt[4], "16 numbers": rebuilt[16]}
for axes, (title, rows) in zip(figure.subplots(1, 3), titles.items(), strict=True):
    axes.imshow(rows.view(53, 80, 8, 8, 3).permute(0, 2, 1, 3, 4).reshape(424, 640, 3)[100:340, 200:520])
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_axis_off()
figure.savefig("channels.svg", dpi=110)

# --8<-- [start:qk]
torch.manual_seed(0)
tokens = torch.randn(256, 64)
print("\nweights grow by   1    2    4    8   16   (entropy of attention in nats, of at most 5.5)")
for name, norm in {"plain": lambda q: q, "QK norm": lambda q: torch.nn.functional.rms_norm(q, (64,))}.items():
    weights = [torch.randn(64, 64) / 8 for _ in range(2)]
    row = []
    for growth in (1, 2, 4, 8, 16):
        q, k = (norm(tokens @ (growth * w)) for w in weights)
        attention = (q @ k.T / 8).softmax(1)
        row.append(-(attention * attention.clamp_min(1e-30).log()).sum(1).mean())
    print(f"{name:15}", " ".join(f"{float(one):4.1f}" for one in row))
# --8<-- [end:qk]

# --8<-- [start:times]
truth = pf.data.GaussianMixture(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), 0.3)
path, times = pf.paths.Linear(), pf.times.LogitNormal(0.0, 1.0)
t = torch.linspace(0.02, 0.98, 49)
draws = (lambda seed: truth.sample(4000, generator=seed), lambda seed: torch.randn(4000, 8, generator=seed))
left = []
for one in t:  # the irreducible error, averaged over 4,000 pairs
    data, noise = (draw(torch.Generator().manual_seed(1)) for draw in draws)
    at = one.expand(4000)
    predicted = truth.net(path, "velocity")(path.mix(data, noise, at), at, None)
    left.append(float((noise - data - predicted).square().sum(1).mean()))
# --8<-- [end:times]

figure = Figure(figsize=(11, 3.2), layout="constrained")
axes = figure.subplots(1, 3)
axes[0].plot(t, left, color=INK)
axes[0].set_title("error that no network can avoid", fontsize=9, color=INK)
fine = torch.linspace(0.001, 0.999, 400)
densities = {"logit-normal (0, 1)": times, "mode 1.29": pf.times.Mode(1.29), "shifted by 3": pf.times.Shifted(times, 3.0)}
for (name, density), color in zip(densities.items(), (ACCENT, SOFT, WARM), strict=True):
    axes[1].plot(fine, density.density(fine), color=color, label=name)
axes[1].axhline(1, color=INK, linewidth=0.6)
axes[1].set_title("densities of training times", fontsize=9, color=INK)
grids = {"equal steps": pf.samplers.Uniform(), "shifted by 3": pf.samplers.Shifted(3), "SD3's own": pf.samplers.Shifted(3, levels=1000)}
for (name, grid), color in zip(grids.items(), (SOFT, WARM, ACCENT), strict=True):
    axes[2].plot(range(29), grid(1.0, 0.0, 28), ".-", color=color, label=name, markersize=4, linewidth=0.8)
axes[2].set_title("times of 28 steps", fontsize=9, color=INK)
for one in axes[1:]:
    one.legend(fontsize=8, frameon=False)
for one, label in zip(axes, ("t", "t", "step"), strict=True):
    one.tick_params(labelsize=8)
    one.set_xlabel(label, fontsize=8)
figure.savefig("times.svg")

# --8<-- [start:grid]
print("\n4 steps of SD3:", [round(t, 4) for t in pf.samplers.Shifted(3, levels=1000)(1.0, 0.0, 4)])
# --8<-- [end:grid]
assert Path("times.svg").exists()
