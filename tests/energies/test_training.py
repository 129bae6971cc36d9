"""Training from an energy: the loss is the divergence, its gradients are right, and weights are unbiased."""

import copy
import math

import pytest
import torch

import pushforward as pf
from pushforward.bijections.columns import moved
from pushforward.energies import annealed_importance, fit, importance, reverse_kl
from pushforward.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(mean, std):
    """Return a flow whose density is N(mean, diag std²), with trainable mean and log-scale."""
    return pf.families.NormalizingFlow(_ScaleShift(torch.tensor(mean), torch.tensor(std)))


class _ScaleShift(pf.bijections.Bijection):
    def __init__(self, mean, std):
        super().__init__()
        self.features = len(mean)
        self.mean, self.log_std = torch.nn.Parameter(mean), torch.nn.Parameter(std.log())

    def forward(self, x, cond=None):
        return (x - self.mean) * (-self.log_std).exp(), -self.log_std.sum()

    def inverse(self, z, cond=None):
        return self.mean + z * self.log_std.exp(), self.log_std.sum()


def standard(x):
    """The energy of N(0, I), without its normaliser."""
    return x.square().sum(1) / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: moved(pf.models.nsf(2, 2, 4, (8,), activation="tanh").bijection),
        lambda: moved(pf.models.maf(2, 2, (8,), activation="tanh").bijection),
    ],
)
def test_samples_carry_their_own_density_and_gradients(make):
    flow = pf.families.NormalizingFlow(make())
    x, log_prob = flow.rsample_and_log_prob(5, generator=generator())
    torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=0, atol=1e-9)
    assert torch.equal(x, flow.sample(5, generator=generator()))
    p = next(flow.parameters())
    (gradient,) = torch.autograd.grad((x.sin().sum() + log_prob.square().sum()), p)
    step = torch.randn_like(p) * 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            p += sign * step
            moved_x, moved_log_prob = flow.rsample_and_log_prob(5, generator=generator())
            values.append(moved_x.sin().sum() + moved_log_prob.square().sum())
            p -= sign * step
    torch.testing.assert_close((values[0] - values[1]) / 2, (gradient * step).sum(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("estimator", ["total", "path"])
def test_the_loss_and_its_gradient_are_those_of_the_divergence(estimator):
    """KL(N(m, s²) | N(0, 1)) = (s² + m² - 1) / 2 - log s, with the gradients m and s² - 1 by m and log s."""
    flow, n = gaussian([0.7, -0.3], [1.5, 0.6]), 200_000
    loss = reverse_kl(flow, standard, n, estimator=estimator, generator=generator())
    m, s = flow.bijection.mean.detach(), flow.bijection.log_std.detach().exp()
    expected = ((s**2 + m**2 - 1) / 2 - s.log()).sum() - math.log(2 * math.pi)  # minus log Z
    assert loss.item() == pytest.approx(expected.item(), abs=0.02)
    loss.backward()
    torch.testing.assert_close(flow.bijection.mean.grad, m, rtol=0, atol=0.02)
    torch.testing.assert_close(flow.bijection.log_std.grad, s**2 - 1, rtol=0, atol=0.03)


def test_at_the_optimum_each_samples_path_gradient_vanishes():
    flow = gaussian([0.0, 0.0], [1.0, 1.0])
    gradients = {}
    for estimator in ("path", "total"):
        flow.zero_grad()
        reverse_kl(flow, standard, 8, estimator=estimator, generator=generator()).backward()
        gradients[estimator] = torch.cat([p.grad for p in flow.parameters()])
    torch.testing.assert_close(gradients["path"], torch.zeros(4), rtol=0, atol=1e-12)
    assert gradients["total"].abs().max() > 0.05


def test_weights_of_the_right_model_are_equal():
    flow = gaussian([0.0, 0.0], [1.0, 1.0])
    samples = importance(flow, standard, 50, generator=generator())
    assert samples.effective_size == pytest.approx(50)
    assert samples.log_normaliser == pytest.approx(math.log(2 * math.pi))


def test_weights_correct_a_wrong_model():
    well = pf.energies.DoubleWell(2, depth=1.0)
    samples = importance(gaussian([0.2, 0.0], [1.3, 1.1]), well, 50_000, generator=generator(), batch_size=20_000)
    error = (1 / samples.effective_size - 1 / 50_000) ** 0.5
    assert samples.log_normaliser == pytest.approx(well.log_normaliser, abs=4 * error)
    mean, square = samples.mean(lambda x: x[:, 0]), samples.mean(lambda x: x[:, 1].square())
    assert abs(mean) < 0.03
    assert square.item() == pytest.approx(1.0, abs=0.03)
    positive = samples.mean(lambda x: x[:, 0] > 0)
    assert positive.item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(samples.mean(lambda x: (x[:, 0] > 0).long()), positive)
    again = samples.resample(20_000, generator())
    assert again[:, 1].square().mean().item() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("temperatures", [1, 8])
def test_annealing_is_unbiased_and_evens_the_weights_out(temperatures):
    """From N(0, 3²) to N(2, 1): Z is known, and annealing has a larger effective sample size than importance sampling."""
    flow, n = gaussian([0.0], [3.0]), 4000

    def energy(x):
        return (x[:, 0] - 2).square() / 2

    plain = importance(flow, energy, n, generator=generator())
    found = annealed_importance(flow, energy, n, temperatures=temperatures, step_size=0.5, leapfrogs=3, generator=generator())
    assert 0.6 < found.acceptance < 1
    assert found.log_normaliser == pytest.approx(math.log(2 * math.pi) / 2, abs=5 * (1 / found.effective_size) ** 0.5)
    if temperatures > 1:
        assert found.effective_size > 1.3 * plain.effective_size
    else:
        assert found.effective_size == pytest.approx(plain.effective_size)  # weights are those before the only move


def test_moves_keep_the_target():
    """Samples of the target stay samples of it, with weights of one."""
    flow = gaussian([0.0, 0.0], [1.0, 1.0])
    found = annealed_importance(flow, standard, 20_000, temperatures=3, step_size=0.9, leapfrogs=3, generator=generator())
    assert found.effective_size == pytest.approx(20_000)
    assert found.acceptance < 0.97  # the step is long enough that rejection matters
    assert found.x.mean(0).abs().max() < 0.03
    torch.testing.assert_close(found.x.var(0), torch.ones(2), rtol=0, atol=0.04)
    torch.testing.assert_close(found.x.pow(4).mean(0), torch.full((2,), 3.0), rtol=0, atol=0.25)


def test_without_moves_annealing_is_importance_sampling():
    flow, well = gaussian([0.0, 0.0], [1.0, 1.0]), pf.energies.DoubleWell(2)
    one, two = importance(flow, well, 20, generator=generator()), annealed_importance(flow, well, 20, leapfrogs=0, generator=generator())
    assert torch.equal(one.x, two.x)
    torch.testing.assert_close(one.log_weights, two.log_weights, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_moves_of_angles_stay_within_one_period():
    torch.manual_seed(0)
    model = pf.models.nsf(2, 2, hidden=(8,), circular=True).double()
    found = annealed_importance(model, lambda x: x.square().sum(1) / 8, 4000, temperatures=6, step_size=0.8, generator=generator())
    assert found.x.min() >= -math.pi
    assert found.x.max() < math.pi
    one = math.sqrt(8 * math.pi) * math.erf(math.pi / math.sqrt(8))  # the integral of exp(-x² / 8) over a period, not over all numbers
    assert found.log_normaliser == pytest.approx(2 * math.log(one), abs=0.03)


@pytest.mark.slow
def test_training_finds_both_wells():
    """Both modes, the normaliser, and most of the samples count."""
    torch.manual_seed(0)
    well = pf.energies.DoubleWell(2, depth=2.0)
    model = pf.models.nsf(2, 2, hidden=(32,), bound=3.0)
    losses = fit(model, well, 150, batch_size=128, lr=1e-2)
    assert losses[-1] < losses[0]
    samples = importance(model, well, 4000, generator=generator())
    assert samples.effective_size > 0.9 * 4000
    assert samples.log_normaliser == pytest.approx(well.log_normaliser, abs=0.03)
    assert samples.mean(lambda x: (x[:, 0] > 0).double()).item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("energy", "circular"), [(pf.energies.LatticeField(4), False), (pf.energies.Rotors(3), True)], ids=["lattice", "rotors"]
)
def test_a_small_boltzmann_distribution_is_learned(energy, circular):
    torch.manual_seed(0)
    model = pf.models.nsf(energy.shape[0], 6, hidden=(64, 64), circular=circular)
    fit(model, energy, 1600, batch_size=256, lr=5e-3)
    samples = importance(model, energy, 10_000, generator=generator())
    assert samples.effective_size > 0.8 * 10_000
    assert samples.log_normaliser == pytest.approx(energy.log_normaliser, abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda flow: reverse_kl(flow, standard, 0), "n is 0"),
        (lambda flow: reverse_kl(flow, standard, 2, estimator="score"), "estimator is 'score', but it is 'path' or 'total'"),
        (lambda flow: reverse_kl(flow, lambda x: x, 2), "the energy is .*one number per sample"),
        (lambda flow: reverse_kl(flow, lambda x: x.detach().square().sum(1), 2), "the energy is not differentiable"),
        (lambda flow: importance(flow, pf.energies.Rotors(3), 2), r"of events of shape \(3,\), but those of the model have \(2,\)"),
        (lambda flow: fit(flow, pf.energies.DoubleWell(3), 2), r"of events of shape \(3,\), but those of the model have \(2,\)"),
        (lambda flow: importance(flow, lambda x: x[:, 0] * math.nan, 2), "the energy of sample 0 is NaN"),
        (lambda flow: importance(flow, lambda x: x[:, 0] * 0 + math.inf, 2), "the largest log-weight is -inf"),
        (lambda flow: annealed_importance(flow, standard, 2, step_size=0.0), "step_size is 0.0"),
        (lambda flow: fit(flow, standard, 2, lr=0.0), "lr is 0.0"),
        (lambda flow: fit(flow, standard, 0), "steps is 0"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(pf.errors.UserError, match=message):
        call(gaussian([0.0, 0.0], [1.0, 1.0]))


def test_annealing_without_gradients_is_refused():
    flow = gaussian([0.0, 0.0], [1.0, 1.0])
    with torch.inference_mode():
        with pytest.raises(pf.errors.UserError, match="use torch.no_grad, or leapfrogs=0"):
            annealed_importance(flow, standard, 4)
        assert annealed_importance(flow, standard, 4, leapfrogs=0).effective_size == pytest.approx(4)


def test_training_that_never_has_a_gradient_ends():
    with pytest.raises(pf.errors.DivergedError, match="100 steps in a row had no finite gradient"):
        fit(gaussian([0.0], [1.0]), lambda x: (1e200 * x[:, 0]).square(), 200)


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_path_gradient_through_an_ode_vanishes_where_the_model_is_the_target(adjoint):
    torch.manual_seed(0)
    model = pf.models.ffjord(pf.nn.MLP.Config((8,)), (2,), sampler=pf.samplers.RK4(20, adjoint=adjoint)).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    target = copy.deepcopy(model).requires_grad_(False)
    target.sampler = pf.samplers.RK4(20)
    reverse_kl(model, lambda x: -target.log_prob(x), 8, generator=generator()).backward()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-5


def test_a_path_gradient_of_a_model_that_drops_units_is_refused():
    model = pf.models.nsf(2, 2, 4, (8,), dropout=0.2).train()
    with pytest.raises(UserError, match=r"has dropout.*build it with dropout=0, or give estimator='total'"):
        reverse_kl(model, standard, 4)
    assert reverse_kl(model, standard, 4, estimator="total").isfinite()
    assert reverse_kl(model.eval(), standard, 4).isfinite()
