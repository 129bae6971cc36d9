"""Two models of digits of 8 x 8 pixels that run in the reader's browser, one of few steps, and a picture for readers without scripts."""

import torch
from matplotlib.figure import Figure

import pushforward as pf

torch.manual_seed(0)
digits = pf.data.load("digits")
data = pf.data.Dataset("digits", digits.x.flatten(1) / 8 - 1, digits.cond)  # pixels between -1 and 1
net = pf.nn.MLP.Config((256, 256))


def trained(model, steps):
    return pf.Trainer(model, data, steps=steps, batch_size=256, lr=2e-3, ema=0.99, seed=0, patience=0).fit().averaged_model.eval()


digit_flow = trained(pf.models.rectified_flow(net, (64,), classes=10), 1500)
one_step = trained(pf.models.meanflow(net, (64,), classes=10), 2000)
pf.formats.export_onnx(digit_flow, "digit_flow.onnx", "network")
for steps in (1, 2, 4):
    pf.formats.export_onnx(one_step, f"one_step_{steps}.onnx", "sample", sampler=pf.samplers.Jumps(steps))

noise, cond = torch.randn(1, 64, generator=torch.Generator().manual_seed(8)).expand(10, 64), torch.arange(10)
rows = {
    "MeanFlow, 1 jump": (one_step, pf.samplers.Jumps(1)),
    "Euler, 1 step": (digit_flow, pf.samplers.Euler(1)),
    "Euler, 16 steps": (digit_flow, pf.samplers.Euler(16)),
}
figure = Figure((7.2, 2.7), layout="constrained")
for axes, (title, (model, sampler)) in zip(figure.subplots(3, 1), rows.items(), strict=True):
    made = model.decode(noise, cond, sampler=sampler).detach()
    axes.imshow(made.reshape(10, 8, 8).permute(1, 0, 2).reshape(8, 80), cmap="gray", vmin=-1, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([3.5], [title], color="#7b8794")
    axes.tick_params(length=0)
figure.savefig("digits.svg", transparent=True)
