import torch
from matplotlib.figure import Figure

import pushforward as pf

INK, SOFT, ACCENT = "#1f2933", "#9aa5b1", "#2563eb"
seed = torch.Generator().manual_seed

# --8<-- [start:identity]
# Data N(m, s^2) in two dimensions of different scale: velocity v and average velocity u are known.
m, s = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.3, 1.5]).double()


def spread(t):
    return torch.sqrt((1 - t) ** 2 * s**2 + t**2)


def v(x, t):
    return -m + (t - (1 - t) * s**2) / spread(t) ** 2 * (x - m * (1 - t))


def u(x, t, r):
    end = m * (1 - r) + spread(r) / spread(t) * (x - m * (1 - t))  # where the trajectory through x is at r
    return (x - end) / (t - r)


x, t, r = torch.randn(1000, 2).double(), torch.rand(1000, 1).double() * 0.7 + 0.3, torch.rand(1000, 1).double() * 0.3
one, zero = torch.ones_like(t), torch.zeros_like(t)
for name, tangents in {
    "(v, 1, 0)": (v(x, t), one, zero),
    "(v, 0, 0)": (v(x, t), zero, zero),
    "(v, 0, 1)": (v(x, t), zero, one),
    "(v, 1, 1)": (v(x, t), one, one),
}.items():
    value, derivative = torch.func.jvp(u, (x, t, r), tangents)
    residual = (value - (v(x, t) - (t - r) * derivative)).abs().mean()
    print(f"tangents of (x, t, r) {name}: |u - (v - (t - r) du/dt)| = {float(residual):.1e}")
# --8<-- [end:identity]

# --8<-- [start:train]
STAGES = (100, 300, 700)
data, test = pf.data.load("moons").x, pf.data.load("moons", "test").x
net, settings = pf.nn.MLP.Config((64, 64)), {"steps": STAGES[-1], "batch_size": 256, "lr": 3e-3, "ema": 0.99}


def distance(model, evaluations):
    made = model.sample(2000, sampler=model.sampler_of(evaluations), generator=seed(1))
    return float(pf.evaluation.sliced_wasserstein(made, test, generator=seed(2)))


class Watch(pf.training.Callback):
    """The loss on test data, and the distance of samples made in one step, at some steps of the training."""

    def __init__(self):
        self.losses, self.distances = [], []

    def on_every_step(self, trainer):
        if trainer.step in STAGES:
            model = trainer.averaged_model.eval()
            with torch.no_grad():
                self.losses.append(float(model.loss(test, generator=seed(3))))
            self.distances.append(distance(model, 1))


def trained(preset, **options):
    torch.manual_seed(0)
    units = {} if "teacher" in options else {"net": net, "shape": (2,), "preprocess": "standardise"}
    watch = Watch()
    trainer = pf.Trainer(getattr(pf.models, preset)(**units, **options), data, callbacks=[watch], **settings).fit()
    return trainer.averaged_model.eval(), watch


teacher, watched = trained("flow_matching")
models = {
    "flow_matching": (teacher, watched),
    "meanflow": trained("meanflow"),
    "meanflow, teacher": trained("meanflow", teacher=teacher),
    "improved_meanflow": trained("improved_meanflow"),
    "shortcut": trained("shortcut"),
    "consistency, ict": trained("consistency", grid=160),
    "consistency, ect, teacher": trained("consistency", method="ect", teacher=teacher),
}
# --8<-- [end:train]

rows = []
for name, (model, watch) in models.items():
    preset, _, rest = name.partition(", ")
    label = f"`{preset}`" + (f", {rest}" if rest else "")
    losses = [f"{value:.3g}" for value in watch.losses]
    found = [*watch.distances, *(distance(model, evaluations) for evaluations in (2, 4))]
    rows.append(f"| {label} | " + " | ".join([*losses, *(f"{value:.3f}" for value in found)]) + " |")
rows.append("| training data | | | | | | " + f"{float(pf.evaluation.sliced_wasserstein(data[:2000], test, generator=seed(2))):.3f} | | |")
with open("rows.txt", "w", encoding="utf-8") as file:
    file.write("\n".join(rows) + "\n")
shown = ["flow_matching", "meanflow", "improved_meanflow", "shortcut", "consistency, ict", "consistency, ect, teacher"]
figure = Figure(figsize=(11, 4.6), layout="constrained")
for column, name in enumerate(shown):
    for row, evaluations in enumerate((1, 4)):
        axes = figure.add_subplot(2, len(shown), row * len(shown) + column + 1)
        made = models[name][0].sample(1500, sampler=models[name][0].sampler_of(evaluations), generator=seed(4))
        axes.scatter(*made.T, s=1.5, color=ACCENT, linewidths=0)
        axes.set(xlim=(-1.6, 2.6), ylim=(-1.2, 1.7), xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_color(SOFT)
        if row == 0:
            axes.set_title(name.replace("consistency, ", "consistency\n").replace(", teacher", " from a teacher"), fontsize=9, color=INK)
        if column == 0:
            axes.set_ylabel(f"{evaluations} evaluation{'s' * (evaluations > 1)}", fontsize=9, color=INK)
figure.savefig("steps.svg")
