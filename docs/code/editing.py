import torch
from matplotlib.figure import Figure

import pushforward as pf

INK = "#1f2933"
seed = torch.Generator().manual_seed

# The model of the page: inverse_problems.py trains the same.
data, test = pf.data.load("digits"), pf.data.load("digits", "test")
torch.manual_seed(0)
net = pf.nn.MLP.Config((256, 256))
model = pf.models.rectified_flow(net, data.shape, levels=data.levels, classes=data.classes, drop_cond=0.1)
model = pf.Trainer(model, data, steps=1000, batch_size=128, lr=2e-3, ema=0.99).fit().averaged_model.eval()

# --8<-- [start:edit]
threes = test.x[test.cond == 3]  # 37 digits, integers 0 to 16
source, target = torch.tensor([3]), torch.tensor([8])  # one condition for all, or one for each
edited = {}
for name, edit in {
    "FlowEdit": pf.editing.FlowEdit(1.5, 5.5),  # guidance scales of source and target
    "FlowEdit, n_max=25": pf.editing.FlowEdit(1.5, 5.5, n_max=25),
    "FlowEdit, n_max=50": pf.editing.FlowEdit(1.5, 5.5, n_max=50),
    "RFInversion": pf.editing.RFInversion(None, 3.0, eta=0.5),
    "RFInversion, eta=0.9": pf.editing.RFInversion(None, 3.0, eta=0.9),
}.items():
    edited[name] = edit(model, threes, source, target, generator=seed(0))
assert torch.equal(pf.editing.FlowEdit(1.5, 1.5)(model, threes, source, source), threes)  # the same on both sides: the digits themselves
# --8<-- [end:edit]

eights, old = torch.full((len(threes),), 8), torch.full((len(threes),), 3)
# --8<-- [start:invert]
with torch.no_grad():
    noise = model.encode(threes + 0.5, old, sampler=pf.samplers.DDIM(28))  # the middle of a level's cell
    edited["encode, decode"] = model.decode(noise, eights, sampler=pf.samplers.DDIM(28), guidance=3.0)
between = pf.editing.interpolate(model, threes[:1] + 0.5, threes[1:2] + 0.5, steps=9, cond=old[:1])  # (1, 9, 1, 8, 8)
# --8<-- [end:invert]
edited["sample"] = model.sample(len(threes), eights, guidance=3.0, sampler=pf.samplers.Euler(28), generator=seed(1))

judge = pf.evaluation.classifier(data, pf.data.load("digits", "validation"))
with open("rows.txt", "w", encoding="utf-8") as file:
    for name, images in edited.items():
        distance = float((images - threes - 0.5).flatten(1).norm(dim=1).mean())
        method, *rest = name.split(", ")
        title = "`encode`, `decode`" if name == "encode, decode" else ", ".join((f"`{method}`", *rest))
        file.write(f"| {title} | {100 * judge.recognised(images, eights):.0f} % | {distance:.1f} |\n")

chosen = ("FlowEdit", "RFInversion", "encode, decode", "sample")
rows = {"threes": threes, **{name: edited[name] for name in chosen}, "interpolate": between[0]}
figure = Figure(figsize=(7.4, 5.1), layout="constrained")
for axes, (name, images) in zip(figure.subplots(len(rows), 9), rows.items(), strict=True):
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=16)
        axis.set(xticks=[], yticks=[])
    axes[0].set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
figure.savefig("eights.svg")
