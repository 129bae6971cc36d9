import torch
import torchdiffeq

import pushforward as pf

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

# --8<-- [start:field]
net = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))


class Theirs(torch.nn.Module):
    def forward(self, t, x):  # t is one number for the batch
        return net(torch.cat((x, t.expand(len(x), 1)), 1))


class Ours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net

    def forward(self, x, t):  # t has one number for each sample
        return self.net(torch.cat((x, t[:, None]), 1))


func, f = Theirs(), Ours()
func.net = net
x, t = torch.randn(20, 2), torch.tensor([0.0, 0.3, 1.0])
# --8<-- [end:field]

# --8<-- [start:parts]
tight = {"rtol": 1e-9, "atol": 1e-9}
step = {"step_size": 0.05}
kutta = pf.ode.Tableau(  # the 3/8 rule, which is torchdiffeq's rk4
    nodes=(0, 1 / 3, 2 / 3, 1), stages=((1 / 3,), (-1 / 3, 1), (1, -1, 1)), weights=(1 / 8, 3 / 8, 3 / 8, 1 / 8), name="3/8"
)


def gradient(solve):
    """Return the gradient of the first weight of what `solve` returns, squared and summed."""
    return torch.autograd.grad(solve().square().sum(), net[0].weight)[0]


ball, height = torch.tensor([[4.0, 0.0]]), lambda x, t=None: x[:, 0]


def falling(x):  # height and speed
    return torch.stack((x[:, 1], -9.81 * torch.ones_like(x[:, 1])), 1)


def landing(t, x):
    return x[0, 0]


odeint = torchdiffeq.odeint
# --8<-- [end:parts]

# --8<-- [start:pairs]
PAIRS = [
    ("odeint(func, x, t, **tight)", "pf.ode.odeint(f, x, t[0], t, **tight)"),
    ("odeint(func, x, t, **tight)[-1]", "pf.ode.odeint(f, x, 0.0, 1.0, **tight)"),
    ("odeint(func, x, t.flip(0), **tight)[-1]", "pf.ode.odeint(f, x, 1.0, 0.0, **tight)"),
    ("odeint(func, x, t, method='dopri8', **tight)", "pf.ode.odeint(f, x, 0.0, t, method='dopri8', **tight)"),
    ("odeint(func, x, t, method='bosh3', **tight)", "pf.ode.odeint(f, x, 0.0, t, method='bosh3', **tight)"),
    ("odeint(func, x, t, method='euler', options=step)", "pf.ode.odeint(f, x, 0.0, t, method='euler', steps=20)"),
    ("odeint(func, x, t, method='midpoint', options=step)", "pf.ode.odeint(f, x, 0.0, t, method='midpoint', steps=20)"),
    ("odeint(func, x, t, method='heun2', options=step)", "pf.ode.odeint(f, x, 0.0, t, method='heun', steps=20)"),
    ("odeint(func, x, t, method='rk4', options=step)", "pf.ode.odeint(f, x, 0.0, t, method=kutta, steps=20)"),
    ("gradient(lambda: odeint(func, x, t, **tight)[-1])", "gradient(lambda: pf.ode.odeint(f, x, 0.0, 1.0, **tight))"),
    (
        "gradient(lambda: torchdiffeq.odeint_adjoint(func, x, t, **tight)[-1])",
        "gradient(lambda: pf.ode.odeint(f, x, 0.0, 1.0, adjoint=True, **tight))",
    ),
    (
        "torchdiffeq.odeint_event(lambda t, x: falling(x), ball, torch.zeros(()), event_fn=landing, **tight)[0]",
        "pf.ode.odeint(lambda x, t: falling(x), ball, 0.0, 9.0, event=height, **tight).t[0]",
    ),
]
for theirs, ours in PAIRS:
    expected, found = eval(theirs), eval(ours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    print(f"| `{theirs}` | `{ours}` | {(found - expected).abs().max():.1g} |")
# --8<-- [end:pairs]

# --8<-- [start:per-sample]
start, speed = torch.randn(100, 2), torch.logspace(-1, 2, 100)
exact = torch.view_as_real(torch.view_as_complex(start) * torch.polar(torch.ones(100), speed))
options = {"rtol": 1e-6, "atol": 1e-6}
rows = {"torchdiffeq": 0, "pushforward": 0}


def rotation(name, x, speed):
    rows[name] += len(x)
    return speed[:, None] * torch.stack((-x[:, 1], x[:, 0]), 1)


found = {
    "torchdiffeq": odeint(lambda t, x: rotation("torchdiffeq", x, speed), start, t[[0, -1]], **options)[-1],
    "pushforward": pf.ode.odeint(lambda x, t, speed: rotation("pushforward", x, speed), start, 0.0, 1.0, (speed,), **options),
}
with open("rows.txt", "w") as file:
    for name, end in found.items():
        print(f"{name}: {rows[name]:,} rows evaluated, largest error {(end - exact).abs().max():.1e}", file=file)
# --8<-- [end:per-sample]

# --8<-- [start:ends]
reference = pf.ode.odeint(f, x, 0.0, 1.0, method="dopri8", rtol=1e-13, atol=1e-13)
with open("ends.txt", "w") as file:
    for method in ("bosh3", "dopri5", "dopri8"):
        theirs, ours = odeint(func, x, t, method=method, **tight)[-1], pf.ode.odeint(f, x, 0.0, 1.0, method=method, **tight)
        errors = [f"{(one - reference).abs().max():.0e}" for one in (theirs, ours)]
        print(f"{method} at tolerance 1e-9: error {errors[0]} of torchdiffeq, {errors[1]} of pushforward", file=file)
# --8<-- [end:ends]
