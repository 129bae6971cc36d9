import torch
from matplotlib.figure import Figure

import pushforward as pf
from pushforward.evaluation.pictures import tiles

torch.set_num_threads(1)
torch.manual_seed(0)


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


output("squeeze")

# --8<-- [start:squeeze]
image = torch.arange(16.0).view(1, 1, 4, 4)
squeezed, log_abs_det = pf.bijections.Squeeze()(image)
print(squeezed[0].int().numpy())
# --8<-- [end:squeeze]
end("squeeze")
output("conv")

# --8<-- [start:conv]
conv = pf.bijections.InvertibleConv(3).requires_grad_(False)
for p in conv.parameters():  # perturb the initial rotation
    p.add_(0.3 * torch.randn_like(p))
x = torch.randn(2, 3, 8, 8)
z, log_abs_det = conv(x)
matrix = conv.affine()[0]
print("64 pixels:", round(float(64 * torch.linalg.slogdet(matrix).logabsdet), 4), "and", [round(float(v), 4) for v in log_abs_det])
print("back:", bool((conv.inverse(z)[0] - x).abs().max() < 1e-5))
# --8<-- [end:conv]
end("conv")
output("memory")

# --8<-- [start:memory]
digits = pf.data.load("digits")
for depth in (4, 32):
    kept = {}
    for memory in ("full", "reversible"):
        deep = pf.models.glow(shape=digits.shape, levels=2, depth=depth, hidden=32, values=digits.levels, memory=memory)
        deep.initialise(digits.x)
        kept[memory] = pf.debug.graph(deep, digits.x[:64]).saved_bytes / 1e6
    print(f"{depth:2} steps per level: {kept['full']:.2f} MB until the backward pass, reversible {kept['reversible']:.2f} MB")
# --8<-- [end:memory]
end("memory")
output("train")

# --8<-- [start:train]
torch.manual_seed(0)
train, test = pf.data.load("digits"), pf.data.load("digits", "test")
flow = pf.models.glow(shape=train.shape, levels=2, depth=4, hidden=32, classes=train.classes, values=train.levels)
flow.initialise(train.x, train.cond)
optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=400)
generator = torch.Generator().manual_seed(0)
for _ in range(400):
    rows = torch.randint(len(train), (64,), generator=generator)
    loss = flow.loss(train.x[rows], train.cond[rows], generator=generator)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
flow.eval()
print("noise of the shape of the image:", tuple(flow.encode(test.x[:1], test.cond[:1]).shape))
bits = pf.evaluation.bits_per_dim(flow, test, draws=4)
print(f"Glow on digits: {bits.mean:.2f} ± {bits.standard_error:.2f} bits per dimension given the class")
# --8<-- [end:train]
end("train")


def sheet(images, name, columns, left=()):
    shown = tiles(images, train.levels, columns)
    figure = Figure(figsize=(shown.shape[1] / 14, shown.shape[0] / 14), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
    axes.tick_params(length=0)
    rows = len(images) // columns
    axes.set_yticks([(k + 0.5) * shown.shape[0] / rows - 0.5 for k in range(len(left))], left)
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(name)


# --8<-- [start:temperature]
labels = torch.arange(10)
by_temperature = [flow.sample(10, labels, temperature=t, generator=torch.Generator().manual_seed(3)) for t in (0.3, 0.5, 0.7, 0.85, 1.0)]
# --8<-- [end:temperature]
sheet(torch.cat(by_temperature), "temperature.png", 10, ["T = 0.3", "0.5", "0.7", "0.85", "1"])

# --8<-- [start:interpolate]
a, b = (torch.stack([test.x[test.cond == k][place] for k in (3, 5, 8)]) for place in (0, 4))
between = pf.editing.interpolate(flow, a, b, steps=9, cond=torch.tensor([3, 5, 8]))
# --8<-- [end:interpolate]
sheet(between.flatten(0, 1), "interpolate.png", 9)
labels = torch.arange(20) % 10
sheet(flow.sample(20, labels, temperature=0.7, generator=torch.Generator().manual_seed(5)), "samples.png", 10)
