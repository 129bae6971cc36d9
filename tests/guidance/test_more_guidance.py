"""Skip-layer guidance and inpainting on known velocities, alone and inside one another; guidance that holds rows, in chunks."""

import pytest
import torch
from examples import generators, some_of, truth_model

from pushforward.conditions import TextContext
from pushforward.errors import ConditionError, UserError
from pushforward.families.path_model import PathModel
from pushforward.guidance.cfg import CFG
from pushforward.guidance.inpaint import Inpaint
from pushforward.guidance.skip_layers import SkipLayers
from pushforward.paths import Cosine, Linear
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.dpm_solver import DPMSolverPP
from pushforward.samplers.euler import Euler
from pushforward.samplers.grids import Shifted
from pushforward.samplers.heun import Heun

pytestmark = pytest.mark.usefixtures("float64")
X, T = torch.tensor([[1.0, 3.0], [2.0, -2.0]], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
COND = TextContext(torch.full((2, 1, 1), 2.0, dtype=torch.float64), torch.tensor([[1.0], [3.0]], dtype=torch.float64))
NEGATIVE = TextContext(torch.ones(2, 1, 1, dtype=torch.float64), torch.tensor([[-1.0], [0.5]], dtype=torch.float64))


class Blocks(torch.nn.Module):
    """velocity = (pooled + context per block that is not left out) x, of three blocks, and how often it was asked."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, cond=None, skip=()):
        self.calls += 1
        blocks = 3 - len(skip)
        return self.weight * x * (0.0 if cond is None else cond.pooled + blocks * cond.context[:, 0])


@pytest.fixture
def net():
    return Blocks()


def said(guidance, net, t=T):
    return guidance(Denoiser(net, Linear(), cond=COND))(X, t).velocity


def test_skipping_layers_adds_what_they_contribute(net):
    """Two of three blocks left out contribute 2 * context x each."""
    plain = (COND.pooled + 6) * X
    torch.testing.assert_close(said(SkipLayers((0, 2), 1.5), net), plain + 1.5 * 4 * X, rtol=1e-12, atol=0)
    assert net.calls == 2


def test_skipping_layers_comes_after_guidance_and_asks_the_condition_once(net):
    plain, away = COND.pooled + 6, NEGATIVE.pooled + 3
    expected = (away + 4 * (plain - away) + 2.8 * 2) * X
    torch.testing.assert_close(said(SkipLayers((1,), 2.8, guidance=CFG(4.0, NEGATIVE)), net), expected, rtol=1e-12, atol=0)
    assert net.calls == 3


def test_outside_the_interval_nothing_is_added(net):
    guidance = SkipLayers((1,), 2.8, interval=(0.5, 1.0))
    torch.testing.assert_close(said(guidance, net), (COND.pooled + 6 + torch.tensor([[0.0], [2.8 * 2]])) * X, rtol=1e-12, atol=0)


@pytest.mark.parametrize("guidance", [SkipLayers((1,), 2.0, (0.8, 1.0)), CFG(3.0, NEGATIVE, (0.8, 1.0))])
def test_outside_the_interval_nothing_more_is_evaluated(net, guidance):
    torch.testing.assert_close(said(guidance, net), (COND.pooled + 6) * X, rtol=1e-12, atol=0)
    assert net.calls == 1


def test_a_network_that_cannot_leave_blocks_out_is_refused():
    model, _ = truth_model()
    with pytest.raises(UserError, match="cannot leave blocks out"):
        model.decode(X, guidance=SkipLayers((1,)))


def nested(rows=slice(None), n=6):
    negative = TextContext(torch.linspace(0, 1, n, dtype=torch.float64).view(n, 1, 1), torch.zeros(n, 1, dtype=torch.float64))
    mask = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(n, 2)
    data, noise = torch.arange(2.0 * n, dtype=torch.float64).view(n, 2), -torch.ones(n, 2, dtype=torch.float64)
    return Inpaint(data, mask, noise, SkipLayers((1,), 0.1, guidance=CFG(1.2, negative)))


@pytest.mark.parametrize("sampler", [Euler(5), DPMSolverPP(5), Dopri5(1e-9, 1e-9)], ids=lambda one: type(one).__name__)
def test_chunks_cut_conditions_and_all_that_guidance_holds(net, sampler):
    """The adaptive one lets rows leave its batch: conditions, negatives, masks, data and noise leave with them."""
    model = PathModel(net, (2,), Linear(), sampler=sampler).double()
    cond = TextContext(torch.linspace(-1, 0.3, 6, dtype=torch.float64).view(6, 1, 1), torch.linspace(0, 1, 6, dtype=torch.float64)[:, None])
    whole = model.sample(6, cond, guidance=nested(), generator=generators(6))
    parts = model.sample(6, cond, guidance=nested(), generator=generators(6), batch_size=4)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-7)


def test_a_negative_of_other_length_is_refused(net):
    model = PathModel(net, (2,), Linear()).double()
    with pytest.raises(ConditionError, match="negative has shape .* leading dimension must be 2"):
        model.sample(2, COND, guidance=CFG(2.0, NEGATIVE[:1]))


KEEPING = [(Euler(200), 1e-2), (Heun(200), 1e-4), (Dopri5(1e-9, 1e-9), 1e-7), (DPMSolverPP(200), 1e-2)]


@pytest.mark.parametrize(("sampler", "off", "path"), some_of([pytest.param(*one) for one in KEEPING], [Linear(), Cosine()]))
def test_what_is_known_is_kept_and_the_rest_fits_it(path, sampler, off):
    """Under full knowledge of x[1] the model's x[0] still varies; on the linear path what is known ends exact."""
    model, truth = truth_model(path, sampler=sampler)
    data, noise = truth.sample(3), model.base.sample(3)
    inpaint = Inpaint(data, torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(3, 2), noise)
    made = model.decode(noise, guidance=inpaint)
    exact = isinstance(path, Linear) or isinstance(sampler, DPMSolverPP)  # whose steps are exact for data and noise that stay
    torch.testing.assert_close(made[:, 1], data[:, 1], rtol=0, atol=1e-9 if exact else off)
    assert not torch.allclose(made[:, 0], model.decode(noise)[:, 0])


def test_an_empty_mask_leaves_the_model_alone():
    model, truth = truth_model(sampler=Euler(8))
    noise = torch.randn(3, 2, dtype=torch.float64)
    made = model.decode(noise, guidance=Inpaint(truth.sample(3), torch.ones(3, 2, dtype=torch.float64), noise))
    torch.testing.assert_close(made, model.decode(noise), rtol=1e-12, atol=1e-12)


def test_records_are_dropped_in_training_at_their_rate():
    """Of 2,000 rows a share of 0.3 within 5 of its deviations (0.01); what is dropped becomes the null record."""
    heard = []
    net = Blocks()
    net.register_forward_pre_hook(lambda module, args: heard.append(args[2]))
    null = TextContext(torch.full((1, 1, 1), 9.0, dtype=torch.float64), torch.full((1, 1), 8.0, dtype=torch.float64))
    model = PathModel(net, (2,), Linear(), drop_cond=0.3, null=null).double()
    cond = COND.repeat(1000)
    model.loss(torch.zeros(2000, 2, dtype=torch.float64), cond, generator=torch.Generator().manual_seed(0))
    dropped = heard[0].context[:, 0, 0] == 9
    assert abs(float(dropped.double().mean()) - 0.3) < 0.05
    assert torch.equal(heard[0].pooled[dropped], null.pooled.expand(int(dropped.sum()), 1))
    assert torch.equal(heard[0].pooled[~dropped], cond.pooled[~dropped])
    model.eval().loss(torch.zeros(2, 2, dtype=torch.float64), COND)
    assert torch.equal(heard[1].pooled, COND.pooled)


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (4, [1, 0.8576923, 0.6021506, 0.0089286, 0]),
        (1, [1, 0]),
        (2, [1, 0.0089286, 0]),
    ],
)
def test_shifted_with_levels_is_stable_diffusion_3s_grid(steps, times):
    assert Shifted(3.0, 1000)(1.0, 0.0, steps) == pytest.approx(times, abs=1e-7)


def test_shifted_with_levels_continues_from_a_later_start_and_runs_back():
    grid, whole = Shifted(3.0, 1000), Shifted(3.0, 1000)(1.0, 0.0, 28)
    assert grid(whole[12], 0.0, 16) == pytest.approx(whole[12:], abs=1e-12)
    assert grid(0.0, 1.0, 28) == pytest.approx(whole[::-1], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32])
def test_a_mask_of_any_dtype_keeps_the_same(dtype):
    model, truth = truth_model(sampler=Euler(8))
    data, noise, mask = (
        truth.sample(3),
        torch.randn(3, 2, dtype=torch.float64),
        torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(3, 2),
    )
    expected = model.decode(noise, guidance=Inpaint(data, mask, noise))
    assert torch.equal(model.decode(noise, guidance=Inpaint(data, mask.to(dtype), noise)), expected)
