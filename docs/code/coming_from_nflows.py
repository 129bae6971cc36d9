import math

import torch
from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ResidualNet

import pushforward as pf

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)


# --8<-- [start:wrap]
class NFlows(pf.bijections.Bijection):
    """A transform of nflows; its weights are submodules."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def forward(self, x, cond=None):
        return self.transform(x, cond)

    def inverse(self, z, cond=None):
        return self.transform.inverse(z, cond)


conditional = transforms.CompositeTransform(
    [
        transforms.AffineCouplingTransform([1, 0, 1, 0], lambda inputs, outputs: ResidualNet(inputs, outputs, 32, context_features=2)),
        transforms.RandomPermutation(4),
        transforms.AffineCouplingTransform([0, 1, 0, 1], lambda inputs, outputs: ResidualNet(inputs, outputs, 32, context_features=2)),
    ]
)
flow = Flow(conditional, StandardNormal([4]))
model = pf.families.NormalizingFlow(NFlows(conditional), shape=(4,), cond_features=2)
# --8<-- [end:wrap]


# --8<-- [start:weights]
ONE = math.log(math.expm1(1 - 1e-3))  # what softplus maps to slope 1, given the least slope of 1e-3


class MLP(torch.nn.Sequential):
    """The plain network of our couplings, called as nflows calls its own."""

    def __init__(self, inputs, outputs):
        super().__init__(torch.nn.Linear(inputs, 64), torch.nn.ReLU(), torch.nn.Linear(64, outputs))

    def forward(self, x, context=None):
        return super().forward(x)


@torch.no_grad()
def copied(theirs):
    """Return our spline coupling with the weights of theirs, whose mask keeps one half."""
    swap = bool(theirs.transform_features[0] == 0)
    ours = pf.bijections.SplineCoupling(theirs.features, theirs.num_bins, (64,), bound=theirs.tail_bound, swap=swap)
    for layer, source in zip((ours.net.layers[0], ours.net.out), (theirs.transform_net[0], theirs.transform_net[2]), strict=True):
        layer.load_state_dict(source.state_dict())
    out, per_feature = ours.net.out, 3 * theirs.num_bins - 1
    order = torch.arange(out.out_features).view(-1, per_feature).T.flatten()  # theirs by feature, ours by parameter
    out.weight.copy_(out.weight[order])
    out.bias.copy_(out.bias[order])
    out.bias[2 * theirs.num_bins * len(theirs.transform_features) :] -= ONE  # for our networks the output 0 is slope 1
    return ours


@torch.no_grad()
def copied_lu(theirs):
    """Return our LULinear with the weights of theirs."""
    ours = pf.bijections.LULinear(theirs.features)
    lower, upper = theirs._create_lower_upper()
    ours.off_diagonal.copy_(lower.tril(-1) + upper.triu(1))
    ours.log_diagonal.copy_(theirs.upper_diag.log())
    ours.bias.copy_(theirs.bias)
    return ours


lu = [transforms.LULinear(4, identity_init=False) for _ in range(3)]
masks = [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]
splines = [transforms.PiecewiseRationalQuadraticCouplingTransform(mask, MLP, num_bins=8, tails="linear", tail_bound=5.0) for mask in masks]
for spline in splines:
    torch.nn.init.normal_(spline.transform_net[2].weight)
nsf = Flow(transforms.CompositeTransform([part for pair in zip(lu, splines, strict=True) for part in pair]), StandardNormal([4]))
steps = [part for a, b in zip(lu, splines, strict=True) for part in (copied_lu(a), copied(b))]
ours_nsf = pf.families.NormalizingFlow(pf.bijections.Chain(steps))
# --8<-- [end:weights]

# --8<-- [start:parts]
x, c, z = 2 * torch.randn(50, 4), torch.randn(50, 2), torch.randn(50, 4)
widths, heights, slopes = torch.randn(50, 4, 8), torch.randn(50, 4, 8), torch.randn(50, 4, 7)
raw = torch.cat((widths, heights, slopes - ONE), -1)
options = {"tails": "linear", "tail_bound": 5.0}
actnorm, act = transforms.ActNorm(4), pf.bijections.ActNorm(4)
act.initialise(x)
additive = transforms.AdditiveCouplingTransform([0, 0, 1, 1], MLP)
nice = pf.bijections.AdditiveCoupling(4, (64,))
nice.net.layers[0].load_state_dict(additive.transform_net[0].state_dict())
nice.net.out.load_state_dict(additive.transform_net[2].state_dict())
# --8<-- [end:parts]

# --8<-- [start:pairs]
PAIRS = [
    ("flow.log_prob(x, c)", "model.log_prob(x, c)"),
    ("flow.transform_to_noise(x, c)", "model.encode(x, c)"),
    ("conditional.inverse(z, c)[0]", "model.decode(z, c)"),
    ("-flow.log_prob(x, c).mean() / 4", "model.loss(x, c)"),
    ("nsf.log_prob(x)", "ours_nsf.log_prob(x)"),
    ("nsf.transform_to_noise(x)", "ours_nsf.encode(x)"),
    ("nsf._transform.inverse(z)[0]", "ours_nsf.decode(z)"),
    ("lu[0](x)[0]", "steps[0](x)[0]"),
    ("splines[0](x)[1]", "steps[1](x)[1]"),
    ("additive(x)[0]", "nice(x)[0]"),
    ("actnorm(x)[0]", "act(x)[0]"),
    ("transforms.ReversePermutation(4)(x)[0]", "pf.bijections.Reverse(4)(x)[0]"),
    ("transforms.InverseTransform(lu[0])(x)[1]", "pf.bijections.Inverse(steps[0])(x)[1]"),
    (
        "transforms.splines.unconstrained_rational_quadratic_spline(x, widths, heights, slopes, **options)[0]",
        "pf.functional.rational_quadratic_spline(x, *pf.functional.spline_knots(raw, 5.0))[0]",
    ),
    ("StandardNormal([4]).log_prob(z)", "pf.bases.Gaussian((4,)).log_prob(z)"),
]
for theirs, ours in PAIRS:
    expected, found = eval(theirs), eval(ours)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    print(f"| `{theirs}` | `{ours}` | {(found - expected).abs().max():.1g} |")
# --8<-- [end:pairs]
