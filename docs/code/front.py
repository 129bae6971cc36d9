"""Noise becomes data in four ways: the picture of the front page."""

import numpy
import torch
from docs_moving import save
from matplotlib.figure import Figure

import pushforward as pf

POINTS, FRAMES, LAYERS = 1000, 16, 8
torch.manual_seed(0)
data = pf.data.load("moons", n=20000)
net = pf.nn.MLP.Config((128, 128, 128))


def trained(model, steps, lr):
    trainer = pf.Trainer(model, data.x, steps=steps, batch_size=256, lr=lr, ema=0.99, seed=0, patience=0)
    return trainer.fit().averaged_model.eval()


models = {
    "nsf": trained(pf.models.nsf(2, layers=LAYERS, hidden=(64, 64), preprocess="standardise"), 500, 2e-3),
    "ddpm": trained(pf.models.ddpm(net, (2,), preprocess="standardise"), 2500, 4e-3),
    "rectified_flow": trained(pf.models.rectified_flow(net, (2,), preprocess="standardise"), 2500, 4e-3),
}
models["consistency"] = trained(pf.models.consistency(method="ect", teacher=models["rectified_flow"]), 2000, 3e-3)


@torch.no_grad()
def states(name):
    """The points at each frame, from noise to data."""
    model = models[name]
    noise = model.base.sample(POINTS, generator=torch.Generator().manual_seed(1))
    if name == "consistency":  # one jump
        return [(noise if k < FRAMES // 2 else model.decode(noise)).numpy() for k in range(FRAMES)]
    if name == "nsf":  # after each layer
        found, z = [noise], noise
        for layer in reversed(model.bijection.steps):
            z, _ = layer.inverse(z)
            found.append(z)
    else:
        sampler = pf.samplers.DDIM(FRAMES) if name == "ddpm" else pf.samplers.Euler(FRAMES)
        found = [noise, *(state.x for state in sampler.iterate(model.denoiser(), noise, *reversed(model.interval)))]
    found[1:] = [model._from_model(one) for one in found[1:]]
    return [found[round(k * (len(found) - 1) / (FRAMES - 1))].numpy() for k in range(FRAMES)]


def frames(titles, rows, size):
    """The frames, with these titles, in some rows."""
    paths = {name: states(name) for name in models}
    angle = numpy.arctan2(paths["rectified_flow"][0][:, 1], paths["rectified_flow"][0][:, 0])
    for frame in [0] * 4 + list(range(FRAMES)) + [FRAMES - 1] * 10:
        figure = Figure(size, dpi=100)
        figure.subplots_adjust(0.005, 0.01, 0.995, 1 - 0.3 / size[1], wspace=0.03, hspace=0.15)
        figure.patch.set_facecolor("#12161f")
        for axes, (name, title) in zip(figure.subplots(rows, 4 // rows).flat, titles.items(), strict=True):
            axes.scatter(*paths[name][frame].T, s=3, c=angle, cmap="hsv", alpha=0.8, linewidths=0)
            axes.set(xlim=(-2.6, 3.4), ylim=(-2.6, 2.8))
            axes.set_title(title, color="#dfe6f0", fontsize=10)
            axes.set_axis_off()
        yield figure


TITLES = {
    "nsf": "spline flow: 8 layers",
    "ddpm": f"diffusion: DDIM, {FRAMES} steps",
    "rectified_flow": f"rectified flow: {FRAMES} steps",
    "consistency": "consistency model: one step",
}
for name, rows, size in (("noise_to_data", 1, (9.6, 2.7)), ("noise_to_data_narrow", 2, (4.2, 4.2))):  # a row does not suit a phone
    save(name, frames(TITLES, rows, size), duration=120, quality=40)
for name, model in models.items():
    samples = model.sample(2000, generator=torch.Generator().manual_seed(2))
    print(f"{name}: sliced Wasserstein distance {float(pf.evaluation.sliced_wasserstein(samples, data.x[:2000])):.3f}")
