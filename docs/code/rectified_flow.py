from copy import deepcopy

import torch
from matplotlib.figure import Figure

import pushforward as pf

INK, SOFT, ACCENT = "#1f2933", "#9aa5b1", "#2563eb"

# --8<-- [start:train]
torch.manual_seed(0)
data = pf.data.load("moons").x
first = pf.models.rectified_flow(pf.nn.MLP.Config((128, 128)), (2,), preprocess="standardise")
settings = {"steps": 1500, "batch_size": 256, "lr": 3e-3, "ema": 0.995}
pf.Trainer(first, data, **{**settings, "steps": 3000}).fit()
# --8<-- [end:train]

# --8<-- [start:reflow]
pairs = pf.reflow(first, 10_000, generator=torch.Generator().manual_seed(1))
second = deepcopy(first)
pf.Trainer(second, pairs, **settings).fit()
one = pf.distill(second, pf.reflow(second, 10_000, generator=torch.Generator().manual_seed(2)), **settings)
# --8<-- [end:reflow]

# --8<-- [start:measure]
for name, model in {"first": first, "reflowed": second}.items():
    print(f"{name:9} straightness {pf.evaluation.straightness(model, 2000, generator=torch.Generator().manual_seed(3))}")
test, seed = pf.data.load("moons", "test").x, torch.Generator().manual_seed
print("\nsliced Wasserstein distance to test data")
for name, model in {"first": first, "reflowed": second, "distilled": one}.items():
    for steps in (1,) if model is one else (1, 2, 8, 32):
        made = model.sample(2000, sampler=pf.samplers.Euler(steps), generator=seed(4))
        print(f"{name:9} {steps} step{'s' * (steps > 1)}: {float(pf.evaluation.sliced_wasserstein(made, test, generator=seed(5))):.3f}")
print(f"training data itself: {float(pf.evaluation.sliced_wasserstein(data[:2000], test, generator=seed(5))):.3f}")
# --8<-- [end:measure]

noise = first.base.sample(200, generator=seed(6))
figure = Figure(figsize=(11, 3.8), layout="constrained")
panels = figure.subplots(1, 3, sharex=True, sharey=True)
with torch.no_grad():
    for axes, (name, model) in zip(panels, {"first round": first, "after one reflow": second}.items(), strict=False):
        states = [noise]
        for k in range(40):
            states.append(pf.samplers.Heun(1)(model.denoiser(), states[-1], 1 - k / 40, 1 - (k + 1) / 40))
        ways = torch.stack(states)
        axes.plot(ways[:, :, 0], ways[:, :, 1], color=SOFT, linewidth=0.4)
        axes.scatter(*noise.T, s=4, color=INK, linewidths=0, zorder=3)
        axes.scatter(*ways[-1].T, s=4, color=ACCENT, linewidths=0, zorder=3)
        axes.set_title(name, fontsize=10, color=INK)
    made = one._to_model(one.sample(2000, generator=seed(4)))[0]
    panels[2].scatter(*made.T, s=2, color=ACCENT, linewidths=0)
    panels[2].set_title("distilled: 2,000 samples, one step each", fontsize=10, color=INK)
for axes in panels:
    axes.set_aspect("equal")
    axes.set_axis_off()
figure.savefig("straight.svg")
