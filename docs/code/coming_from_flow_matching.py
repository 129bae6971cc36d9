import torch
from flow_matching.path import AffineProbPath, CondOTProbPath
from flow_matching.path.scheduler import CondOTScheduler, CosineScheduler, LinearVPScheduler, ScheduleTransformedModel, VPScheduler
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper

import pushforward as pf

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

# --8<-- [start:wrap]
net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))


class Velocity(ModelWrapper):
    """A velocity as flow_matching calls it: noise at t = 0, data at t = 1, and t one number or (n,)."""

    def forward(self, x, t, **extras):
        return self.model(torch.cat((x, t.expand(len(x))[:, None]), 1))


class Reversed(torch.nn.Module):
    """The same network for a path of this library: data at t = 0, noise at t = 1, and so the velocity of opposite sign."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity

    def forward(self, x, t, cond=None):
        return -self.velocity(x, 1 - t)


velocity = Velocity(net)
model = pf.families.PathModel(Reversed(velocity), (2,), pf.paths.Linear())
# --8<-- [end:wrap]

# --8<-- [start:parts]
data, noise, t = 2 + torch.randn(20, 2), torch.randn(20, 2), 0.1 + 0.8 * torch.rand(20)
condot, solver = CondOTProbPath(), ODESolver(velocity)
cosine, vp = AffineProbPath(CosineScheduler()), AffineProbPath(VPScheduler())
circle = pf.paths.Cosine()
x, column = cosine.sample(noise, data, t).x_t, t[:, None]  # their conversions need t of the shape of x
value = torch.randn(20, 2)
log_p0 = model.base.log_prob
tight = {"rtol": 1e-8, "atol": 1e-8}
transformed = ODESolver(ScheduleTransformedModel(velocity, CondOTScheduler(), CosineScheduler()))
followed = model.follow(pf.paths.Cosine())


def predicted(kind):
    """Return `value`, a prediction of this kind at x, with its conversions."""
    return pf.samplers.Denoiser(lambda x, t, cond: value, circle, kind)(x, 1 - t)


# --8<-- [end:parts]

# --8<-- [start:pairs]
PAIRS = [
    ("condot.sample(noise, data, t).x_t", "pf.paths.Linear().mix(data, noise, 1 - t)"),
    ("condot.sample(noise, data, t).dx_t", "-pf.paths.Linear().target('velocity', data, noise, 1 - t)"),
    ("cosine.sample(noise, data, t).x_t", "pf.paths.Cosine().mix(data, noise, 1 - t)"),
    ("vp.sample(noise, data, t).x_t", "pf.paths.VariancePreserving(0.1, 20.0).mix(data, noise, 1 - t)"),
    ("vp.sample(noise, data, t).dx_t", "-pf.paths.VariancePreserving(0.1, 20.0).target('velocity', data, noise, 1 - t)"),
    ("CosineScheduler()(t).d_alpha_t", "-circle.alpha_dot(1 - t)"),
    ("CosineScheduler().snr_inverse(torch.exp(t))", "1 - circle.time(t)"),
    ("cosine.velocity_to_target(-value, x, column)", "predicted('velocity').data"),
    ("cosine.velocity_to_epsilon(-value, x, column)", "predicted('velocity').noise"),
    ("cosine.epsilon_to_velocity(value, x, column)", "-predicted('noise').velocity"),
    ("cosine.target_to_epsilon(value, x, column)", "predicted('data').noise"),
    ("solver.sample(noise, 0.05, method='euler')", "model.decode(noise, sampler=pf.samplers.Euler(20))"),
    ("solver.sample(noise, 0.05, method='midpoint')", "model.decode(noise, sampler=pf.samplers.Midpoint(20))"),
    ("solver.sample(noise, None, method='dopri5', **tight)", "model.decode(noise, sampler=pf.samplers.Dopri5(**tight))"),
    (
        "solver.sample(data, 0.05, method='midpoint', time_grid=torch.tensor([1.0, 0.0]))",
        "model.encode(data, sampler=pf.samplers.Midpoint(20))",
    ),
    (
        "solver.compute_likelihood(data, log_p0, None, method='dopri5', exact_divergence=True, **tight)[1]",
        "model.log_prob(data, sampler=pf.samplers.Dopri5(**tight))",
    ),
    ("transformed.sample(noise, None, method='dopri5', **tight)", "followed.decode(noise, sampler=pf.samplers.Dopri5(**tight))"),
]
for theirs, ours in PAIRS:
    expected, found = eval(theirs), eval(ours)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    print(f"| `{theirs}` | `{ours}` | {(found - expected).abs().max():.1g} |")
# --8<-- [end:pairs]


# --8<-- [start:path]
class LinearVP(pf.paths.Path):
    """The path of LinearVPScheduler: alpha = 1 - t, sigma = sqrt(1 - alpha²)."""

    interval = (0.001, 1.0)
    variance_preserving = True

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return (1 - (1 - t) ** 2).sqrt()

    def alpha_dot(self, t):
        return -torch.ones_like(t)

    def sigma_dot(self, t):
        return (1 - t) / self.sigma(t)


pf.testing.check_path(LinearVP())
torch.testing.assert_close(LinearVP().mix(data, noise, 1 - t), AffineProbPath(LinearVPScheduler()).sample(noise, data, t).x_t)
# --8<-- [end:path]
