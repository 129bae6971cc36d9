import torch
from matplotlib.figure import Figure

import pushforward as pf

torch.set_num_threads(1)
INK, SOFT, ACCENT, WARM = "#1f2933", "#9aa5b1", "#2563eb", "#d9480f"


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


output("jacobian")

# --8<-- [start:jacobian]
torch.manual_seed(0)
coupling = pf.bijections.AdditiveCoupling(4, hidden=(16,)).double()
x = torch.randn(1, 4, dtype=torch.float64)
jacobian = torch.autograd.functional.jacobian(lambda x: coupling(x)[0], x).reshape(4, 4)
print(jacobian.numpy().round(2))
print("log|det| =", float(torch.linalg.slogdet(jacobian).logabsdet))
print("x comes back:", torch.allclose(coupling.inverse(coupling(x)[0])[0], x, rtol=0, atol=1e-15))
# --8<-- [end:jacobian]
end("jacobian")


def fitted(model, x, steps, lr=2e-3, batch=256, scale_lr=None):
    """Fit a model with a plain training loop, in which a last diagonal scale may have a learning rate of its own."""
    model.initialise(x)
    scales = list(model.bijection.steps[-1].parameters()) if scale_lr else []
    others = [p for p in model.parameters() if all(p is not scale for scale in scales)]
    optimizer = torch.optim.Adam([{"params": others}, {"params": scales, "lr": scale_lr or lr}], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss = model.loss(x[torch.randint(len(x), (batch,), generator=generator)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


# --8<-- [start:moons]
torch.manual_seed(0)
x = pf.data.moons().x
nice = fitted(pf.models.nice(2, 8, (32, 32), preprocess="standardise"), x, 600)
realnvp = fitted(pf.models.realnvp(2, 8, (32, 32), preprocess="standardise"), x, 600)
pf.evaluation.picture_layers(nice, "nice.svg")
pf.evaluation.picture_layers(realnvp, "realnvp.svg")
# --8<-- [end:moons]

output("entropy")
# --8<-- [start:entropy]
generator = torch.Generator().manual_seed(1)
for name, model in (("NICE", nice), ("RealNVP", realnvp)):
    _, log_prob = model.sample(20000, log_prob=True, generator=generator)
    held_out = model.log_prob(pf.data.moons("test").x).mean().detach()
    print(f"{name:8} log p of its samples {log_prob.mean():.2f} ± {log_prob.std():.2f}, of moons never seen {held_out:.2f}")
# --8<-- [end:entropy]
end("entropy")

# The distribution of log p over a model's own samples: NICE can only shift it.
figure = Figure(figsize=(6.4, 2.9), layout="constrained")
axes = figure.subplots()
noise = nice.base.log_prob(nice.base.sample(20000, generator=generator))
for name, model, colour in (("NICE", nice, ACCENT), ("RealNVP", realnvp, WARM)):
    _, log_prob = model.sample(20000, log_prob=True, generator=generator)
    axes.hist((log_prob - log_prob.mean()).numpy(), 80, range=(-4, 2), histtype="step", density=True, color=colour, label=name)
axes.hist((noise - noise.mean()).numpy(), 80, range=(-4, 2), density=True, color=SOFT, alpha=0.4, label="the noise itself")
axes.set(xlabel="log p of a sample, less its mean", yticks=[])
axes.legend(frameon=False, loc="upper left")
figure.savefig("volume.svg")

output("digits")
# --8<-- [start:digits]
torch.manual_seed(0)
data = pf.data.load("digits")
digits = pf.models.nice(shape=data.shape, layers=4, hidden=(256, 256), preprocess="logit", levels=data.levels)
digits = fitted(digits, data.x, 400, 1e-3, scale_lr=3e-2)  # a log-scale has farther to go than a weight
test = pf.data.load("digits", "test")
bits = pf.evaluation.bits_per_dim(digits, test, draws=4, cond="none")
print(f"NICE on digits: {bits.mean:.2f} ± {bits.standard_error:.2f} bits per dimension on test digits")
extents = (-digits.bijection.steps[-1].log_scale.detach()).exp().sort(descending=True).values
print(f"1 / scale of the 64 dimensions: from {extents[0]:.2f} to {extents[-1]:.2f}")
# --8<-- [end:digits]
end("digits")
figure = Figure(figsize=(6.4, 2.4), layout="constrained")
axes = figure.subplots()
axes.bar(range(len(extents)), extents.numpy(), color=ACCENT)
axes.set(xlabel="dimension of the noise, sorted", ylabel="1 / scale")
figure.savefig("scales.svg")
