"""FlowEdit: the same condition on both sides, Gaussians whose edit is known, and digits of another class."""

import math

import pytest
import torch
from examples import generators, truth_model
from torch import nn

import pushforward as pf
from pushforward.data.mixture import GaussianMixture
from pushforward.editing import FlowEdit, RFInversion
from pushforward.errors import ConditionError, NotInvertibleError, ShapeError, UserError
from pushforward.guidance import CFG, MMPS, Clip
from pushforward.samplers import Euler, Shifted

MEANS = [[-1.5, -0.5], [1.0, 1.5], [1.5, -1.5]]
SHIFT = torch.tensor([2.5, 2.0], dtype=torch.float64)  # from the first mean to the second
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def twins(std=0.5, path=None, prediction="velocity"):
    """Return the exact model of three Gaussians of one deviation, each a class."""
    truth = GaussianMixture(torch.tensor(MEANS, dtype=torch.float64), std)
    return truth_model(path, prediction, truth=truth, exact_base=False, classes=3)[0]


def trained(**options):
    """Return a model with units, levels and dropped conditions, whose weights are random."""
    model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (1, 4, 4), levels=17, classes=3, drop_cond=0.1, **options).eval()
    x = torch.randint(0, 17, (6, 1, 4, 4)).to(model.dtype)
    model.initialise(x)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, x


@pytest.mark.parametrize(
    "guidance", [None, 4.0, CFG(4.0, rescale=0.5, interval=(0.1, 0.9)), pf.guidance.APG(3.0), Clip(-1.0, 1.0, guidance=2.0)]
)
@pytest.mark.parametrize("preprocess", ["standardise", "logit"])
def test_the_same_condition_on_both_sides_returns_the_event_exactly(guidance, preprocess):
    model, x = trained(preprocess=preprocess)
    cond = torch.tensor([0, 1, 2, 0, 1, 2])
    edit = FlowEdit(guidance, guidance, steps=6, n_max=6, n_avg=2)
    assert torch.equal(edit(model, x, cond, cond, batch_size=4), x)
    changed = edit(model, x, cond, (cond + 1) % 3)
    assert not (changed == x).flatten(1).all(1).any()
    assert torch.equal(FlowEdit(steps=6)(model, x), x)  # also without a condition


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("path", "prediction"), [(pf.paths.Linear(), "data"), (pf.paths.Cosine(), "v"), (pf.paths.VarianceExploding(0.01, 50.0), "noise")]
)
def test_the_same_condition_returns_the_event_on_every_path(path, prediction):
    x = torch.tensor([[0.3, -0.7], [1.1, 2.0]])
    assert torch.equal(FlowEdit(steps=5)(twins(path=path, prediction=prediction), x, FIRST, FIRST), x)


