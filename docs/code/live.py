"""The models of the plane in the figures that run in the reader's browser: trained, exported, and drawn for readers without scripts."""

import json
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import pushforward as pf

INK, SOFT, ACCENT, WARM = "#7b8794", "#9aa5b1", "#3b82f6", "#e8590c"
seed = torch.Generator().manual_seed
torch.manual_seed(0)


def standardised(x):
    return (x - x.mean(0)) / x.std(0)


def trained(model, x, **settings):
    settings = {"steps": 1500, "batch_size": 256, "lr": 3e-3, "ema": 0.99, "seed": 0, "patience": 0, **settings}
    return pf.Trainer(model, x, **settings).fit().averaged_model.eval()


def rounded(x):
    return [[round(value, 3) for value in row] for row in x.tolist()]


# ---- the plane: two moons, and eight Gaussians for the diffusion model
moons = standardised(pf.data.load("moons").x)
angle = torch.randint(0, 8, (4000,), generator=seed(1)) * (math.pi / 4)
eight = standardised(torch.stack((angle.cos(), angle.sin()), 1) + 0.06 * torch.randn(4000, 2, generator=seed(2)))
net = pf.nn.MLP.Config((64, 64, 64))
flow = trained(pf.models.rectified_flow(net, (2,)), moons)
reflowed = trained(pf.models.rectified_flow(net, (2,)), pf.reflow(flow, 10_000, generator=seed(3)), steps=1000)
diffusion = trained(pf.models.ddim(net, (2,), path=pf.paths.VariancePreserving()), eight)
couplings = trained(pf.models.realnvp(2, layers=6, hidden=(48, 48)), moons, steps=800, lr=3e-3)

# ---- the files
for name, model in {"flow": flow, "reflowed": reflowed, "diffusion": diffusion}.items():
    pf.formats.export_onnx(model, f"{name}.onnx", "network")
layers = list(couplings.bijection.steps)
for k, layer in enumerate(layers):  # from data to noise; decode is its inverse
    part = pf.families.NormalizingFlow(pf.bijections.Chain([layer]), shape=(2,))
    pf.formats.export_onnx(part.eval(), f"coupling_{k}.onnx", "decode")
facts = {
    "moons": rounded(moons[:400]),
    "eight": rounded(eight[:400]),
    "couplings": len(layers),
    "moves": [int(not layer.swap) for layer in layers],  # the coordinate that each transforms
    "interval": flow.interval,
    "diffusion_interval": diffusion.interval,
}
Path("live.json").write_text(json.dumps(facts))


# ---- the pictures that readers without scripts see; their colours are readable on white and on black


def drawn(name, draw, size=(7.2, 4.3), span=3.0):
    figure = Figure(size, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set(aspect="equal", xlim=(-span * size[0] / size[1], span * size[0] / size[1]), ylim=(-span, span))
    axes.set_axis_off()
    figure.savefig(name, transparent=True)


def trajectories(axes, states, data, shown):
    ways = torch.stack(states)
    axes.scatter(*data[:400].T, s=2, color=SOFT, linewidths=0)
    axes.scatter(*ways[-1, shown:].T, s=4, color=ACCENT, linewidths=0)
    axes.plot(ways[:, :shown, 0], ways[:, :shown, 1], color=INK, linewidth=1)
    axes.scatter(*ways[0, :shown].T, s=18, color=WARM, zorder=3)


@torch.no_grad()
def noise_picture(axes):
    states = [flow.base.sample(300, generator=seed(4))]
    states += [state.x for state in pf.samplers.Euler(8).iterate(flow.denoiser(), states[0], *reversed(flow.interval))]
    trajectories(axes, states, moons, 12)


@torch.no_grad()
def ddim_picture(axes):
    start = torch.cat((torch.tensor([[0.9, -0.6]]).expand(12, 2), torch.randn(300, 2, generator=seed(5))))
    sampler = pf.samplers.DDIM(30, eta=0.5)
    generator = seed(6)
    states = [start, *(state.x for state in sampler.iterate(diffusion.denoiser(), start, *reversed(diffusion.interval), generator))]
    trajectories(axes, states, eight, 12)


def lines(span, step):
    """The lines of a grid, (lines, points, 2)."""
    places, fine = torch.arange(-span, span + step / 2, step), torch.linspace(-span, span, 81)
    upright = torch.stack(torch.meshgrid(places, fine, indexing="ij"), -1)
    return torch.cat((upright, upright.flip(-1)))


@torch.no_grad()
def layers_picture(axes):
    grid = couplings.decode(lines(2.4, 0.4).reshape(-1, 2)).reshape(-1, 81, 2)
    axes.plot(grid[..., 0].T, grid[..., 1].T, color=SOFT, linewidth=0.8)
    axes.scatter(*couplings.sample(500, generator=seed(7)).T, s=4, color=ACCENT, linewidths=0, zorder=3)


def split_picture(axes):
    grid = lines(2.0, 0.25)
    axes.plot(grid[..., 0].T, (grid[..., 1] + 0.5 * torch.sin(2 * grid[..., 0])).T, color=ACCENT, linewidth=0.8)
    axes.plot((-2.6, 2.6), (0, 0), color=INK)


def heat_picture(axes):
    truth, s = pf.data.three_gaussians(), 0.18
    places = torch.stack(torch.meshgrid(torch.linspace(-5, 5, 120), torch.linspace(-3, 3, 72), indexing="xy"), -1)
    density = truth.marginal(torch.tensor(1.0), torch.tensor(math.sqrt(2 * s))).log_prob(places.reshape(-1, 2)).exp().reshape(72, 120)
    axes.contourf(places[..., 0], places[..., 1], density, levels=torch.linspace(0.01, float(density.max()), 9), cmap="Blues")


def pairing_picture(axes):
    noise, data = 0.8 * torch.randn(32, 2, generator=seed(9)), 1.7 * eight[:32]
    pairs = pf.pairings.MinibatchOT()(data, noise, None, generator=seed(10))
    for z, x in zip(pairs[1], pairs[0], strict=True):
        axes.plot(*torch.stack((z, x)).T, color=SOFT, linewidth=0.8)
    axes.scatter(*noise.T, s=14, color=WARM, zorder=3)
    axes.scatter(*data.T, s=14, color=ACCENT, zorder=3)


drawn("noise.svg", noise_picture)
drawn("ddim.svg", ddim_picture, span=2.2)
drawn("layers.svg", layers_picture)
drawn("split.svg", split_picture)
drawn("heat.svg", heat_picture, span=3.0)
drawn("pairing.svg", pairing_picture, span=3.4)
