"""What a sampler works out once is a function of records: learned schedules, derived samplers and autocast give what they are now."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from examples import some_of
from torch import nn

import pushforward as pf
from pushforward.errors import UserError
from pushforward.fast import programs
from pushforward.paths import Path
from pushforward.samplers.linear import Step, points
from pushforward.samplers.sampler import Sampler

BOTH = [pytest.param(pf.paths.VariancePreserving(), id="vp"), pytest.param(pf.paths.Discrete(), id="discrete")]
SAMPLERS = [
    pytest.param(lambda n: pf.samplers.DDIM(n), id="DDIM"),
    pytest.param(lambda n: pf.samplers.DDIM(n, 0.5), id="DDIM-0.5"),
    pytest.param(lambda n: pf.samplers.DDPM(n), id="DDPM"),
    *[pytest.param(lambda n, v=v: pf.samplers.DPMSolverPP(n, v), id=v) for v in ("1S", "2S", "2M", "3M", "SDE-2M")],
    pytest.param(lambda n: pf.samplers.UniPC(n), id="UniPC"),
    pytest.param(lambda n: pf.samplers.EulerMaruyama(n), id="EulerMaruyama"),
    pytest.param(lambda n: pf.samplers.PredictorCorrector(n), id="PredictorCorrector"),
    pytest.param(lambda n: pf.samplers.EDM(n), id="EDM"),
]


class Power(nn.Module, Path):
    """A schedule with a parameter: alpha = 1 - t^p, sigma = scale t^p."""

    def __init__(self, p=1.0, scale=1.0):
        super().__init__()
        self.p, self.scale = nn.Parameter(torch.tensor(p)), nn.Parameter(torch.tensor(scale))

    def alpha(self, t):
        return 1 - t**self.p

    def sigma(self, t):
        return self.scale * t**self.p

    def alpha_dot(self, t):
        return -self.p * t ** (self.p - 1)

    def sigma_dot(self, t):
        return self.scale * self.p * t ** (self.p - 1)

    def time(self, log_snr):
        return (1 / (1 + self.scale * torch.exp(log_snr))) ** (1 / self.p)


def along(path, sampler, ends=(0.9, 0.1), x=None):
    x = torch.linspace(-1, 1, 8).view(4, 2) if x is None else x
    return sampler(pf.samplers.Denoiser(lambda x, t, cond: torch.tanh(x), path, "data"), x, *ends, torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("make", SAMPLERS)
def test_a_learned_schedule_is_sampled_as_it_is_now(make):
    path = Power()
    before = along(path, make(5))
    for p, scale in ((3.0, 1.0), (2.0, 1.5)):
        path.p.fill_(p)
        path.scale.fill_(scale)
        now = along(path, make(5))
        assert not torch.allclose(now, before, atol=1e-3)
        torch.testing.assert_close(now, along(Power(p, scale), make(5)), rtol=0, atol=0)


@pytest.mark.parametrize("make", SAMPLERS)
def test_gradients_that_would_miss_the_schedule_are_refused(make):
    with pytest.raises(UserError, match=r"reads Power as numbers.*use Euler\(n\) or Dopri5\(\).*or torch.no_grad\(\)"):
        along(Power(), make(3))
    frozen = Power().requires_grad_(False)
    x = torch.ones(4, 2, requires_grad=True)
    along(frozen, make(3), x=x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("sampler", [pf.samplers.Euler(3), pf.samplers.Heun(3), pf.samplers.RK4(3)], ids=str)
def test_runge_kutta_has_the_schedules_gradient(sampler):
    path = Power(1.5)
    along(path, sampler).sum().backward()
    p, h = 1.5, 1e-3
    with torch.no_grad():
        slope = (along(Power(p + h), sampler).double().sum() - along(Power(p - h), sampler).double().sum()) / (2 * h)
    assert path.p.grad == pytest.approx(float(slope), abs=5e-3)


@torch.no_grad()
def test_a_model_on_a_learned_schedule_follows_it_in_every_verb():
    """Its base N(0, sigma(1)²), too, is that of the schedule now."""
    net = pf.nn.MLP(2, 2, (8,), time_features=4)
    model, x = pf.families.PathModel(net, (2,), Power(), sampler=pf.samplers.Euler(4)), torch.randn(5, 2)
    model.path.p.fill_(2.0)
    model.path.scale.fill_(3.0)
    fresh = pf.families.PathModel(net, (2,), Power(2.0, 3.0), sampler=pf.samplers.Euler(4))
    assert model.base.std == 3
    verbs = {
        "loss": lambda m: m.loss(x, generator=torch.Generator().manual_seed(0)),
        "sample": lambda m: m.sample(5, generator=torch.Generator().manual_seed(0)),
        "ddim": lambda m: m.sample(5, sampler=pf.samplers.DDIM(4), generator=torch.Generator().manual_seed(0)),
        "log_prob": lambda m: m.log_prob(x),
        "encode": lambda m: m.encode(x),
        "decode": lambda m: m.decode(x, sampler=pf.samplers.UniPC(4)),
    }
    for verb, call in verbs.items():
        torch.testing.assert_close(call(model), call(fresh), rtol=0, atol=0, msg=verb)
    assert [name for name in model.state_dict() if "net" not in name] == ["path.p", "path.scale"]
    torch.testing.assert_close(model.base.log_prob(x), torch.distributions.Normal(0, 3.0).log_prob(x).sum(1))


@pytest.mark.parametrize("sampler", [pf.samplers.Euler(3), pf.samplers.Dopri5(0.1, 0.1)], ids=["Euler", "Dopri5"])
def test_every_verb_has_the_gradient_of_a_learned_schedule_as_without_fast_paths(sampler):
    """`sample` has no gradients, by its law; `decode` of the same noise has them."""
    torch.manual_seed(0)
    model = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4), (2,), Power(1.5, 2.0), "data", sampler=sampler).double()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    parameters = [model.path.p, model.path.scale]
    verbs = {
        "loss": lambda: model.loss(x, generator=torch.Generator().manual_seed(0)),
        "log_prob": lambda: model.log_prob(x).sum(),
        "encode": lambda: model.encode(x).sin().sum(),
        "decode": lambda: model.decode(x).sin().sum(),
    }
    for verb, call in verbs.items():
        found = torch.autograd.grad(call(), parameters, allow_unused=True)
        with pf.fast.disabled():
            plain = torch.autograd.grad(call(), parameters, allow_unused=True)
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=verb)
        assert found[0].abs() > 1e-6, verb
        if verb in ("loss", "log_prob"):  # the velocity has sigma' / sigma, in which the scale cancels
            assert found[1].abs() > 1e-6, verb
    assert not model.sample(3).requires_grad


@torch.no_grad()
@pytest.mark.parametrize("owner", [pf.samplers.DDIM, pf.paths.Linear], ids=["sampler", "path"])
def test_a_method_replaced_on_a_class_changes_what_is_planned(owner, monkeypatch):
    path, sampler = pf.paths.Linear(), pf.samplers.DDIM(4)
    before = along(path, sampler)
    method = "plan" if owner is pf.samplers.DDIM else "alpha"
    own = getattr(owner, method)
    if method == "plan":
        monkeypatch.setattr(owner, method, lambda self, *args: [step._replace(noise=0.5 * step.noise) for step in own(self, *args)])
    else:
        monkeypatch.setattr(owner, method, lambda self, t: 0.9 * own(self, t))
    found = along(path, sampler)
    with pf.fast.disabled():
        assert torch.equal(along(path, sampler), found)
    assert not torch.allclose(found, before)
    monkeypatch.undo()
    assert torch.equal(along(path, sampler), before)


def test_the_likelihood_has_the_gradient_of_a_learned_schedule():
    model = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4), (2,), Power(1.5, 2.0), "data", sampler=pf.samplers.Euler(4))
    model.log_prob(torch.ones(2, 2)).sum().backward()
    assert model.path.p.grad.abs() > 0
    assert model.path.scale.grad.abs() > 0
    with pytest.raises(UserError, match="DDIM reads Power as numbers"):
        model.log_prob(torch.ones(2, 2), sampler=pf.samplers.DDIM(3))


def test_programs_are_kept_for_records_alone():
    made = []

    def make(*parts):
        made.append(parts)
        return object()

    @dataclasses.dataclass(frozen=True)
    class Mine(pf.samplers.DDIM):
        pass

    class Plain(pf.samplers.DDIM):
        pass

    discrete = pf.paths.Discrete((0.1, 0.2, 0.3))
    for parts in (
        (pf.samplers.DDIM(3), discrete, 1.0, 0.1),
        (Mine(3), pf.paths.Linear(), 1.0, 0.0),
        (pf.samplers.EDM(3), discrete, 1.0, 0.5),
    ):
        assert programs.kept(make, *parts) is programs.kept(make, *parts)
        with pf.fast.disabled():
            assert programs.kept(make, *parts) is not programs.kept(make, *parts)
    weighted = pf.samplers.EulerMaruyama(3, lambda t: t)
    for parts in (
        (Plain(3), discrete, 1.0, 0.0),
        (weighted, discrete, 1.0, 0.0),
        (pf.samplers.DDIM(3), Power(), 1.0, 0.0),
        (pf.samplers.DDIM(3), pf.paths.Linear(), torch.tensor(1.0), 0.0),
    ):
        assert programs.kept(make, *parts) is not programs.kept(make, *parts)
    for k in range(40):
        programs.kept(make, pf.samplers.DDIM(k + 1), discrete, 1.0, 0.0)
    assert len(programs._kept) <= programs.MOST


@pytest.mark.parametrize("make", SAMPLERS)
def test_the_plain_way_gives_the_same_bits(make):
    path = pf.paths.VariancePreserving()
    fast = along(path, make(5))
    with pf.fast.disabled():
        assert torch.equal(along(path, make(5)), fast)
    assert torch.equal(along(path, make(5)), fast)


class HalfWay(pf.samplers.DDIM):
    """DDIM whose plan takes half of every step's noise."""

    def plan(self, path, times):
        return [Step(p.t, q.alpha, 0.5 * q.sigma) for p, q in pairwise(points(path, times))]


