import math

import torch
from matplotlib.figure import Figure

import pushforward as pf

INK, SOFT, ACCENT = "#1f2933", "#9aa5b1", "#2563eb"
seed = torch.Generator().manual_seed

# --8<-- [start:train]
torch.manual_seed(0)
well = pf.energies.DoubleWell(2, depth=3.0)
model = pf.models.nsf(2, layers=3, hidden=(32,), bound=3.0)
losses = pf.energies.fit(model, well, steps=300, batch_size=128, lr=1e-2)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; its least value is -log Z = {-well.log_normaliser:.2f}")

samples = pf.energies.importance(model, well, 5000, generator=seed(1))
print(f"{samples.effective_size / 5000:.1%} of the samples count; log Z = {samples.log_normaliser:.4f}, exactly {well.log_normaliser:.4f}")
# --8<-- [end:train]

# --8<-- [start:anneal]
torch.manual_seed(0)
rough = pf.models.nsf(2, layers=3, hidden=(32,), bound=3.0)
pf.energies.fit(rough, well, steps=20, batch_size=128, lr=1e-2)  # far from done
for temperatures in (0, 4, 16):
    if temperatures:
        found = pf.energies.annealed_importance(rough, well, 2000, temperatures=temperatures, step_size=0.2, generator=seed(1))
        moves = f", {found.acceptance:.0%} of the moves accepted"
    else:
        found, moves = pf.energies.importance(rough, well, 2000, generator=seed(1)), ""
    print(f"{temperatures:2} temperatures: {found.effective_size / 2000:5.1%} count, log Z = {found.log_normaliser:.3f}{moves}")
# --8<-- [end:anneal]

# --8<-- [start:angles]
torch.manual_seed(0)
rotors = pf.energies.Rotors(2, coupling=1.0)
turning = pf.models.nsf(2, layers=4, hidden=(32,), circular=True)
pf.energies.fit(turning, rotors, steps=200, batch_size=128, lr=5e-3)
weighted = pf.energies.importance(turning, rotors, 5000, generator=seed(1))
print(f"{weighted.effective_size / 5000:.1%} count; log Z = {weighted.log_normaliser:.4f}, exactly {rotors.log_normaliser:.4f}")
# --8<-- [end:angles]


def density(log_density, low, high, count=160):
    """Return a density on a grid, normalised to its largest value."""
    axis = torch.linspace(low, high, count)
    with torch.no_grad():
        value = log_density(torch.cartesian_prod(axis, axis))
    return (value - value.max()).exp().reshape(count, count).T.numpy()


figure = Figure(figsize=(11, 2.9), layout="constrained")
panels = figure.subplots(1, 4)
contents = [
    ("double well", lambda x: -well(x), 3.0),
    ("the model trained by it", model.log_prob, 3.0),
    ("two rotors", lambda x: -rotors(x), math.pi),
    ("the model trained by them", turning.log_prob, math.pi),
]
for axes, (title, log_density, side) in zip(panels, contents, strict=True):
    axes.imshow(density(log_density, -side, side), origin="lower", extent=(-side, side, -side, side), cmap="Blues")
    axes.set_title(title, fontsize=10, color=INK)
    axes.tick_params(labelsize=8, labelcolor=INK, color=SOFT)
    for spine in axes.spines.values():
        spine.set_color(SOFT)
figure.savefig("targets.svg")
