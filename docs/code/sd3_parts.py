import math
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure
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
print(f"\none word moved: all {int((moved > 0).sum())} of {8 * 12} places answer")
turned = pf.TextContext(text.context.flip(1), text.pooled)
print(f"words in another order: {float((net(x, t, turned) - velocity).abs().max()):.0e} apart")
# --8<-- [end:joint]

# --8<-- [start:positions]
with torch.no_grad():
    wide = pf.nn.MMDiT((16, 128, 128), depth=1, heads=24, positions=384)
    near = {sides: wide.placed(*sides) for sides in ((64, 64), (32, 88))}  # patches of 1024x1024 and of 512x1408
square, band = (near[sides].view(*sides, -1) for sides in near)
print(f"\nthe middle of both is the same: {torch.equal(square[16:48], band[:, 12:76])}")
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
figure.savefig("positions.png", dpi=110)

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
    print(f"{channels:2} numbers for each 8x8 pixels, the best linear map: {noise:.1f} dB")
# --8<-- [end:channels]

figure = Figure(figsize=(11, 3.1), layout="constrained")
titles = {"192 numbers: the photo": patches, "4 numbers": rebuilt[4], "16 numbers": rebuilt[16]}
for axes, (title, rows) in zip(figure.subplots(1, 3), titles.items(), strict=True):
    axes.imshow(rows.view(53, 80, 8, 8, 3).permute(0, 2, 1, 3, 4).reshape(424, 640, 3)[100:340, 200:520])
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_axis_off()
figure.savefig("channels.png", dpi=110)

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
