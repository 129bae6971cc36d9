import torch
import zuko

import pushforward as pf

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)


# --8<-- [start:wrap]
class Zuko(pf.bijections.Bijection):
    """The transform of a flow of zuko, from data to noise; its weights are submodules."""

    def __init__(self, flow):
        super().__init__()
        self.transform = flow.transform

    def forward(self, x, cond=None):
        return self.transform(cond).call_and_ladj(x)

    def inverse(self, z, cond=None):
        return self.transform(cond).inv.call_and_ladj(z)


flow = zuko.flows.NSF(3, context=2, transforms=3, hidden_features=(64, 64))
model = pf.families.NormalizingFlow(Zuko(flow), shape=(3,), cond_features=2)
# --8<-- [end:wrap]

# --8<-- [start:parts]
x, c, z = 2 * torch.randn(50, 3), torch.randn(50, 2), torch.randn(50, 3)
spline = zuko.transforms.MonotonicRQSTransform(*torch.randn(2, 50, 3, 8), torch.randn(50, 3, 7))
knots = spline.horizontal, spline.vertical, spline.derivatives
affine = zuko.transforms.MonotonicAffineTransform(torch.ones(3), torch.zeros(3))
weights, means = torch.tensor([1.0, 3.0]), torch.tensor([[-2.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
normal = zuko.distributions.DiagNormal(means, torch.ones(2, 3))
modes = zuko.distributions.Mixture(normal, weights.log())
mixture = pf.data.GaussianMixture(means, 1.0, weights)
cnf = zuko.flows.CNF(3, hidden_features=(32, 32), atol=1e-9, rtol=1e-9).eval()
ode = cnf.transform
velocity = lambda x, t, cond: ode.f(t, x)  # noqa: E731
continuous = pf.families.ContinuousFlow(velocity, (3,), sampler=pf.samplers.Dopri5(1e-9, 1e-9))
# --8<-- [end:parts]

print("# --8<-- [start:pairs]")
# --8<-- [start:pairs]
PAIRS = [
    ("flow(c).log_prob(x)", "model.log_prob(x, c)"),
    ("-flow(c).log_prob(x).mean() / 3", "model.loss(x, c)"),
    ("flow(c).transform(x)", "model.encode(x, c)"),
    ("flow(c).transform.inv(z)", "model.decode(z, c)"),
    ("flow(c).transform.log_abs_det_jacobian(x, z)", "model.bijection(x, c)[1]"),
    ("flow(c).base.log_prob(z)", "model.base.log_prob(z)"),
    ("spline(x)", "pf.functional.rational_quadratic_spline(x, *knots)[0]"),
    ("spline.inv(z)", "pf.functional.rational_quadratic_spline(z, *knots, inverse=True)[0]"),
    ("affine(x)", "pf.bijections.Transform(affine)(x)[0]"),
    ("modes.log_prob(x)", "mixture.log_prob(x)"),
    ("cnf().log_prob(x)", "continuous.log_prob(x)"),
    ("cnf().transform.inv(z)", "continuous.decode(z)"),
    ("zuko.utils.odeint(lambda t, x: -x, x, 0.0, 1.0)", "pf.ode.odeint(lambda x, t: -x, x, 0.0, 1.0)"),
]
for theirs, ours in PAIRS:
    expected, found = eval(theirs), eval(ours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    print(f"| `{theirs}` | `{ours}` | {(found - expected).abs().max():.1g} |")
for kind in (zuko.flows.NAF, zuko.flows.UNAF, zuko.flows.SOSPF, zuko.flows.BPF, zuko.flows.GF):  # those that are not here
    other = kind(3, context=2, transforms=2)
    wrapped = pf.families.NormalizingFlow(Zuko(other), shape=(3,), cond_features=2)
    torch.testing.assert_close(wrapped.log_prob(x, c), other(c).log_prob(x))
    torch.testing.assert_close(wrapped.decode(wrapped.encode(x, c), c), x, rtol=1e-4, atol=1e-4)
# --8<-- [end:pairs]
print("# --8<-- [end:pairs]")

print("# --8<-- [start:models]")
# --8<-- [start:models]
MODELS = [
    ("zuko.flows.RealNVP(16, transforms=8, hidden_features=(128, 128))", "pf.models.realnvp(16, 8, (128, 128))"),
    ("zuko.flows.MAF(16, transforms=5, hidden_features=(128, 128))", "pf.models.maf(16, 5, (128, 128))"),
    (
        "zuko.flows.NSF(16, bins=8, transforms=5, hidden_features=(128, 128))",
        "pf.models.nsf(16, 5, 8, (128, 128), kind='autoregressive', mixing='none')",
    ),
]
for theirs, ours in MODELS:
    expected, found = (sum(p.numel() for p in eval(one).parameters()) for one in (theirs, ours))
    assert found == expected
    print(f"| `{theirs}` | `{ours}` | {found:,} |")
# --8<-- [end:models]
print("# --8<-- [end:models]")
