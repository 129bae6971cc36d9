"""Flow maps against closed forms: data N(m, s²) with another s in each dimension, whose map, velocity and average velocity are known.

S(t)² = (1 - t)² s² + t²,    X(x, t, r) = m (1 - r) + S(r) / S(t) (x - m (1 - t)),    u = (x - X) / (t - r)
v = -m + (t - (1 - t) s²) / S² (x - m (1 - t))
"""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from examples import TIGHT, generators

import pushforward as pf
from pushforward.errors import ConditionError, NotInvertibleError, ShapeError, UserError
from pushforward.objectives import derivative as by_forward_mode
from pushforward.objectives.derivative import Draws, total_derivative
from pushforward.objectives.improved_mean_flow import ImprovedMeanFlow
from pushforward.objectives.mean_flow import MeanFlow
from pushforward.objectives.shortcut import Shortcut
from pushforward.samplers import Jumps, Renoise

M, S = torch.tensor([0.7, -0.3, 1.1], dtype=torch.float64), torch.tensor([0.2, 0.6, 1.7], dtype=torch.float64)
EXACT = 1e-12
OBJECTIVES = [MeanFlow, ImprovedMeanFlow, functools.partial(Shortcut, bootstrap=1.0)]
NAMES = ["meanflow", "improved_meanflow", "shortcut"]


def spread(t):
    return ((1 - t) ** 2 * S**2 + t**2).sqrt()


def flow_map(x, t, r):
    """The state at r, of shape (n, 3)."""
    t, r = t[:, None], r[:, None]
    return M * (1 - r) + spread(r) / spread(t) * (x - M * (1 - t))


def velocity(x, t, cond=None):
    t = t[:, None]
    return -M + (t - (1 - t) * S**2) / spread(t) ** 2 * (x - M * (1 - t))


def average(x, t, cond=None, r=None, guidance=None):
    r = t if r is None else r
    length = (t - r)[:, None]
    moving = length > 0
    return torch.where(moving, (x - flow_map(x, t, r)) / torch.where(moving, length, 1.0), velocity(x, t))


def both(x, t, cond=None, r=None, guidance=None):
    return torch.cat((average(x, t, r=r), velocity(x, t)), dim=1)


def exact_model(make, **options):
    """The flow map that perfect training would give, with the exact velocity as its teacher."""
    objective = make()
    net = both if objective.outputs == 2 else average
    teacher = pf.families.PathModel(velocity, (3,), sampler=TIGHT)
    return pf.families.FlowMap(net, (3,), objective=objective, teacher=teacher, **options).train()


def states(n=64):
    return torch.randn(n, 3) * (1 + torch.rand(3)), torch.rand(n)


@pytest.mark.parametrize("make", OBJECTIVES)
def test_the_exact_map_has_no_loss(make):
    """Each objective's identity holds for it: every row's loss is 0 up to rounding."""
    model = exact_model(make)
    losses = model.objective.losses(model, torch.randn(256, 3), torch.randn(256, 3), None, None)
    assert losses.plain.max() < EXACT
    assert losses.weighted.max() < 1e-9  # divided by the offset


def jvp_with(*tangents):
    """Forward mode with other tangents of (z, t) than (v, 1), and of r: None keeps v."""

    def wrong(function, primals, directions):
        _z, _t = primals
        return REAL(
            function,
            primals,
            tuple(given if one is None else one * torch.ones_like(given) for one, given in zip(tangents, directions, strict=True)),
        )

    return wrong


REAL = torch.func.jvp


@pytest.mark.parametrize("make", OBJECTIVES[:2])
@pytest.mark.parametrize("tangents", [(None, 0.0), (0.0, None), (1.0, None), (None, -1.0)])
def test_wrong_tangents_are_caught(make, tangents, monkeypatch):
    model = exact_model(make)
    monkeypatch.setattr(by_forward_mode.torch.func, "jvp", jvp_with(*tangents))
    losses = model.objective.losses(model, torch.randn(256, 3), torch.randn(256, 3), None, None)
    assert losses.plain.mean() > 1e-3


@pytest.mark.parametrize(("of_t", "of_r"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, -1.0)])
def test_the_identity_is_for_the_derivative_at_fixed_r(of_t, of_r):
    """The published mistakes: other tangents of (t, r) than (1, 0) leave a residual of a third of the data's scale or more."""
    x, t = states()
    r, v = t * torch.rand(64), velocity(x, t)
    wrong = torch.func.jvp(lambda x, t, r: average(x, t, r=r), (x, t, r), (v, of_t * torch.ones(64), of_r * torch.ones(64)))[1]
    right = total_derivative(lambda z, t, r, cond, g: average(z, t, r=r), x, t, r, v, None, None, Draws(x.device))
    residuals = [(average(x, t, r=r) - MeanFlow().target(v, t, r, one)).abs() for one in (right, wrong)]
    assert residuals[0].max() < EXACT
    assert residuals[1].mean() > 0.1


