import warnings

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import nn

import pushforward as pf

torch.manual_seed(0)
torch.set_num_threads(1)
warnings.simplefilter("ignore")  # those of torch about some of the writes below


def part(name, edge="start"):
    """Mark where a part of the output starts or ends, for the page to include."""
    print(f"--8<-- [{edge}:{name}]")


COLOURS = [*matplotlib.colormaps["tab20"].colors[::2], *matplotlib.colormaps["tab20"].colors[1::2]]
MEMORY = -5.4  # where memory is drawn, below the elements


def layout(axes, tensor, title, cells):
    """Draw a tensor's elements and the memory they are read from, each element in the colour of its memory."""
    rows, columns = tensor.shape
    left, start = (max(cells, columns) - columns) / 2, (max(cells, columns) - cells) / 2
    for i in range(rows):
        for j in range(columns):
            memory = tensor.storage_offset() + i * tensor.stride(0) + j * tensor.stride(1)
            axes.add_patch(Rectangle((left + j, -i), 0.92, 0.92, facecolor=COLOURS[memory]))
            axes.text(left + j + 0.46, -i + 0.46, f"{i},{j}", color="white", ha="center", va="center", fontsize=8)
            if i == rows - 1:
                ends = (left + j + 0.46, -i - 0.05), (start + memory + 0.46, MEMORY + 1)
                axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=7, color=COLOURS[memory], linewidth=0.8, shrinkB=0))
    for memory in range(cells):
        axes.add_patch(Rectangle((start + memory, MEMORY), 0.92, 0.92, facecolor=COLOURS[memory]))
        axes.text(start + memory + 0.46, MEMORY + 0.46, str(memory), color="white", ha="center", va="center", fontsize=8)
    axes.set_title(f"{title}\nshape {tuple(tensor.shape)}, strides {tensor.stride()}", fontsize=9)
    axes.set_xlim(-0.4, max(cells, columns) + 0.3)
    axes.set_ylim(MEMORY - 0.2, 1.1)
    axes.set_aspect("equal")
    axes.axis("off")


figure = Figure(figsize=(9.5, 3.4), layout="constrained")
panels = figure.subplots(1, 3, width_ratios=[4.7, 12.7, 6.7])
row = torch.zeros(4)
layout(panels[0], row.expand(3, 4), "row.expand(3, 4)", 4)
layout(panels[1], row.expand(3, 4).clone(), "row.expand(3, 4).clone()", 12)
layout(panels[2], torch.zeros(6).unfold(0, 3, 1), "x.unfold(0, 3, 1)", 6)
figure.savefig("layout.svg")

part("strides")
# --8<-- [start:strides]
row = torch.tensor([0.0, 1.0, 2.0, 3.0])
grid = row.expand(3, 4)
print("shape", tuple(grid.shape), "strides", grid.stride())
print(grid.numel(), "elements in", grid.untyped_storage().nbytes() // 4, "floats of memory")
row[0] = 9  # one float is written
print(grid)
# --8<-- [end:strides]
part("strides", "end")

part("error")
# --8<-- [start:error]
try:
    grid.add_(1)
except RuntimeError as error:
    print(error)
# --8<-- [end:error]
part("error", "end")

part("check")


# --8<-- [start:check]
def normalise(x, shift):
    shift = shift.expand_as(x)
    shift -= x.mean()
    return x + shift


print(pf.debug.check_aliasing(normalise, torch.randn(3, 4), torch.zeros(1, 4)))
# --8<-- [end:check]
part("check", "end")

part("mask")


# --8<-- [start:mask]
def causal_masks(lengths, size):
    masks = torch.ones(size, dtype=torch.bool).expand(len(lengths), size)
    for k, length in enumerate(lengths):
        masks[k, length:] = False
    return masks


report = pf.debug.check_aliasing(causal_masks, [1, 2, 4], 4)
print(report.result.int())
print(report)
# --8<-- [end:mask]
part("mask", "end")

part("windows")


# --8<-- [start:windows]
def frames(signal):
    windows = signal.clone().unfold(0, 4, 2)
    windows *= torch.hann_window(4)
    return windows


report = pf.debug.check_aliasing(frames, torch.ones(8))
print(report.result)
print(torch.ones(8).unfold(0, 4, 2) * torch.hann_window(4))
# --8<-- [end:windows]
part("windows", "end")

part("optimiser")


# --8<-- [start:optimiser]
def train(fused):
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.ones(1, 4).expand(3, 4))
    optimiser = torch.optim.AdamW(layer.parameters(), fused=fused)
    layer(torch.randn(2, 4)).square().mean().backward()
    optimiser.step()


print(pf.debug.check_aliasing(train, fused=True))
# --8<-- [end:optimiser]
part("optimiser", "end")

part("saved")


# --8<-- [start:saved]
def gate(x):
    h = torch.sigmoid(x)
    return nn.functional.relu(h, inplace=True)


print(pf.debug.check_aliasing(gate, torch.randn(5, requires_grad=True)))
# --8<-- [end:saved]
part("saved", "end")

part("data")


# --8<-- [start:data]
def decay():
    weight = nn.Parameter(torch.ones(1))
    loss = weight**3
    weight.data.mul_(0.1)
    loss.backward()
    return weight.grad


report = pf.debug.check_aliasing(decay)
print("gradient", report.result, "instead of 3")
print(report)
# --8<-- [end:data]
part("data", "end")

part("held")
# --8<-- [start:held]
images = torch.utils.data.TensorDataset(torch.full((4, 2), 255.0))

with pf.debug.detect_aliasing(images, raises=False) as report:
    for _ in range(2):  # epochs
        for start in (0, 2):
            (batch,) = images[start : start + 2]
            batch /= 255
print(images.tensors[0])
print(report)
# --8<-- [end:held]
part("held", "end")
