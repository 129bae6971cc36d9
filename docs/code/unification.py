from itertools import pairwise

import torch
from matplotlib.figure import Figure

import pushforward as pf

INK, ACCENT, WARM = "#1f2933", "#2563eb", "#d9480f"

# --8<-- [start:table]
torch.manual_seed(0)
models = {
    "normalizing flow": pf.models.realnvp(2),
    "continuous flow": pf.models.ffjord(),
    "flow matching": pf.models.flow_matching(),
    "diffusion": pf.models.ddpm(),
}
table = pf.evaluation.explain(models, pf.data.load("moons", "test").x[:256])
# --8<-- [end:table]
print("| | " + " | ".join(models) + " |\n|---|" + "---|" * len(models))
for question, answers in table.items():
    cells = [answer.split(",")[0] if question == "likelihood" else answer for answer in answers.values()]
    if question != "time a sample":  # machine-dependent, different on every build
        print(f"| {question} | " + " | ".join(cells) + " |")

# --8<-- [start:same]
truth = pf.data.three_gaussians()
diffusion = pf.families.PathModel(truth.net(pf.paths.VariancePreserving(), "noise"), (2,), pf.paths.VariancePreserving(), "noise")
straight = diffusion.follow(pf.paths.Linear())
solver = pf.samplers.Dopri5(1e-6, 1e-6)
x = truth.sample(2000)
with torch.no_grad():
    densities = [model.log_prob(x, sampler=solver) for model in (diffusion, straight)]
# --8<-- [end:same]
print("\nlog-density of the data, mean over 2,000 points")
for name, values in zip(("diffusion, solved along its own path", "the same network along straight lines"), densities, strict=True):
    print(f"{name}: {float(values.mean()):.3f}")
print(f"the mixture's own: {float(truth.log_prob(x).mean()):.3f}")

# The map of each kind at work: one coordinate of the same noise after each layer of a flow, and along the ODE of the diffusion model.
torch.manual_seed(0)
flow = pf.models.realnvp(2, layers=8, hidden=(64, 64))
optimiser = torch.optim.Adam(flow.parameters(), 3e-3)
for _ in range(400):
    loss = flow.loss(truth.sample(512))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
noise = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    layers = [noise]
    for layer in reversed(flow.bijection.steps):
        layers.append(layer.inverse(layers[-1])[0])
    times = torch.linspace(1.0, pf.paths.VariancePreserving().interval[0], 81).tolist()
    along = [noise]
    for t, s in pairwise(times):
        along.append(pf.samplers.RK4(1)(diffusion.denoiser(), along[-1], t, s))
figure = Figure(figsize=(9, 3), layout="constrained")
left, right = figure.subplots(1, 2, sharey=True)
left.plot(torch.stack(layers)[:, :, 0], "o-", color=WARM, linewidth=0.7, markersize=2.5)
left.set(title="normalizing flow: a stack of layers", xlabel="layers applied", ylabel="one coordinate, from noise to data")
right.plot(times, torch.stack(along)[:, :, 0], color=ACCENT, linewidth=0.9)
right.set(title="diffusion: an ODE", xlabel="t", xlim=(1, 0))
for axes in (left, right):
    axes.title.set_size(10)
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("maps.svg")
