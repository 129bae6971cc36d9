import itertools

# --8<-- [start:model]
import torch
from matplotlib.figure import Figure

import pushforward as pf

mixture = pf.data.three_gaussians()
path = pf.paths.Linear()
model = pf.families.PathModel(mixture.net(path, "velocity"), shape=(2,), path=path)
# --8<-- [end:model]

# --8<-- [start:likelihood]
x = mixture.sample(5, generator=torch.Generator().manual_seed(0))
tight = pf.samplers.Dopri5(rtol=1e-6, atol=1e-6)
print("by the ODE:", model.log_prob(x, sampler=tight).numpy().round(3))
print("the truth: ", mixture.log_prob(x).numpy().round(3))
# --8<-- [end:likelihood]

# --8<-- [start:kinds]
t = torch.full((5,), 0.5)
noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
prediction = model.denoiser()(path.mix(x, noise, t), t)
print(bool((prediction.data + (prediction.velocity * t[:, None]) - prediction.x).abs().max() < 1e-5))  # data = x - t v
print(bool((prediction.score + prediction.noise / t[:, None]).abs().max() < 1e-5))  # score = -noise / sigma
# --8<-- [end:kinds]

INK, SOFT, ACCENT = "#1f2933", "#9aa5b1", "#2563eb"


def bare(axes, title):
    axes.set(xlim=(-4.2, 4.2), ylim=(-4.2, 4.2), title=title)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


# Trajectories of the same points from noise to data.
places = [1.0, 0.75, 0.5, 0.25, 0.0]
states = [torch.randn(1500, 2, generator=torch.Generator().manual_seed(2))]
for start, end in itertools.pairwise(places):
    states.append(pf.samplers.RK4(20)(model.denoiser(), states[-1], start, end))
colour = states[-1][:, 0]
figure = Figure(figsize=(11, 2.6), layout="constrained")
for axes, state, place in zip(figure.subplots(1, 5), states, places, strict=True):
    axes.scatter(*state.T, s=3, c=colour, cmap="viridis", linewidths=0)
    bare(axes, f"t = {place:g}")
figure.savefig("push.svg")

# Left: lines between pairs, which cross. Right: the flow that is learned from them, which does not.
generator = torch.Generator().manual_seed(3)
data, noise = mixture.sample(40, generator=generator), torch.randn(40, 2, generator=generator)
figure = Figure(figsize=(7.6, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
for a, b in zip(data, noise, strict=True):
    left.plot(*torch.stack((a, b)).T, color=SOFT, linewidth=0.7)
steps = [noise]
for k in range(50):
    steps.append(pf.samplers.RK4(1)(model.denoiser(), steps[-1], 1 - k / 50, 1 - (k + 1) / 50))
for line in torch.stack(steps).transpose(0, 1):
    right.plot(*line.T, color=SOFT, linewidth=0.7)
for axes, ends, title in ((left, data, "pairs: straight lines cross"), (right, steps[-1], "the flow: trajectories do not")):
    axes.scatter(*noise.T, s=9, color=INK, zorder=3)
    axes.scatter(*ends.T, s=9, color=ACCENT, zorder=3)
    bare(axes, title)
figure.savefig("cross.svg")

# The density of the ODE, next to the true density.
line = torch.linspace(-4, 4, 80)
grid = torch.cartesian_prod(line, line)
with torch.no_grad():
    solved = model.log_prob(grid, sampler=pf.samplers.RK4(20)).exp().reshape(80, 80)
truth = mixture.log_prob(grid).exp().reshape(80, 80)
print(f"the ODE's density integrates to {solved.sum() * (8 / 79) ** 2:.3f}, and is off by at most {(solved - truth).abs().max():.0e}")
figure = Figure(figsize=(7.6, 3.8), layout="constrained")
for axes, density, title in zip(figure.subplots(1, 2), (solved, truth), ("by the ODE and its divergence", "the truth"), strict=True):
    axes.contourf(line, line, density.T, levels=14, cmap="Blues")
    bare(axes, title)
figure.savefig("density.svg")

# Four paths.
figure = Figure(figsize=(9, 2.6), layout="constrained")
t = torch.linspace(0.001, 1, 200)
for axes, each in zip(
    figure.subplots(1, 4), (pf.paths.Linear(), pf.paths.Cosine(), pf.paths.VariancePreserving(), pf.paths.VarianceExploding()), strict=True
):
    axes.plot(t, each.alpha(t), color=ACCENT, label="alpha")
    axes.plot(t, each.sigma(t), color=INK, label="sigma")
    axes.set(title=type(each).__name__, xlabel="t", ylim=(-0.05, 1.3))
    axes.legend(frameon=False, fontsize=8)
figure.savefig("paths.svg")