@pytest.mark.usefixtures("float64")
def test_a_discrete_path_is_evaluated_at_its_knots():
    """Times on the linear path are translated from those of the model's own grid, here that of diffusers."""
    seen = []

    class Watched(nn.Module):
        def forward(self, x, t, cond):
            seen.append(float(t[0]))
            return torch.zeros_like(x)

    model = pf.families.PathModel(
        Watched(), (2,), pf.paths.Discrete(steps=100), "noise", sampler=pf.samplers.DDIM(4, grid=pf.samplers.Knots()), classes=3
    )
    FlowEdit(steps=4, n_max=4)(model, torch.zeros(1, 2), FIRST, SECOND)
    assert seen[::2] == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_from_a_gaussian_to_another_of_its_deviation_is_a_shift_by_the_means(steps):
    """d = (1 - t) shift solves the equation for any noise, and is linear in t: any number of steps is exact."""
    x = torch.tensor([[-1.9, -0.3], [-1.0, -0.6], [5.0, 5.0]])
    for grid in (pf.samplers.Uniform(), Shifted(3.0, 1000)):
        edit = FlowEdit(steps=steps, n_max=steps, n_avg=2, grid=grid)
        torch.testing.assert_close(edit(twins(), x, FIRST, SECOND), x + SHIFT, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("path", [pf.paths.Linear(), pf.paths.Cosine()])
def test_a_later_start_moves_by_a_known_share_to_first_order(path):
    """From t_0 on, d - (1 - t) shift changes as the deviation s_t = sqrt((1 - t)² s² + t²): d = (1 - (1 - t_0) s / s_(t_0)) shift.

    t is the time on the linear path, that of t_0 = 0.6 on the model's own.
    """
    x, model = torch.tensor([[-1.9, -0.3]]), twins(path=path)
    t = float(path.sigma(torch.tensor(0.6)) / (path.sigma(torch.tensor(0.6)) + path.alpha(torch.tensor(0.6))))
    share = 1 - (1 - t) * 0.5 / math.sqrt((1 - t) ** 2 * 0.5**2 + t**2)
    error = [
        float((FlowEdit(steps=steps, n_max=6 * steps // 10)(model, x, FIRST, SECOND) - x - share * SHIFT).norm()) for steps in (80, 160)
    ]
    assert math.log2(error[0] / error[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.usefixtures("float64")
def test_events_of_one_component_become_those_of_another():
    """The components of the mixture differ in deviation: 0.5, 0.3 and 0.8."""
    model, truth = truth_model(exact_base=False, classes=3)
    x = truth.sample(300, torch.zeros(300, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    moved = FlowEdit(steps=50, n_max=50, n_avg=4)(model, x, FIRST, SECOND, generator=torch.Generator().manual_seed(1))
    assert float((moved.mean(0) - torch.tensor([1.0, 1.5])).norm()) < 0.05  # 0.3 / sqrt(300) = 0.017
    assert float((moved - truth.means[1]).norm(dim=1).max()) < 2.0
    paired = float((moved - x - SHIFT).norm(dim=1).mean())
    assert paired < 0.7 * float((moved.flip(0) - x - SHIFT).norm(dim=1).mean())  # the events keep their order in the component


@pytest.mark.usefixtures("float64")
def test_averaged_noise_leaves_less_randomness():
    model, _ = truth_model(exact_base=False, classes=3)
    x = torch.tensor([[-1.9, -0.3]]).repeat(200, 1)
    spread = [
        float(
            FlowEdit(steps=10, n_max=10, n_avg=n_avg)(model, x, FIRST, torch.tensor([2]), generator=torch.Generator().manual_seed(0))
            .var(0)
            .sum()
        )
        for n_avg in (1, 8)
    ]
    assert spread[1] < 0.25 * spread[0]  # 1/8 where the steps are linear


@pytest.mark.usefixtures("float64")
def test_if_all_steps_are_sampling_the_event_is_forgotten():
    model, x = twins(), torch.tensor([[-1.9, -0.3], [4.0, 4.0]])
    noise = model.base.sample(2, generator=generators(2))
    made = FlowEdit(steps=7, n_max=7, n_min=7)(model, x, FIRST, SECOND, generator=generators(2))
    torch.testing.assert_close(made, model.decode(noise, torch.tensor([1, 1]), sampler=Euler(7)))
    part = FlowEdit(steps=7, n_max=7, n_min=2)(model, x, FIRST, FIRST)
    assert not (part == x).any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("edit", [FlowEdit(steps=5), RFInversion(steps=5)])
def test_chunks_give_what_the_whole_batch_gives(edit):
    model, truth = truth_model(exact_base=False, classes=3, drop_cond=0.1)
    x = truth.sample(6)
    guided = type(edit)(None, CFG(2.0, negative=torch.arange(6) % 3), steps=5)
    source, target = torch.tensor([0]), (torch.arange(6) + 1) % 3
    whole = guided(model, x, source, target, generator=generators(6))
    torch.testing.assert_close(guided(model, x, source, target, generator=generators(6), batch_size=4), whole, rtol=0, atol=1e-12)
    assert edit(model, x[:0]).shape == (0, 2)


class Kernels(nn.Module):
    """The exact network for digits spread by a Gaussian around each example of their class."""

    def __init__(self, data, std):
        super().__init__()
        examples = (data.x[data.cond == k] + 0.5 for k in range(10))
        self.nets = nn.ModuleList(GaussianMixture(x, std).net(pf.paths.Linear()) for x in examples)

    def forward(self, x, t, cond):
        made = torch.empty_like(x)
        for k in cond.unique().tolist():
            rows = cond == k
            made[rows] = self.nets[k](x[rows], t[rows])
        return made


@pytest.mark.usefixtures("float32")
def test_a_three_becomes_an_eight_and_stays_closer_than_a_fresh_one():
    data, validation, test = (pf.data.load("digits", split) for split in ("train", "validation", "test"))
    judge = pf.evaluation.classifier(data, validation)
    model = pf.families.PathModel(Kernels(data, 1.0), (1, 8, 8), classes=10, levels=17)
    threes = test.x[test.cond == 3]  # 37
    eights = torch.full((len(threes),), 8)
    generator = torch.Generator().manual_seed(0)

    def distance(x):
        return float((x - threes - 0.5).flatten(1).norm(dim=1).mean())

    fresh = model.sample(len(threes), eights, sampler=Euler(30), generator=generator)
    edits = [FlowEdit(n_max=n_max)(model, threes, torch.tensor([3]), eights, generator=generator) for n_max in (25, 45)]
    edits.append(RFInversion(eta=0.5)(model, threes, torch.tensor([3]), eights, generator=generator))
    assert judge.recognised(fresh, eights) > 0.95
    assert judge.recognised(edits[1], eights) > 0.95
    assert judge.recognised(edits[2], eights) > 0.95
    assert judge.recognised(edits[0], eights) < 0.3  # too few steps: it is still a three
    assert distance(edits[0]) < distance(edits[1]) < 0.7 * distance(fresh)
    assert distance(edits[2]) < 0.8 * distance(fresh)


def test_what_cannot_be_edited_is_refused_before_anything_is_computed():
    calls = []
    model = pf.families.PathModel(lambda x, t, cond: calls.append(0) or x, (2,), classes=3)
    x, edit = torch.zeros(4, 2), FlowEdit(steps=5)
    flow = pf.models.realnvp(2, layers=2, hidden=(8,))
    never = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=3)
    for wrong, error, message in (
        (
            lambda: edit(flow, x),
            NotInvertibleError,
            "FlowEdit needs a PathModel, .* but this is a pushforward.NormalizingFlow",
        ),
        (lambda: edit(model, torch.zeros(4, 3), FIRST, SECOND), ShapeError, r"x has shape \(4, 3\)"),
        (lambda: edit(model, x, FIRST, torch.tensor([0, 1])), ConditionError, "its leading dimension must be 4"),
        (lambda: edit(model, x, FIRST, torch.tensor([5])), ConditionError, r"cond\[0\] is 5"),
        (lambda: FlowEdit(None, 2.0, steps=5)(never, x, FIRST, SECOND), ConditionError, "drop_cond is 0"),
        (lambda: edit(model, x, FIRST, SECOND, generator=generators(3)), UserError, "generator is a list of 3"),
        (lambda: edit(pf.families.PathModel(model.net, (2,), bridge=0.5), x), UserError, "has a bridge"),
        (lambda: FlowEdit(n_max=51), UserError, "n_max is 51, but it must be at most 50"),
        (lambda: FlowEdit(n_min=34), UserError, "n_min is 34, but it must be at most 33"),
        (lambda: FlowEdit(n_avg=0), UserError, "n_avg is 0"),
        (lambda: FlowEdit(steps=0), UserError, "steps is 0"),
        (lambda: FlowEdit("strong"), UserError, "guidance is 'strong'"),
        (lambda: FlowEdit(MMPS(pf.measurements.Mask(), torch.zeros(2))), UserError, "source_guidance is MMPS.*guidance by a measurement"),
        (lambda: RFInversion(gamma=1.5), UserError, "gamma is 1.5, but it is a share"),
        (lambda: RFInversion(interval=(0.5, 0.2)), UserError, "interval is"),
    ):
        with pytest.raises(error, match=message):
            wrong()
    assert not calls
