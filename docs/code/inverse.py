"""Noise becomes data that agree with a measurement: the moving picture of the article on inverse problems."""

import torch
from docs_moving import save
from matplotlib.figure import Figure

import pushforward as pf

PAPER, TEXT, SOFT, ACCENT, WARM = "#12161f", "#dfe6f0", "#6b7685", "#74a9ff", "#ff922b"
POINTS, STEPS = 500, 40
seed = torch.Generator().manual_seed

truth = pf.data.three_gaussians()
model = pf.families.PathModel(truth.net(pf.paths.Linear()), (2,))  # the network that perfect training would give
line = pf.measurements.Linear(torch.tensor([[1.0, 0.5]]), noise=0.5)
y = torch.tensor([[-0.3]])

prior = truth.sample(50_000, generator=seed(0))
weights = torch.exp(-0.5 * ((line(prior) - y) / line.noise) ** 2)[:, 0]
posterior = prior[torch.multinomial(weights, 1500, replacement=True, generator=seed(1))]
print(f"of {len(prior):,} draws of the prior, {int((weights > 0.1).sum()):,} agree with y to about two deviations")

methods = {"without y": None, "DPS": pf.guidance.DPS(line, y), "MMPS": pf.guidance.MMPS(line, y)}
states = {}
noise = model.base.sample(POINTS, generator=seed(2))
for name, guidance in methods.items():
    sampler = pf.samplers.EulerMaruyama(STEPS)
    steps = sampler.iterate(model.denoiser(guidance=guidance), noise, *reversed(model.interval), generator=seed(3))
    states[name] = [noise, *(state.x.detach() for state in steps)]


def frame(k):
    figure = Figure((9.6, 3.5), dpi=80, facecolor=PAPER)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.9, wspace=0.03)
    for axes, (name, xs) in zip(figure.subplots(1, 3), states.items(), strict=True):
        axes.scatter(*posterior.T, s=2, color=SOFT, linewidths=0)
        x = torch.tensor([-6.0, 6.0])
        axes.plot(x, (y[0] - x) / 0.5, color=WARM, linewidth=1.2)
        axes.scatter(*xs[k].T, s=5, color=ACCENT, linewidths=0, alpha=0.8)
        axes.set(xlim=(-4.2, 4.2), ylim=(-3.4, 3.4))
        axes.set_title(name, color=TEXT, fontsize=14)
        axes.set_axis_off()
    return figure


shown = [0] * 4 + list(range(0, STEPS + 1, 2)) + [STEPS] * 12
save("posterior", map(frame, shown), duration=110, quality=40)
