import dataclasses
from itertools import pairwise

import torch
from matplotlib.figure import Figure

import pushforward as pf

torch.set_default_dtype(torch.float64)
INK, SOFT, ACCENT, WARM = "#1f2933", "#9aa5b1", "#2563eb", "#e8590c"


def output(part):
    """Mark the output of a part, so that the page can show it by itself."""
    print("--8<" + f"-- [start:{part}]")


def end(part):
    print("--8<" + f"-- [end:{part}]")


output("ddim")
# --8<-- [start:ddim]
truth = pf.data.three_gaussians(torch.float64)
model = pf.models.ddim(truth.net(path := pf.paths.VariancePreserving()), (2,), path=path, prediction="velocity")
noise = model.base.sample(500, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    ode = model.decode(noise, sampler=pf.samplers.Dopri5(1e-9, 1e-9))
    for steps in (10, 100, 1000):
        error = (model.decode(noise, sampler=pf.samplers.DDIM(steps)) - ode).square().mean().sqrt()
        print(f"DDIM, {steps:4} steps: {error:.4f} from the ODE's solution")
# --8<-- [end:ddim]
end("ddim")

output("knots")
# --8<-- [start:knots]
thousand, times = pf.paths.Discrete(), []  # 1,000 betas, from 0.0001 to 0.02
exact = truth.net(thousand, "noise")


def network(x, t, cond=None):
    times.append(float(t[0]))
    return exact(x, t)


discrete = pf.families.PathModel(network, (2,), thousand, "noise")
for sampler in (
    pf.samplers.DDPM(1000),
    pf.samplers.DDIM(4),
    pf.samplers.DDIM(4, grid=pf.samplers.Knots("trailing")),
    pf.samplers.DDIM(4, grid=pf.samplers.Knots("leading")),
):
    times.clear()
    discrete.sample(1, sampler=sampler)
    shown = [f"{t:.3f}" for t in times]
    print(f"{len(times):4} evaluations, at t = {', '.join(shown if len(shown) < 5 else [*shown[:2], '...', shown[-1]])}")
# --8<-- [end:knots]
end("knots")

output("few")
# --8<-- [start:few]
few = pf.samplers.DPMSolverPP(5, grid=pf.samplers.Uniform())
with torch.no_grad():
    for lower in (False, True):
        sampler = dataclasses.replace(few, lower_order_final=lower)
        error = (model.decode(noise, sampler=sampler) - ode).square().mean().sqrt()
        print(f"DPM-Solver++ 2M, 5 steps, {'last step of first order' if lower else 'second order to the end'}: {error:.2f}")
discrete.sample(1, sampler=pf.samplers.UniPC(4, grid=pf.samplers.Times((1.0, 0.9, 0.6, 0.2))))
# --8<-- [end:few]
end("few")

output("clip")
# --8<-- [start:clip]
labels, last = torch.arange(300) % 3, pf.samplers.DDIM(20, grid=pf.samplers.Knots())
classes = pf.families.PathModel(truth.net(thousand, "v"), (2,), thousand, "v", sampler=last, classes=3, drop_cond=0.1)
for guidance in (8.0, pf.guidance.Clip(-2.5, 2.5, guidance=8.0), pf.guidance.Clip(-2.5, 2.5, threshold=0.995, guidance=8.0)):
    x = classes.sample(300, labels, guidance=guidance, generator=torch.Generator().manual_seed(0))
    print(
        f"guidance 8{'' if guidance == 8.0 else ', threshold' if guidance.threshold else ', clipped'}: |x| up to {float(x.abs().max()):.2f}"
    )
# --8<-- [end:clip]
end("clip")

output("iterate")
# --8<-- [start:iterate]
for t, x, prediction in last.iterate(classes.denoiser(labels), torch.randn(300, 2), 1.0, 0.0):
    if t < 0.5:  # half of the steps are enough for a preview of the data
        print(f"t = {t:g}: x has deviation {float(x.std()):.2f}, its expected data {float(prediction.data.std()):.2f}")
        break
# --8<-- [end:iterate]
end("iterate")


output("jacobian")


# --8<-- [start:jacobian]
def field(x):
    """A smooth velocity field in the plane."""
    return torch.stack((torch.sin(x[:, 1]) + 0.3 * x[:, 0] ** 2, x[:, 0] * x[:, 1]), dim=1)


x = torch.tensor([[0.4, -0.7]])
divergence = pf.functional.exact_divergence(field, x)[1]
for step in (0.1, 0.01, 0.001):
    jacobian = torch.autograd.functional.jacobian(lambda x, step=step: (x + step * field(x))[0], x)[:, 0]
    print(f"step {step}: log|det| / step = {float(jacobian.det().abs().log() / step):.5f}, divergence = {float(divergence):.5f}")
# --8<-- [end:jacobian]
end("jacobian")

output("heat")
# --8<-- [start:heat]
heat = pf.paths.Heat(duration=2.0)


def density(x, s):
    """Data that has diffused for the heat time s: alpha = 1, sigma² = 2 s."""
    return truth.marginal(1.0, (2 * s).sqrt()).log_prob(x[None])[0].exp()


worst, s = 0.0, torch.tensor(0.3)
for point in truth.sample(20, generator=torch.Generator().manual_seed(1)):
    change = (density(point, s + 1e-5) - density(point, s - 1e-5)) / 2e-5
    laplacian = torch.func.hessian(density)(point, s).trace()
    worst = max(worst, float((change - laplacian).abs()))
print(f"dp/ds and the Laplacian of p differ by {worst:.0e} at most, where p is up to {float(density(truth.means[1], s)):.2f}")
# --8<-- [end:heat]
end("heat")

output("flow")
# --8<-- [start:flow]
mover = pf.families.PathModel(truth.net(heat, "score"), (2,), heat, "score")
with torch.no_grad():
    start = truth.sample(10_000, generator=torch.Generator().manual_seed(2))
    heated = mover.encode(start, sampler=pf.samplers.Dopri5(1e-7, 1e-7))
    back = mover.decode(heated, sampler=pf.samplers.Dopri5(1e-7, 1e-7))
print(f"variance after heat time 2: {float(heated.var(0).mean()):.2f}; of the data {float(start.var(0).mean()):.2f}, and 2 s = 4 more")
print(f"and back again: {float((back - start).abs().max()):.0e} from where they were")
# --8<-- [end:flow]
end("flow")

figure = Figure(figsize=(11, 3.1), layout="constrained")
axis = torch.linspace(-4.5, 4.5, 90)
grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)
times = [1e-6, 0.05, 0.25, 1.0]
with torch.no_grad():
    states = [start[:300]]
    for t, s in pairwise(times):
        states.append(pf.samplers.Dopri5(1e-6, 1e-6)(mover.denoiser(), states[-1], t, s))
    for axes, t, points in zip(figure.subplots(1, 4, sharex=True, sharey=True), times, states, strict=True):
        sigma = heat.sigma(torch.tensor(t))
        axes.contourf(axis, axis, truth.marginal(1.0, sigma).log_prob(grid).exp().view(90, 90), levels=12, cmap="Blues")
        axes.scatter(points[:, 0], points[:, 1], s=2, color=WARM, linewidths=0)
        axes.set_title(f"heat time {round(2 * t, 3):g}", fontsize=10, color=INK)
        axes.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), xticks=[], yticks=[])
        axes.set_aspect("equal")
figure.savefig("heat.svg")

figure = Figure(figsize=(9, 3.2), layout="constrained")
with torch.no_grad():
    few = noise[:12]
    for axes, (name, sampler) in zip(
        figure.subplots(1, 3, sharex=True, sharey=True),
        {
            "DDPM (eta = 1)": pf.samplers.DDPM,
            "DDIM, 10 steps": lambda k: pf.samplers.DDIM(k),
            "the ODE": lambda k: pf.samplers.RK4(k),
        }.items(),
        strict=True,
    ):
        count = 10 if "10" in name else 100
        ends = torch.linspace(1.0, path.interval[0], count + 1).tolist()
        ways, generator = [few], torch.Generator().manual_seed(3)
        for t, s in pairwise(ends):
            ways.append(sampler(1)(model.denoiser(), ways[-1], t, s, generator))
        ways = torch.stack(ways)
        axes.plot(ends, ways[:, :, 0], color=ACCENT, linewidth=0.8)
        axes.set_title(name, fontsize=10, color=INK)
        axes.set(xlabel="t", xlim=(1, 0))
        axes.spines[["top", "right"]].set_visible(False)
figure.savefig("ways.svg")