@pytest.mark.parametrize("make", OBJECTIVES[:2])
def test_the_target_from_data_is_right_on_average(make):
    """Without a teacher the error of the exact map has mean 0 given x_t: its products with functions of (x_t, t, r) have mean 0.

    20,000 rows, 6 products, 5 standard errors: a false alarm once in 300,000 runs.
    """
    n, objective = 20_000, make(instantaneous=0.0)
    t, r = torch.full((n,), 0.8), torch.full((n,), 0.2)
    x, noise = M + S * torch.randn(n, 3), torch.randn(n, 3)
    z, v = (1 - t)[:, None] * x + t[:, None] * noise, noise - x
    along = v if isinstance(objective, MeanFlow) else velocity(z, t)
    slope = total_derivative(lambda z, t, r, cond, g: average(z, t, r=r), z, t, r, along, None, None, Draws(z.device))
    error = average(z, t, r=r) - (v - (t - r)[:, None] * slope)
    for products in (error, error * (z - M * 0.2)):
        assert (products.mean(0).abs() < 5 * products.std(0) / n**0.5).all()


def test_jumps_are_the_exact_map_and_make_a_semigroup():
    model, (x, _) = exact_model(MeanFlow).eval(), states()
    jumping, ones = model.denoiser(), torch.ones(64)
    torch.testing.assert_close(model.decode(x), flow_map(x, ones, 0 * ones), rtol=0, atol=EXACT)
    torch.testing.assert_close(jumping.jump(jumping.jump(x, 0.9, 0.4), 0.4, 0.1), jumping.jump(x, 0.9, 0.1), rtol=0, atol=EXACT)
    for sampler in (Jumps(2), Jumps(5), TIGHT):
        torch.testing.assert_close(model.decode(x, sampler=sampler), model.decode(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(model.encode(model.decode(x), sampler=TIGHT), x, rtol=0, atol=1e-8)


def test_the_map_satisfies_the_terminal_identity():
    """d X(x, t, r) / dr = v(X, r), by forward mode through the jump."""
    model, (x, t) = exact_model(MeanFlow), states()
    r = t * torch.rand(64)
    ends, slope = torch.func.jvp(lambda r: model.objective.jump(model, x, t, r, None, None), (r,), (torch.ones_like(r),))
    torch.testing.assert_close(slope, velocity(ends, r), rtol=0, atol=1e-9)


def test_two_halves_are_one_step():
    model, (x, _) = exact_model(Shortcut), states()
    t, d = torch.full((64,), 0.75), torch.full((64,), 0.25)
    torch.testing.assert_close(model.objective.two_halves(model, x, t, d, None), average(x, t, r=t - d), rtol=0, atol=EXACT)


def test_a_loss_calls_the_network_equally_often_whatever_is_drawn():
    """Processes that share the weights of one network gather them together at each call; others would wait for ever."""
    model, x, counts = pf.models.shortcut(pf.nn.MLP.Config((4,)), (2,)), torch.randn(4, 2), set()
    for seed in range(20):  # of which several draw no longer step among four rows
        calls = []
        with torch.nn.modules.module.register_module_forward_hook(lambda module, *_, calls=calls: calls.append(module)):
            model.loss(x, generator=torch.Generator().manual_seed(seed))
        counts.add(sum(module is model.net for module in calls))
    assert counts == {3}


def test_renoised_samples_have_the_datas_distribution():
    """Mean and deviation of 20,000 samples of 4 jumps, to 5 standard errors; jumps of a shortcut model may start at any of its times."""
    model = exact_model(MeanFlow).eval()
    samples = model.sample(20_000, sampler=Renoise(4), generator=torch.Generator().manual_seed(0))
    assert ((samples.mean(0) - M).abs() < 5 * S / 20_000**0.5).all()
    assert ((samples.std(0) - S).abs() < 5 * S / 40_000**0.5).all()


def test_renoising_in_bfloat16_has_the_noise_of_its_exact_time():
    """Sigma of VE(0.002, 80) at 2/3 is 2.34; at 2/3 rounded to bfloat16 it is 2.42."""

    class ToZero:
        path = pf.paths.VarianceExploding(0.002, 80.0)

        def jump(self, x, t, r):
            return torch.zeros_like(x)

    x = torch.zeros(20_000, 1, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    state = next(Renoise(3)._states(ToZero(), x, 1.0, 0.0, generator))
    assert state.t == pytest.approx(2 / 3)
    sigma = float(ToZero.path.sigma(torch.tensor(2 / 3, dtype=torch.float64)))
    assert float(state.x.double().std()) == pytest.approx(sigma, rel=0.02)  # 4 standard errors


# The networks of this library, and what a loss must not depend on.


def small(name, net=None, **options):
    """A small model whose network has numbers in the layers that start at zero."""
    net = pf.nn.DiT.Config(patch=2, width=16, depth=2, heads=2) if net is None else net
    model = getattr(pf.models, name)(net, (1, 4, 4), classes=3, **{"drop_cond": 0.2, **options}).train()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def batch(n=12):
    return torch.randn(n, 1, 4, 4), torch.arange(n) % 3


def loss_and_gradients(model, x, cond, seed=0):
    torch.manual_seed(seed)
    loss = model.loss(x, cond, generator=torch.Generator().manual_seed(seed))
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def equal(one, other, tolerance=1e-12):
    torch.testing.assert_close(one[0], other[0], rtol=tolerance, atol=tolerance)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class InOneGraph(MeanFlow):
    """MeanFlow as its paper's code has it: value and derivative from one product by forward mode, with gradients."""

    def losses(self, model, x, noise, cond, generator):
        t, r, u = self.intervals(x, generator)
        cond = model.dropped(cond, u < model.drop_cond)
        z, v = model.path.mix(x, noise, t), noise - x
        value, slope = torch.func.jvp(lambda z, t: model.net(z, t, cond, r=r), (z, t), (v, torch.ones_like(t)))
        total = (value - (v - (t - r)[:, None, None, None] * slope).detach()).square().flatten(1).sum(1)
        return SimpleNamespace(t=t, weighted=total / (total.detach() + 0.01), plain=total / 16)


@pytest.mark.parametrize("net", [None, pf.nn.MLP.Config((16,)), pf.nn.UNet.Config(channels=8, multipliers=(1,), depth=1, heads=2)])
def test_gradients_are_those_of_one_graph(net):
    model, (x, cond) = small("meanflow", net), batch()
    found = loss_and_gradients(model, x, cond)
    model.objective = InOneGraph()
    equal(found, loss_and_gradients(model, x, cond))


@pytest.mark.parametrize("name", NAMES)
def test_value_and_derivative_have_one_dropout_mask(name):
    """The rows with r < t are evaluated apart from the others, and twice: for value and derivative, under the same masks."""
    net = pf.nn.UNet.Config(channels=8, multipliers=(1,), depth=1, heads=2, dropout=0.5)
    model, (x, cond) = small(name, net), batch()
    assert not torch.equal(loss_and_gradients(model, x, cond, 0)[0], loss_and_gradients(model, x, cond, 1)[0])
    parts, drawn = [part for part in model.net.modules() if isinstance(part, torch.nn.Dropout)], []
    for part in parts:
        part.register_forward_hook(lambda part, inputs, output: drawn.append(output != 0) if part.training else None)
    loss_and_gradients(model, x, cond)
    passes = [drawn[k : k + len(parts)] for k in range(0, len(drawn), len(parts))]
    rows = [len(one[0]) for one in passes]
    if name == "shortcut":
        assert rows == [12]
        return
    assert rows == [rows[0], rows[0], 12 - rows[0]]
    assert all(bool((a == b).float().mean() > 0.999) for a, b in zip(*passes[:2], strict=True))  # except exact zeros


def test_losses_of_rows_apart_are_those_of_all_rows_together():
    """With dropout of a share too small to drop anything."""
    found = []
    for dropout in (0.0, 1e-12):
        net = pf.nn.UNet.Config(channels=8, multipliers=(1,), depth=1, heads=2, dropout=dropout)
        torch.manual_seed(0)
        model, (x, cond) = small("meanflow", net), batch()
        found.append(loss_and_gradients(model, x, cond))
    equal(*found, 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_nothing(name):
    net = pf.nn.UNet.Config(channels=8, multipliers=(1,), depth=1, heads=2, dropout=0.5)
    model, (x, cond) = small(name, net), batch()
    before = loss_and_gradients(model, x, cond)
    model.net.activation_checkpointing = True
    equal(loss_and_gradients(model, x, cond), before)


@pytest.mark.parametrize("name", NAMES[:2])
def test_under_autocast_derivative_and_loss_are_float32(name, float32, monkeypatch):
    model, (x, cond) = small(name).float(), batch()
    x, seen, real = x.float(), [], total_derivative
    exact = loss_and_gradients(model, x, cond)[0]

    def watched(*args):
        seen.append(real(*args))
        return seen[-1]

    for module in ("mean_flow", "improved_mean_flow"):
        monkeypatch.setattr(f"pushforward.objectives.{module}.total_derivative", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss_and_gradients(model, x, cond)[0]
    assert {one.dtype for one in (low, *seen)} == {torch.float32}
    assert float(low) == pytest.approx(float(exact), rel=0.1)
    t, r = torch.rand(12), torch.zeros(12)
    found = []
    for precision in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision):
            u = lambda z, t, r, cond, guidance: model.objective.average(model.net, z, t, r, cond)  # noqa: E731
            found.append(real(u, x, t, r, x, cond, None, Draws(x.device)))
    torch.testing.assert_close(*found)


def test_the_derivative_of_rows_alone_is_that_of_all_rows():
    model, (x, cond) = small("meanflow"), batch()
    t, r = torch.rand(12), torch.where(torch.arange(12) % 3 == 0, 0.0, 1.0)
    u = lambda z, t, r, cond, guidance: model.net(z, t, cond, r=r)  # noqa: E731
    r = torch.minimum(r, t)
    some = total_derivative(u, x, t, r, x, cond, None, Draws(x.device))
    draws = Draws(x.device)
    torch.rand(1)  # as dropout would: all rows are computed
    torch.testing.assert_close(total_derivative(u, x, t, r, x, cond, None, draws), some, rtol=1e-12, atol=1e-12)
    assert (some[r == t] == 0).all()
    assert (some[r < t] != 0).all()


def test_the_value_of_the_loss_is_the_plain_error_and_its_gradient_the_weighted_one():
    model, (x, cond) = small("meanflow"), batch()
    noise = torch.randn_like(x)
    losses = model.objective.losses(model, x, noise, cond, generators(1))
    loss = model.loss(x, cond, noise=noise, generator=generators(1))
    torch.testing.assert_close(loss, losses.plain.mean())
    for one, other in zip(*(torch.autograd.grad(of, list(model.parameters())) for of in (loss, losses.weighted.mean())), strict=True):
        torch.testing.assert_close(one, other)


# Guidance.


def test_guidance_in_the_target_is_that_of_classifier_free_guidance():
    """omega v + (1 - omega - kappa) u() + kappa u(c) with omega = (1 - kappa) w; rows without a condition keep v."""
    model, (x, cond) = small("meanflow", guidance=3.0, kappa=0.5), batch()
    t, v, kept = torch.rand(12), torch.randn_like(x), torch.arange(12) % 2 == 0
    found = model.objective.steered(model, v, x, t, cond, kept)
    expected = 1.5 * v - model.net(x, t, None, r=t) + 0.5 * model.net(x, t, cond, r=t)
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-12, atol=1e-12)
    assert torch.equal(found[~kept], v[~kept])


def test_the_networks_own_velocity_is_in_the_target_at_any_scale():
    """(1 - kappa) v + kappa u(c) at scale 1, which needs no unconditional velocity."""
    model, (x, cond) = small("meanflow", drop_cond=0.0, kappa=0.25), batch()
    t, v, kept = torch.rand(12), torch.randn_like(x), torch.ones(12, dtype=torch.bool)
    expected = 0.75 * v + 0.25 * model.net(x, t, cond, r=t)
    torch.testing.assert_close(model.objective.steered(model, v, x, t, cond, kept), expected, rtol=1e-12, atol=1e-12)


def test_a_scale_of_one_is_no_guidance():
    (_x, cond), z = batch(), torch.randn(12, 1, 4, 4)
    for name in NAMES:
        model = small(name).eval()
        assert torch.equal(model.decode(z, cond, guidance=1.0), model.decode(z, cond))
        assert not torch.allclose(model.decode(z, cond, guidance=2.0), model.decode(z, cond))
    model = small("meanflow").eval()
    plain, away = model.decode(z, cond), model.decode(z)
    torch.testing.assert_close(model.decode(z, cond, guidance=3.0), away + 3 * (plain - away), rtol=1e-9, atol=1e-9)


def test_the_fixed_point_of_a_guidance_input_is_classifier_free_guidance():
    """v_g = v + (1 - 1/w)(v_g - v_0) is solved by v_g = w v + (1 - w) v_0."""
    v, away, scale = torch.randn(5, 2), torch.randn(5, 2), torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0])[:, None]
    guided = scale * v + (1 - scale) * away

    def net(x, t, cond, r=None, guidance=None):
        value = away if cond is None else guided
        return torch.cat((value, value), dim=1)

    model = pf.families.FlowMap(net, (2,), objective=ImprovedMeanFlow(), classes=3, drop_cond=0.1)
    numbers = torch.cat((scale, torch.zeros(5, 1), torch.ones(5, 1)), dim=1)
    found = model.objective.guided(model, v, v, torch.rand(5), torch.zeros(5, dtype=torch.long), torch.ones(5, dtype=torch.bool), numbers)
    torch.testing.assert_close(found, guided, rtol=1e-12, atol=1e-12)


def test_a_guidance_input_is_one_that_the_network_has_learned():
    """Scales from 1 to the largest, intervals around 1/2; and for the velocity, at r = t, that from 0 to 1 alone."""
    seen = []

    def net(x, t, cond, r=None, guidance=None):
        seen.append(None if guidance is None else guidance.tolist())
        return torch.cat((x, x), dim=1)

    model = pf.families.FlowMap(net, (2,), objective=ImprovedMeanFlow(guidance=4.0), classes=3, drop_cond=0.1).eval()
    x, cond = torch.randn(1, 2), torch.tensor([1])
    guidance = pf.guidance.CFG(3.0, interval=(0.25, 0.75))
    model.decode(x, cond, guidance=guidance)
    model.decode(x, cond, guidance=guidance, sampler=pf.samplers.Euler(2))  # at 1, outside, and at 1 / 2
    assert seen == [[[3.0, 0.25, 0.75]], [[1.0, 0.0, 1.0]], [[3.0, 0.0, 1.0]]]
    for refused, message in (
        (4.5, "guidance is 4.5, but this network has learned scales from 1 to 4"),
        (0.5, "guidance is 0.5, but this network has learned scales from 1 to 4"),
        (pf.guidance.CFG(2.0, interval=(0.6, 1.0)), r"interval is \(0.6, 1.0\), but this network has learned those that begin at 0.5"),
    ):
        with pytest.raises(UserError, match=message):
            model.decode(x, cond, guidance=refused)


# Teachers.


def teacher_of(shape=(1, 4, 4), net=None, **options):
    net = pf.nn.DiT.Config(patch=2, width=16, depth=2, heads=2) if net is None else net
    options = {"classes": 3, "drop_cond": 0.1, "preprocess": "standardise", **options}
    model = pf.models.flow_matching(net, shape, **options)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.initialise(2 + 3 * torch.randn(50, *shape), None if options["classes"] is None else torch.arange(50) % 3)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_student_starts_as_its_teacher(name):
    teacher, (x, cond) = teacher_of(), batch()
    student = getattr(pf.models, name)(teacher=teacher, drop_cond=0.1).eval()
    assert torch.equal(student.preprocess.mean, teacher.preprocess.mean)
    objective, t = student.objective, torch.rand(12)
    torch.testing.assert_close(objective.average(student.net, x, t, t / 2, cond), teacher.net(x, t, cond), rtol=1e-12, atol=1e-12)
    student.initialise(torch.randn(20, 1, 4, 4))
    assert torch.equal(student.preprocess.mean, teacher.preprocess.mean)


@pytest.mark.parametrize("kind", ["vectors", "images"])
@pytest.mark.parametrize("change", ["net", "path", "nothing"])
def test_conditions_of_a_student_have_units(kind, change):
    """Fitted to data where the network does not start with the teacher's weights, else the teacher's."""
    shape, own = ((2,), {"cond_features": 2}) if kind == "vectors" else ((1, 4, 4), {"cond_image": (2, 4, 4)})
    net, x, cond = pf.nn.MLP.Config((8,)), 2 + torch.randn(40, *shape), 500 + 100 * torch.randn(40, 2, *shape[1:])
    teacher = (pf.models.ddpm if change == "path" else pf.models.flow_matching)(net, shape, preprocess="standardise", **own)
    teacher.initialise(x, cond)
    student = pf.models.meanflow(pf.nn.MLP.Config((9,)) if change == "net" else net, teacher=teacher)
    student.initialise(x, cond if change != "nothing" else cond + 1000)
    assert torch.equal(student.preprocess.mean, teacher.preprocess.mean)
    for name in ("mean", "std"):
        assert torch.equal(getattr(student.net.label, name), getattr(teacher.net.label, name))


def test_a_student_has_its_teachers_units_however_these_were_given():
    """Units given as an object once left the student without any, so that it learned from velocities at other points."""
    units = pf.bijections.Standardise((3,))
    units.initialise(500 + 100 * torch.randn(40, 3))
    teacher, net = pf.families.PathModel(pf.nn.MLP.Config((8,)).build((3,)), (3,), preprocess=units), pf.nn.MLP.Config((8,))
    for student in (
        pf.models.meanflow(net, teacher=teacher),
        pf.models.consistency(net, teacher=teacher, method="ect"),
        pf.families.FlowMap(net.build((3,), numbers=1), (3,), teacher=teacher),
        pf.families.FlowMap(net.build((3,), numbers=1), (3,), teacher=teacher, preprocess=pf.bijections.Standardise((3,))),
    ):
        assert torch.equal(student.preprocess.mean, units.mean)
        assert student.preprocess is not units
    with pytest.raises(UserError, match="preprocess is Whiten.*, but the teacher's is Standardise"):
        pf.families.FlowMap(net.build((3,), numbers=1), (3,), teacher=teacher, preprocess=pf.bijections.Whiten(3))
    plain = pf.families.PathModel(net.build((3,)), (3,))
    with pytest.raises(UserError, match="preprocess is Standardise, but the teacher has none"):
        pf.families.FlowMap(net.build((3,), numbers=1), (3,), teacher=plain, preprocess=pf.bijections.Standardise((3,)))
    odd = pf.families.PathModel(net.build((3,)), (3,), preprocess=pf.bijections.Logit(0.0, 7.0))
    with pytest.raises(UserError, match="teacher has the units Logit.*, for which presets have no name; use pf.families.FlowMap"):
        pf.models.meanflow(net, teacher=odd)


def test_a_student_leaves_its_teacher_alone():
    teacher, (x, cond) = teacher_of().train(), batch()
    before = copy.deepcopy(teacher.state_dict())
    student = pf.models.meanflow(teacher=teacher, drop_cond=0.1)
    student.loss(x, cond).backward()
    assert teacher.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert not any("teacher" in key for key in student.state_dict())
    assert copy.deepcopy(student).teacher is student.teacher


def test_the_teachers_velocity_is_that_along_straight_lines():
    """Of a teacher along another path too, to which the student's states are brought."""
    teacher = pf.models.flow_matching(pf.nn.MLP.Config((8,)), (2,), path=pf.paths.Cosine())
    student = pf.models.meanflow(teacher=teacher)
    x, t = torch.randn(5, 2), torch.rand(5) * 0.8 + 0.1
    expected = teacher.follow(pf.paths.Linear()).denoiser()(x, t).velocity
    torch.testing.assert_close(student.target(x, x, x, t, None), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: pf.models.meanflow(shape=(2,), teacher=teacher_of()),
            UserError,
            r"teacher has events of shape \(1, 4, 4\), but .* \(2,\)",
        ),
        (lambda: pf.models.shortcut(classes=4, teacher=teacher_of()), UserError, "teacher has classes 3, but the student has 4"),
        (
            lambda: pf.models.meanflow(teacher=pf.models.realnvp(2)),
            UserError,
            "teacher is a NormalizingFlow, but a few-step model learns from",
        ),
        (
            lambda: pf.models.meanflow(teacher=teacher_of(drop_cond=0.0), drop_cond=0.1),
            UserError,
            "drop_cond is 0.1, but the teacher's is 0",
        ),
        (lambda: pf.models.meanflow(teacher=pf.models.meanflow()), UserError, "teacher is a FlowMap"),
        (lambda: MeanFlow(instantaneous=1.5), UserError, "instantaneous is 1.5, but it is a share"),
        (lambda: MeanFlow(kappa=1.0), UserError, "kappa is 1.0"),
        (lambda: MeanFlow(offset=0.0), UserError, "offset is 0.0, but it must be positive"),
        (lambda: ImprovedMeanFlow(guidance=0.5), UserError, "guidance is 0.5, but it must be at least 1"),
        (lambda: Shortcut(smallest=100), UserError, "smallest is 100, but steps are halved, so it is a power of 2"),
        (lambda: Shortcut(bound=-1.0), UserError, "bound is -1.0"),
        (lambda: pf.models.meanflow(classes=3, guidance=2.0), ConditionError, "guidance is 2.0, but drop_cond is 0, so there is no model"),
        (lambda: pf.models.shortcut(guidance=2.0), ConditionError, "guidance is 2.0, but drop_cond is 0"),
        (lambda: Jumps(0), UserError, "steps is 0"),
        (
            lambda: pf.models.shortcut().sample(2, sampler=Jumps(3)),
            UserError,
            "a jump from t = 1 to 0.66.* use Jumps.steps. with a power of 2",
        ),
        (
            lambda: pf.models.flow_matching().sample(2, sampler=Jumps(2)),
            UserError,
            "jumps along a flow map, such as meanflow's, but this model",
        ),
        (
            lambda: pf.models.meanflow().log_prob(torch.zeros(1, 2)),
            NotInvertibleError,
            "MeanFlow learns where .* so the model has no log_prob",
        ),
        (lambda: pf.models.meanflow().sample(2, log_prob=True), NotInvertibleError, "has no log_prob"),
        (lambda: pf.models.meanflow().map()(torch.zeros(1, 2)), NotInvertibleError, "has no log_prob"),
        (lambda: pf.models.meanflow().encode(torch.zeros(1, 2)), NotInvertibleError, "from noise to data only; encode with sampler=Dopri5"),
        (lambda: pf.models.meanflow().decode(torch.zeros(1, 2), sampler=Renoise(2)), NotInvertibleError, "draws noise"),
        (
            lambda: pf.models.meanflow().sample(2, sampler=pf.samplers.DDPM(4)),
            UserError,
            r"a flow map samples by Jumps\(\) or Renoise\(2\)",
        ),
        (lambda: pf.models.meanflow().sample(2, guidance=2.0), ConditionError, "guidance 2 needs a condition"),
        (
            lambda: small("meanflow").sample(2, batch()[1][:2], guidance=pf.guidance.CFG(2.0, rescale=0.5)),
            UserError,
            "only CFG without rescale",
        ),
        (lambda: pf.families.FlowMap(average, (3,), pf.paths.Cosine()), UserError, "learns an average velocity along Linear"),
        (lambda: pf.nn.MLP(2, 2, numbers=1), UserError, "numbers is 1, but this MLP reads no time"),
        (lambda: pf.nn.DiT((1, 4, 4), numbers=2), UserError, "numbers is 2, but it is 1"),
        (lambda: pf.nn.MLP(2, 2, time_features=2)(torch.zeros(1, 2), torch.zeros(1), r=torch.zeros(1)), UserError, "reads one time, but r"),
        (lambda: pf.models.meanflow(pf.nn.MMDiT.Config(), (4, 8, 8)), UserError, "numbers is 1, but MMDiT reads only t"),
        (
            lambda: pf.families.FlowMap(average, (3,), objective=ImprovedMeanFlow()).loss(torch.zeros(2, 3)),
            ShapeError,
            r"returned \(2, 3\) for x \(2, 3\), but it needs twice the channels",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Consistency models.

CONSISTENT = {
    "linear": (pf.paths.Linear(), "velocity"),
    "cosine": (pf.paths.Cosine(), "v"),
    "exploding": (pf.paths.VarianceExploding(0.01, 20.0), "data"),
}


def end(path, x, t, t_min=0.0):
    """The end of the trajectory through x at t: deviations from the mean scale as the marginal's, sqrt(alpha² s² + sigma²)."""
    low = torch.full_like(t, t_min)
    (a, s), (b, r) = (tuple(one[:, None] for one in (path.alpha(at), path.sigma(at))) for at in (t, low))
    return b * M + ((b * S) ** 2 + r**2).sqrt() / ((a * S) ** 2 + s**2).sqrt() * (x - a * M)


def exact_consistency(key, objective, **options):
    """The consistency function of the data, behind a prediction of the path's kind, with the exact velocity as its teacher."""
    path, kind = CONSISTENT[key]

    def net(x, t, cond=None):
        f = end(path, x, t)
        if kind == "data":
            return f
        a, b = (per_row_of(one, x) for one in path.coefficients(kind, "data", t))
        return (f - a * x) / torch.where(b.abs() < 1e-9, 1.0, b)

    def slope(x, t, cond=None):
        a, s, da, ds = (one(t)[:, None] for one in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot))
        variance = (a * S) ** 2 + s**2
        return da * M + (a * da * S**2 + s * ds) / variance * (x - a * M)

    teacher = pf.families.PathModel(slope, (3,), path, sampler=TIGHT)
    high = 1.0 if kind == "data" else float(path.time(-torch.tensor(80.0).log()))  # sigma / alpha is 80 there
    return pf.families.FlowMap(net, (3,), path, objective, kind, teacher=teacher, interval=(0.0, high), **options).train()


def per_row_of(value, x):
    return torch.as_tensor(value, dtype=x.dtype).reshape(-1, 1).expand(len(x), 1)


def test_the_exact_consistency_function_has_no_loss_in_continuous_time():
    model = exact_consistency("cosine", pf.objectives.ContinuousConsistency())
    losses = model.objective.losses(model, M + S * torch.randn(256, 3), torch.randn(256, 3), None, None)
    assert losses.plain.max() < 1e-16
    assert losses.weighted.max() < 1e-14


def test_wrong_tangents_of_the_consistency_function_are_caught(monkeypatch):
    model = exact_consistency("cosine", pf.objectives.ContinuousConsistency())
    for tangents in ((None, 0.0), (0.0, None)):
        monkeypatch.setattr(by_forward_mode.torch.func, "jvp", jvp_with(*tangents))
        losses = model.objective.losses(model, M + S * torch.randn(256, 3), torch.randn(256, 3), None, None)
        assert losses.plain.mean() > 1e-3


@pytest.mark.parametrize("key", CONSISTENT)
def test_distillation_agrees_with_the_exact_consistency_function(key):
    """The teacher's step is of second order: its error over the step falls at least 3.5 times with twice as many steps."""
    found = []
    for steps in (100, 200):
        model = exact_consistency(key, pf.objectives.ImprovedConsistency(first=steps, last=steps, huber=0.0))
        losses = model.objective.losses(model, M + S * torch.randn(4096, 3), torch.randn(4096, 3), None, generators(1)[0])
        found.append(float(losses.plain.mean()))
    assert found[0] < 1e-2
    assert found[0] / found[1] > 3.5


@pytest.mark.parametrize("key", CONSISTENT)
def test_a_jump_of_the_exact_consistency_function_is_the_end(key):
    model = exact_consistency(key, pf.objectives.EasyConsistency()).eval()
    z = model.base.sample(16)
    high = torch.full((16,), model.interval[1])
    torch.testing.assert_close(model.decode(z), end(model.path, z, high), rtol=0, atol=1e-9)


def test_consistency_with_the_data_is_denoising():
    """Where the gap is all of the level, the loss is the distance to the data, in units of the level."""
    model = exact_consistency("linear", pf.objectives.EasyConsistency(k=8.0))
    model._teacher = None
    model.progress = 0.0  # 1 + 8 sigmoid(-s) is at least 2, the base, for all s below ln 7
    s, x, noise = torch.tensor([0.3, 1.0]), torch.randn(2, 3), torch.randn(2, 3)
    lower = model.objective.lower(s, 0.0)
    assert torch.equal(lower, torch.zeros(2))
    losses = model.objective.pair_losses(model, x, noise, None, s, lower, 0.0)
    t = s / (1 + s)
    x_t = (1 - t)[:, None] * x + t[:, None] * noise
    torch.testing.assert_close(losses.weighted, (end(model.path, x_t, t) - x).norm(dim=1) / s, rtol=1e-9, atol=1e-9)


def test_schedules_follow_the_training():
    """N doubles from 10 to 1280 in 8 equal parts; the gap of ECT halves from stage to stage."""
    ict = pf.objectives.ImprovedConsistency()
    assert [ict.steps(k / 8) for k in range(9)] == [10, 20, 40, 80, 160, 320, 640, 1280, 1280]
    ect, s = pf.objectives.EasyConsistency(k=0.0), torch.ones(1)
    assert [float(ect.lower(s, k / 8)) for k in range(4)] == [0.5, 0.75, 0.875, 0.9375]


@pytest.mark.parametrize("method", ["ict", "ect", "scm"])
def test_a_consistency_model_starts_as_its_teacher_and_returns_clean_data_as_it_is(method):
    kind = {"path": pf.paths.Cosine(), "prediction": "v"} if method == "scm" else {}
    teachers = [teacher_of(**kind)] + ([] if method == "scm" else [pf.models.edm(pf.nn.MLP.Config((8,)), (2,), sigma_min=0.01)])
    for teacher in teachers:
        student = pf.models.consistency(teacher=teacher, method=method)
        x, t = torch.randn(5, *teacher.shape), torch.rand(5) / 2 + 0.25
        cond = None if teacher.classes is None else torch.tensor([0, 1, 2, 0, 1])
        expected = teacher.denoiser(cond)(x, t).data
        torch.testing.assert_close(student.objective.data(student, x, t, cond), expected, rtol=0, atol=0.05)
        clean = torch.full((5,), student.interval[0])
        torch.testing.assert_close(student.objective.data(student, x, clean, cond), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["ict", "ect", "scm"])
def test_both_sides_of_consistency_have_one_dropout_mask(method):
    """A network that is dropout alone: with one mask on both sides the loss of equal inputs is 0."""
    net = pf.nn.UNet.Config(channels=8, multipliers=(1,), depth=1, heads=2, dropout=0.5)
    model, (x, cond) = pf.models.consistency(net, (1, 4, 4), classes=3, method=method).train(), batch()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    drawn = []
    parts = [part for part in model.net.modules() if isinstance(part, torch.nn.Dropout)]
    for part in parts:
        part.register_forward_hook(lambda part, inputs, output: drawn.append(output != 0))
    model.loss(x, cond)
    first, second = drawn[: len(parts)], drawn[len(parts) :]
    assert len(first) == len(second)
    assert all(bool((a == b).float().mean() > 0.999) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: model.log_prob(torch.zeros(1, 2)), NotInvertibleError, "so the model has no log_prob"),
        (lambda model: model.encode(torch.zeros(1, 2)), NotInvertibleError, "from noise to data only; this model has no encode"),
        (lambda model: model.sample(2, sampler=pf.samplers.Dopri5()), NotInvertibleError, "not their velocity, so the model solves no ODE"),
        (lambda model: model.sample(2, sampler=Jumps(2)), UserError, r"learns jumps to the data; use Renoise\(steps\), or Jumps\(1\)"),
        (lambda model: pf.models.consistency(method="ctm"), UserError, "method is 'ctm', but it is 'ict', 'ect' or 'scm'"),
        (lambda model: pf.objectives.ImprovedConsistency(first=100, last=10), UserError, "first is 100 and last 10"),
        (lambda model: pf.objectives.EasyConsistency(base=1.0), UserError, "base is 1.0"),
        (lambda model: pf.objectives.ContinuousConsistency(warmup=2.0), UserError, "warmup is 2.0"),
    ],
)
def test_what_a_consistency_model_cannot_do_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(pf.models.consistency(pf.nn.MLP.Config((8,)), (2,)))