class Doubled(pf.samplers.DDIM):
    """DDIM whose result is doubled."""

    def __call__(self, denoiser, x, t_start, t_end, generator=None):
        return 2 * super().__call__(denoiser, x, t_start, t_end, generator)


class Wrapped(Sampler):
    """A sampler behind a plain one."""

    solves_ode = True

    def __init__(self, sampler):
        self.sampler = sampler

    def last_time(self, path, t_min):
        return self.sampler.last_time(path, t_min)

    def __call__(self, *args):
        return self.sampler(*args)


@torch.no_grad()
@pytest.mark.parametrize("path", [pf.paths.Linear(), pf.paths.Discrete()], ids=["linear", "discrete"])
@pytest.mark.parametrize("kind", [HalfWay, Doubled])
def test_a_derived_sampler_is_obeyed_in_every_verb(kind, path):
    model, x = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4), (2,), path), torch.randn(5, 2)
    verbs = {
        "sample": lambda sampler: model.sample(5, sampler=sampler, generator=torch.Generator().manual_seed(0)),
        "sample with log_prob": lambda sampler: model.sample(5, sampler=sampler, log_prob=True, generator=torch.Generator().manual_seed(0))[
            1
        ],
        "encode": lambda sampler: model.encode(x, sampler=sampler),
        "decode": lambda sampler: model.decode(x, sampler=sampler),
        "log_prob": lambda sampler: model.log_prob(x, sampler=sampler),
    }
    for verb, call in verbs.items():
        assert torch.equal(call(kind(4)), call(Wrapped(kind(4)))), verb
        assert not torch.allclose(call(kind(4)), call(pf.samplers.DDIM(4))), verb


@torch.no_grad()
@pytest.mark.parametrize(("make", "kind", "path"), some_of(SAMPLERS, ["data", "velocity", "noise", "v"], BOTH, every=2))
def test_autocast_does_not_lower_the_samplers_arithmetic(make, kind, path):
    """The same bits as when the network alone is under autocast, with guidance too."""
    net = pf.nn.MLP(2, 2, (16,), time_features=4, classes=3)
    labels = torch.tensor([0, 1, 2])

    def alone(x, t, cond):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x, t, cond)

    for guidance in (None, pf.guidance.CFG(3.0, rescale=0.5)):
        made = []
        for one, on in ((net, True), (alone, False)):
            model = pf.families.PathModel(one, (2,), path, kind, classes=3, drop_cond=0.1, sampler=make(4))
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                made.append(model.sample(3, labels, guidance=guidance, generator=torch.Generator().manual_seed(0)))
        assert made[0].dtype is torch.float32
        assert torch.equal(*made)
    assert net(torch.ones(3, 2), torch.ones(3), labels).dtype is torch.float32
