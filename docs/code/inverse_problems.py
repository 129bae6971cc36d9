import pandas
import torch
from matplotlib.figure import Figure

import pushforward as pf

INK = "#1f2933"
seed = torch.Generator().manual_seed


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


# --8<-- [start:train]
data, test = pf.data.load("digits"), pf.data.load("digits", "test")
torch.manual_seed(0)
net = pf.nn.MLP.Config((256, 256))
model = pf.models.rectified_flow(net, data.shape, levels=data.levels, classes=data.classes, drop_cond=0.1)
model = pf.Trainer(model, data, steps=1000, batch_size=128, lr=2e-3, ema=0.99).fit().averaged_model.eval()
# --8<-- [end:train]

output("measure")
# --8<-- [start:measure]
hole = torch.ones(1, 8, 8)
hole[:, 2:6, 2:6] = 0
measurements = {
    "inpainting": pf.measurements.Mask(hole, noise=0.5),
    "super-resolution": pf.measurements.Downsample(2, noise=0.5),
    "deblurring": pf.measurements.Blur(1.0, noise=0.5),
}
x = test.x[:1]  # one digit, 0 to 16
measured = {name: one.draw(x, seed(0)) for name, one in measurements.items()}

y = measured["super-resolution"]  # (1, 1, 4, 4)
guidance = pf.guidance.MMPS(measurements["super-resolution"], y)
made = model.sample(8, guidance=guidance, sampler=pf.samplers.EulerMaruyama(50), generator=seed(1))
off = pf.measurements.Downsample(2)(made - 0.5) - y  # samples are real numbers, half a cell above the integers that were measured
print(tuple(made.shape), "differ from y by", round(float(off.std()), 2), "and from each other by", round(float(made.std(0).mean()), 2))
# --8<-- [end:measure]
end("measure")

x = test.x[[3, 6]]
figure = Figure(figsize=(9, 4.6), layout="constrained")
for part, (name, one) in zip(figure.subfigures(1, 3), measurements.items(), strict=True):
    part.suptitle(name, fontsize=11, color=INK)
    y = one.draw(x, seed(0))
    columns = [x, y]
    sampler = pf.samplers.EulerMaruyama(50)
    repeated = y.repeat_interleave(2, 0)
    samples = model.sample(4, guidance=pf.guidance.MMPS(one, repeated), sampler=sampler, generator=seed(1))
    columns += [samples[0::2], samples[1::2]]
    columns.append(model.sample(2, guidance=pf.guidance.PnPFlow(one, y), generator=seed(1)))
    axes = part.subplots(5, 2)
    for row, (label, images) in enumerate(zip(("digit", "y", "MMPS", "MMPS", "PnP-Flow"), columns, strict=True)):
        for column in range(2):
            axes[row][column].imshow(images[column, 0], cmap="gray_r", vmin=0, vmax=16)
            axes[row][column].set(xticks=[], yticks=[])
        if name == "inpainting":
            axes[row][0].set_ylabel(label, fontsize=9, color=INK)
figure.savefig("digits.svg")

# --8<-- [start:exact]
truth = pf.data.three_gaussians()  # three Gaussians in the plane
exact = pf.families.PathModel(truth.net(pf.paths.Linear()), (2,))  # the network that perfect training would give
line = pf.measurements.Linear(torch.tensor([[1.0, 0.5]]), noise=0.5)
events = truth.sample(200, generator=seed(0))
y = line.draw(events, seed(1)).repeat_interleave(60, 0)  # 60 samples for each of 200 events


def posterior(y, n, number=2):
    """Return n draws of the exact posterior: draws of the prior, drawn again in proportion to the likelihood of y."""
    prior = truth.sample(50_000, generator=seed(number))
    weights = torch.exp(-0.5 * ((line(prior) - y) / line.noise) ** 2)[:, 0]
    return prior[torch.multinomial(weights, n, replacement=True, generator=seed(number))]


def scores(samples):
    """Return the distance to the posterior's mean and to the posterior, over 20 events, and how often 80 % intervals cover."""
    means, distances = [], []
    for k in range(20):
        wanted = posterior(y[60 * k], 2000)
        means.append(float((samples[k].mean(0) - wanted.mean(0)).norm()))
        distances.append(float(pf.evaluation.sliced_wasserstein(samples[k], wanted[:60], generator=seed(3))))
    low, high = samples.quantile(0.1, dim=1), samples.quantile(0.9, dim=1)
    return sum(means) / 20, sum(distances) / 20, float(((events >= low) & (events <= high)).float().mean())


sampler = pf.samplers.EulerMaruyama(40)
found = {"exact posterior": torch.stack([posterior(y[60 * k], 60, 100 + k) for k in range(200)])}
for method in (pf.guidance.MMPS, pf.guidance.PiGDM, pf.guidance.DPS):
    found[method.__name__] = exact.sample(len(y), guidance=method(line, y), sampler=sampler, generator=seed(4))
for method in (pf.guidance.MMPS, pf.guidance.DPS):
    ode = exact.sample(len(y), guidance=method(line, y), sampler=pf.samplers.Heun(20), generator=seed(4))
    found[f"{method.__name__}, Heun"] = ode
for method in (pf.guidance.FlowDPS, pf.guidance.PnPFlow):
    found[method.__name__] = exact.sample(len(y), guidance=method(line, y), generator=seed(4))
found["without y"] = truth.sample(len(y), generator=seed(5))
# --8<-- [end:exact]

rows = []
for name, samples in found.items():
    mean, distance, covered = scores(samples.view(200, 60, 2))
    method, *rest = name.split(", ")
    title = name if name in ("exact posterior", "without y") else ", ".join((f"`{method}`", *rest))
    rows.append(f"| {title} | {mean:.2f} | {distance:.2f} | {covered:.2f} |")
with open("rows.txt", "w", encoding="utf-8") as file:
    file.write("\n".join(rows) + "\n")

output("table")
# --8<-- [start:table]
iris = pf.data.load("iris")
torch.manual_seed(0)
flowers = pf.models.flow_matching(net, schema=iris.schema, drop_cond=0.1)
flowers = pf.Trainer(flowers, iris, steps=600, batch_size=128, lr=2e-3, ema=0.99).fit().averaged_model.eval()
rows = pandas.DataFrame(
    {
        "sepal length (cm)": [5.0, None, 6.5],
        "sepal width (cm)": [None, 3.0, None],
        "petal length (cm)": [1.4, 4.5, None],
        "petal width (cm)": [None, None, 2.0],
        "label": ["setosa", "versicolor", "virginica"],
    }
)
print(pf.impute(flowers, rows, generator=seed(0)).round(1).to_string())
# --8<-- [end:table]
end("table")
