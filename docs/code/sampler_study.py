from pathlib import Path

import torch
from matplotlib.figure import Figure

import pushforward as pf
from pushforward.evaluation.distances import sliced_wasserstein
from pushforward.samplers import DDIM, DDPM, EDM, RK4, Dopri5, DPMSolverPP, Euler, EulerMaruyama, Heun, Midpoint, PredictorCorrector, UniPC

torch.set_default_dtype(torch.float64)
INK, SOFT = "#1f2933", "#9aa5b1"

# A mixture of three Gaussians along diffusion's path: the exact network, so that all errors are the sampler's.
truth = pf.data.three_gaussians(torch.float64)
path = pf.paths.VariancePreserving()
t_min, t_max = path.interval
alpha, sigma = (float(f(torch.tensor(t_max))) for f in (path.alpha, path.sigma))
# --8<-- [start:model]
model = pf.families.PathModel(truth.net(path, "noise"), (2,), path, "noise", base=truth.marginal(alpha, sigma), classes=3)
# --8<-- [end:model]

ODE = {
    "Euler": (lambda k: Euler(k), 1),
    "Heun": (lambda k: Heun(k), 2),
    "Midpoint": (lambda k: Midpoint(k), 2),
    "RK4": (lambda k: RK4(k), 4),
    "DDIM": (lambda k: DDIM(k, grid=pf.samplers.LogSNR()), 1),
    "DPM-Solver++ 1S": (lambda k: DPMSolverPP(k, "1S"), 1),
    "DPM-Solver++ 2S": (lambda k: DPMSolverPP(k, "2S"), 2),
    "DPM-Solver++ 2M": (lambda k: DPMSolverPP(k, "2M"), 1),
    "DPM-Solver++ 3M": (lambda k: DPMSolverPP(k, "3M"), 1),
    "UniPC 2": (lambda k: UniPC(k, order=2), 1),
    "UniPC 3": (lambda k: UniPC(k, order=3), 1),
    "EDM": (lambda k: EDM(k), 2),
}
BUDGETS = (8, 12, 16, 24, 32, 64, 128)


def solved(sampler, guidance):
    """Samples from fixed noise with a sampler, conditioned on labels."""
    n = 400
    labels = torch.arange(n) % 3
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return model.decode(noise, labels, sampler=sampler, guidance=guidance)


def ode_errors(guidance):
    """The root mean square error of each ODE sampler at each number of evaluations."""
    exact = solved(Dopri5(1e-10, 1e-10), guidance)
    rows = {}
    for name, (make, each) in ODE.items():
        errors = [float((solved(make(budget // each), guidance) - exact).square().mean().sqrt()) for budget in BUDGETS]
        rows[name] = errors
    return rows


texts = {"en": [], "zh": []}


def show(titles, heads, rows):
    """Add a table to the texts of both languages, each with its title."""
    lines = ["| | " + " | ".join(map(str, heads)) + " |", "|---|" + "---|" * len(heads)]
    lines += [f"| {name} | " + " | ".join(f"{value:.2g}" for value in values) + " |" for name, values in rows.items()]
    for text, title in zip(texts.values(), titles, strict=True):
        text += ["", title, "", *lines]


def distance(sampler):
    """The sliced Wasserstein distance of 10,000 samples to as many draws of the mixture."""
    made = model.sample(10_000, sampler=sampler, generator=torch.Generator().manual_seed(1))
    return float(
        sliced_wasserstein(made, truth.sample(10_000, generator=torch.Generator().manual_seed(2)), 100, torch.Generator().manual_seed(3))
    )


with torch.no_grad():
    tables = {guidance: ode_errors(guidance) for guidance in (1.0, 8.0)}
    for guidance, rows in tables.items():
        titles = (
            f"Error of the ODE's samplers at guidance {guidance:g}, by evaluations:",
            f"引导强度为 {guidance:g} 时 ODE 采样器的误差，按求值次数：",
        )
        show(titles, BUDGETS, rows)
    budgets = (8, 16, 32, 64, 128)
    noisy = {
        "DDIM, no noise": lambda k: DDIM(k),
        "DDPM": lambda k: DDPM(k),
        "DPM-Solver++ SDE-2M": lambda k: DPMSolverPP(k, "SDE-2M"),
        "Euler-Maruyama": lambda k: EulerMaruyama(k),
        "predictor-corrector": lambda k: PredictorCorrector(k // 2),
        "EDM with churn": lambda k: EDM(k // 2, churn=10.0),
    }
    show(
        ("Distance of samples to the mixture, by evaluations:", "样本到混合分布的距离，按求值次数："),
        budgets,
        {name: [distance(make(k)) for k in budgets] for name, make in noisy.items()},
    )
    steps = (10, 20, 50, 100, 300)
    show(
        ("DDIM: distance by steps and eta:", "DDIM：按步数和 eta 的距离："),
        steps,
        {f"eta {eta:g}": [distance(DDIM(k, eta)) for k in steps] for eta in (0.0, 0.2, 0.5, 1.0)},
    )
    floor = sliced_wasserstein(
        *(truth.sample(10_000, generator=torch.Generator().manual_seed(k)) for k in (2, 4)), 100, torch.Generator().manual_seed(3)
    )
    texts["en"] += ["", f"Two draws of the mixture itself are {float(floor):.2g} apart."]
    texts["zh"] += ["", f"混合分布自身的两次抽样之间的距离为 {float(floor):.2g}。"]
for language, text in texts.items():
    Path(f"{language}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")

figure = Figure(figsize=(10, 4.2), layout="constrained")
shown = {
    "Euler": SOFT,
    "Heun": "#5c6b7a",
    "DDIM": "#e8590c",
    "DPM-Solver++ 2M": "#2563eb",
    "DPM-Solver++ 3M": "#9c36b5",
    "UniPC 2": "#2f9e44",
}
for axes, (guidance, rows) in zip(figure.subplots(1, 2), tables.items(), strict=True):
    for name, colour in shown.items():
        axes.loglog(BUDGETS, rows[name], "o-", color=colour, markersize=3, linewidth=1.5, label=name)
    axes.set(xlabel="evaluations", title=f"guidance {guidance:g}", ylabel="root mean square error")
    axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
axes.legend(frameon=False, fontsize=8)
figure.savefig("errors.svg")
