"""What every model owes, whatever built it: five verbs that agree with each other and leave what they were given alone."""

import copy
import math
import re

import conditional
import pytest
import torch
from conditional import like
from examples import SOLVED, by, examples, generators, latents, non_contiguous, one_in, paired
from torch.utils._pytree import tree_leaves

from pushforward import registry
from pushforward.bijections.standardise import Standardise
from pushforward.errors import ConditionError, DtypeError, NotInvertibleError, ShapeError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.heun import Heun
from pushforward.testing.models import (
    a_seed_gives_the_same_samples,
    decode_undoes_encode,
    log_prob_of_samples,
    log_prob_of_the_jacobian,
    loss_has_gradients,
)

QUICK, QUICKLY = Dopri5(1e-5, 1e-5), 1e-4  # where a law is not about the solver: a tenth of a tight solver's steps, right within 10 times
STEPS, ROUNDED = Heun(2), 1e-9  # where both ways take the same steps: what is left is rounding
COARSE = Dopri5(0.05, 0.05)  # where only dtypes count
TIGHTER = Dopri5(1e-11, 1e-11)  # right within 100 times, for networks of time, whose ODE is stiffer than the truth's
CLOSER = Dopri5(1e-6, 1e-6)  # right within a thousand times, as two solves may differ in their steps
SOLVERS = [pytest.param(CLOSER, 10 * QUICKLY, id="quick"), pytest.param(TIGHTER, SOLVED, id="tight", marks=pytest.mark.slow)]
MODELS = [*examples("models"), *[one for one in examples("families") if one.id != "families.GenerativeModel"], *conditional.MODELS]


def half(first):
    """Every second model, from the first or the second on; the others are slow. For laws that solve much, half of which start at each."""
    return pytest.mark.parametrize("differentiable", one_in(2, MODELS, first), indirect=True)


@pytest.fixture(params=MODELS)
def differentiable(request):
    """The model with larger weights than it starts with, so that its map is no near-identity; x; cond."""
    model, x, cond = request.param.example()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model, x, cond


@pytest.fixture
def subject(differentiable):
    """The same without gradients, which laws about values have no use for."""
    with torch.no_grad():
        yield differentiable


def needs(model, verb):
    """Skip a law about a verb that the model refuses: flow maps have no density, and consistency models no inverse."""
    if verb not in model.verbs:
        pytest.skip(f"has no {verb}")


def value(model, x, cond, solver=None):
    """Return log_prob of x, of a model without a density the data that x as noise becomes, of an autoencoder its latents."""
    options = {} if solver is None else by(model, solver)
    verb = model.log_prob if "log_prob" in model.verbs else model.encode if not model.invertible else model.decode
    return verb(x, cond, **options)


def _within(model, solved):
    """Return how close a law holds: to the solver's tolerance, and to 1e-9 where the map is exact."""
    return SOLVED if model.sampler is None else solved


def test_every_preset_and_family_has_an_example():
    public = [*registry.entries("models"), *registry.entries("families")]
    assert [one.name for one in public if one.example is None] == ["families.GenerativeModel"]


@half(0)
@pytest.mark.parametrize(("solver", "within"), SOLVERS)
def test_sampling_with_log_prob_gives_the_log_prob_of_the_samples(subject, solver, within):
    model, x, cond = subject
    needs(model, "log_prob")
    log_prob_of_samples(model, x, cond, by(model, solver), _within(model, within))


def test_samples_are_the_same_with_and_without_their_log_prob(subject):
    model, x, cond = subject
    needs(model, "log_prob")
    if getattr(model, "_noise_left", False):
        pytest.skip("sample ends with the expected data, decode and log_prob are about x at t_min")
    with_log_prob, _ = model.sample(len(x), cond, **by(model, STEPS), log_prob=True, generator=torch.Generator().manual_seed(1))
    alone = model.sample(len(x), cond, **by(model, STEPS), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(with_log_prob, alone, rtol=0, atol=ROUNDED)


@pytest.mark.parametrize(("solver", "within"), SOLVERS)
def test_decode_undoes_encode(subject, solver, within):
    model, x, cond = subject
    needs(model, "encode")
    decode_undoes_encode(model, x, cond, by(model, solver), _within(model, within))


@half(1)
@pytest.mark.parametrize(("solver", "within"), SOLVERS)
def test_log_prob_is_the_base_density_of_the_code_and_the_jacobian(differentiable, solver, within):
    model, x, cond = differentiable
    needs(model, "log_prob")
    log_prob_of_the_jacobian(model, x, cond, by(model, solver), _within(model, within))


@pytest.mark.parametrize("differentiable", one_in(4, MODELS), indirect=True)
def test_the_density_over_the_plane_integrates_to_one(subject):
    """Steps of 0.25 on [-8, 8]²: a density this smooth is integrated to its solver's tolerance, 3e-6, times 30.

    That of a discrete flow has kinks (relu, splines), whose error goes with the step squared, and tails as long as its layers stretch
    them: steps of 0.05 on [-30, 30]².
    """
    model, _, cond = subject
    needs(model, "log_prob")
    if model.shape != (2,):
        pytest.skip("not a density over the plane")
    step, end, rows = (0.25, 8, 2048) if model.sampler is not None else (0.05, 30, 40000)
    axis = torch.arange(-end, end, step)
    grid = torch.cartesian_prod(axis, axis)
    given = None if model.conditioning.shape is None else cond[:1].expand(len(grid), -1)
    with torch.no_grad():
        total = model.log_prob(grid, given, **by(model, Dopri5(3e-6, 3e-6)), batch_size=rows).exp().sum() * step**2
    assert abs(float(total) - 1) < 1e-4


def test_preprocessing_adds_its_log_determinant(subject):
    """Density in the data's units: p(x) = p_model((x - m) / s) / prod s."""
    model, x, cond = subject
    needs(model, "log_prob")
    preprocess = Standardise(model.shape)
    preprocess.initialise(5 + 3 * torch.randn(20, *model.shape))
    z, log_abs_det = preprocess(x)
    plain = model.log_prob(z, cond, **by(model, STEPS))
    model.preprocess = preprocess
    torch.testing.assert_close(model.log_prob(x, cond, **by(model, STEPS)), plain + log_abs_det, rtol=0, atol=ROUNDED)
    assert float(log_abs_det[0].detach()) == pytest.approx(-float(preprocess.std.expand(model.shape).log().sum()))


@half(1)
def test_preprocessing_is_undone_by_decode_and_sample(subject):
    """To 10 times the law's tolerance in the model's units, of which the data's are 3."""
    model, x, cond = subject
    model.preprocess = Standardise(model.shape)
    model.initialise(5 + 3 * torch.randn(20, *model.shape), None if cond is None else cond[torch.arange(20) % len(x)])
    if "encode" in model.verbs and model.invertible:
        back = model.decode(model.encode(x, cond, **by(model, QUICK)), cond, **by(model, QUICK))
        torch.testing.assert_close(back, x, rtol=0, atol=30 * QUICKLY)
    needs(model, "log_prob")
    samples, log_prob = model.sample(len(x), cond, **by(model, QUICK), log_prob=True)
    torch.testing.assert_close(log_prob, model.log_prob(samples, cond, **by(model, QUICK)).detach(), rtol=0, atol=10 * QUICKLY)


def test_temperature_scales_the_noise(subject):
    model, x, cond = subject
    if getattr(model, "_noise_left", False):
        pytest.skip("sample ends with the expected data, decode and log_prob are about x at t_min")
    cold = model.sample(len(x), cond, **by(model, STEPS), temperature=0.5, generator=torch.Generator().manual_seed(1))
    noise = model.base.sample(len(x), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(cold, model.decode(0.5 * noise, cond, **by(model, STEPS)).detach(), rtol=0, atol=ROUNDED)


@half(1)
def test_the_log_prob_of_a_tempered_sample_is_that_of_the_tempered_model(subject):
    """Base N(0, T²): log p_T(x) = log p(x) - log N(z; 0, 1) + log N(z; 0, T²)."""
    model, x, cond = subject
    needs(model, "log_prob")
    samples, log_prob = model.sample(len(x), cond, **by(model, QUICK), temperature=0.5, log_prob=True)
    z = model.encode(samples, cond, **by(model, QUICK))
    tempered = model.base.log_prob(z / 0.5) - math.prod(model.shape) * math.log(0.5)
    by_hand = model.log_prob(samples, cond, **by(model, QUICK)) - model.base.log_prob(z) + tempered
    torch.testing.assert_close(log_prob, by_hand.detach(), rtol=0, atol=10 * QUICKLY)


@half(0)
def test_a_sample_does_not_depend_on_who_shares_its_batch(subject):
    model, x, cond = subject
    n = len(x)
    together = model.sample(n, cond, generator=generators(n))
    alone = [model.sample(1, None if cond is None else cond[k : k + 1], generator=[generators(n)[k]]) for k in range(n)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)  # 10 times the sampler's tolerance


def test_samples_are_the_same_in_chunks(subject):
    model, x, cond = subject
    together = model.sample(len(x), cond, **by(model, STEPS), generator=generators(len(x)))
    for batch_size in (1, 3):
        chunks = model.sample(len(x), cond, **by(model, STEPS), generator=generators(len(x)), batch_size=batch_size)
        torch.testing.assert_close(chunks, together, rtol=0, atol=ROUNDED)


def test_log_probs_are_the_same_in_chunks(subject):
    model, x, cond = subject
    needs(model, "log_prob")
    together = model.log_prob(x, cond, **by(model, STEPS))
    for batch_size in (1, 3):
        chunks = model.log_prob(x, cond, **by(model, STEPS), batch_size=batch_size)
        torch.testing.assert_close(chunks, together, rtol=0, atol=ROUNDED)


def test_hutchinsons_log_prob_belongs_to_its_generators(subject):
    model, x, cond = subject
    needs(model, "log_prob")
    if model.sampler is None:
        pytest.skip("solves no ODE")
    n = len(x)
    together = model.log_prob(x, cond, **by(model, STEPS), divergence="hutchinson", generator=generators(n))
    chunks = model.log_prob(x, cond, **by(model, STEPS), divergence="hutchinson", generator=generators(n), batch_size=1)
    torch.testing.assert_close(together, chunks, rtol=0, atol=ROUNDED)


def test_samples_have_no_gradient(differentiable):
    model, x, cond = differentiable
    assert not model.sample(len(x), cond, **by(model, STEPS)).requires_grad


def test_log_prob_has_gradients_by_x_and_parameters(differentiable):
    """A step along the gradient of length 1e-4 changes it as the gradient says, to second order: 1e-4 of the change, or so."""
    model, x, cond = differentiable
    needs(model, "log_prob")
    x = x.clone().requires_grad_()
    total = model.log_prob(x, cond, **by(model, STEPS)).sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, [x, *parameters], allow_unused=True, materialize_grads=True)
    size = sum(float(g.square().sum()) for g in gradients)
    step = 1e-4 / math.sqrt(size)
    with torch.no_grad():
        for p, g in zip([x, *parameters], gradients, strict=True):
            p.add_(g, alpha=step)
        ahead = model.log_prob(x, cond, **by(model, STEPS)).sum()
    assert float(ahead - total.detach()) / (step * size) == pytest.approx(1, abs=1e-2)


def test_encode_and_decode_have_gradients(differentiable):
    model, x, cond = differentiable
    for verb in ("encode", "decode"):
        if verb not in model.verbs:
            continue
        given = (x if verb == "encode" else latents(model, x)).detach().requires_grad_()
        getattr(model, verb)(given, cond, **by(model, STEPS)).sum().backward()
        assert given.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_no_verb_changes_the_mode(subject, training):
    model, x, cond = subject
    model.train(training)
    solver = by(model, STEPS)
    model.loss(x, cond), model.sample(1, None if cond is None else cond[:1], **solver), value(model, x, cond, STEPS)
    model.decode(model.encode(x, cond, **solver) if "encode" in model.verbs else x, cond, **solver)
    assert {module.training for module in model.modules()} == {training}


def test_forward_is_the_loss(subject):
    model, x, cond = subject
    one, two = (verb(x, cond, generator=torch.Generator().manual_seed(1)) for verb in (model, model.loss))
    assert torch.equal(one, two)


def test_the_loss_is_a_finite_scalar_with_gradients(differentiable):
    model, x, cond = differentiable
    loss_has_gradients(model, x, cond, {}, 0)
    assert all(p.requires_grad for p in model.parameters())


def test_the_loss_of_blocks_is_the_mean_of_theirs(subject):
    model, x, cond = subject
    half = len(x) // 2
    parts = [(x[:half], None if cond is None else cond[:half]), (x[half:], None if cond is None else cond[half:])]
    together = model.loss(x, cond, generator=generators(2))
    alone = [model.loss(*part, generator=generators(2)[k]) for k, part in enumerate(parts)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-12, atol=1e-12)


def test_the_callers_tensors_are_not_written(subject):
    model, x, cond = subject
    before, given = x.clone(), copy.deepcopy(cond)
    solver = by(model, STEPS)
    model.loss(x, cond, **paired(model, x)), value(model, x, cond, STEPS), model.decode(latents(model, x), cond, **solver)
    model.sample(len(x), cond, **solver)
    assert torch.equal(x, before)
    assert all(torch.equal(one, two) for one, two in zip(tree_leaves(cond), tree_leaves(given), strict=True) if one is not None)


def test_expanded_and_non_contiguous_rows_are_as_good_as_copies(subject):
    model, x, cond = subject
    rows = x[:1].expand_as(x)
    for strided in (rows, non_contiguous(x)):
        expected = value(model, strided.clone(), cond, STEPS)
        torch.testing.assert_close(value(model, strided, cond, STEPS), expected, rtol=0, atol=ROUNDED)
    for strided in (rows, non_contiguous(x)):
        one, two = (
            model.loss(one, cond, **paired(model, one), generator=torch.Generator().manual_seed(1)) for one in (strided, strided.clone())
        )
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_no_rows_give_no_rows(subject):
    model, x, cond = subject
    none = None if cond is None else cond[:0]
    assert model.sample(0, none).shape == (0, *model.shape)
    assert len(value(model, x[:0], none)) == 0
    if "encode" in model.verbs:
        assert model.encode(x[:0], none, **by(model, STEPS)).shape == (0, *model.latent_shape)
    assert model.decode(latents(model, x)[:0], none).shape == (0, *model.shape)


def test_a_copy_and_its_state_dict_are_the_same_model(subject):
    model, x, cond = subject
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        torch.nn.init.zeros_(p)
    assert not torch.equal(value(twin, x, cond, STEPS), value(model, x, cond, STEPS))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(value(twin, x, cond, STEPS), value(model, x, cond, STEPS))


def test_the_same_seed_gives_the_same_samples(subject):
    model, x, cond = subject
    a_seed_gives_the_same_samples(model, x, cond, by(model, STEPS), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_gives_about_the_same_loss(differentiable, dtype):
    """To 2^-5: bfloat16 keeps 2^-8, a few layers of them; the times are float32 in all."""
    model, x, cond = differentiable
    rows = torch.arange(64) % len(x)  # the draws of few rows differ too much
    x, cond = x[rows].bfloat16().double(), None if cond is None else cond[rows]
    noise = torch.randn_like(x).bfloat16().double()
    exact = model.loss(x, cond, **paired(model, noise), generator=torch.Generator().manual_seed(1))
    model = model.to(dtype)
    low = model.loss(x.to(dtype), like(model, cond), **paired(model, noise.to(dtype)), generator=torch.Generator().manual_seed(1))
    low.backward()
    assert float(low.detach()) == pytest.approx(float(exact.detach()), rel=0.5)  # other draws of t: the same size is all that is asked
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_float32_samples_and_likelihoods_stay_float32(subject):
    model, x, cond = subject
    model = model.float()
    cond = like(model, cond)
    coarse = by(model, COARSE)
    assert {model.sample(len(x), cond).dtype, value(model, x.float(), cond).dtype} == {torch.float32}
    needs(model, "log_prob")
    samples, log_prob = model.sample(len(x), cond, log_prob=True, **coarse)
    assert {samples.dtype, log_prob.dtype} == {torch.float32}


def test_bfloat16_samples_keep_their_dtype(subject):
    model, x, cond = subject
    model = model.bfloat16()
    cond = like(model, cond)
    coarse = by(model, COARSE)
    assert model.sample(len(x), cond, **coarse).dtype == torch.bfloat16
    needs(model, "log_prob")
    samples, log_prob = model.sample(len(x), cond, log_prob=True, **coarse)
    assert (samples.dtype, log_prob.dtype) == (torch.bfloat16, torch.float32)
    assert log_prob.isfinite().all()


def _wrong_labels(model, x, cond):
    return (
        (lambda: model.loss(x, torch.tensor([0, 1, 5, 0])), ConditionError, r"cond\[2\] is 5, but labels go from 0 to 2"),
        (lambda: model.loss(x, torch.tensor([0, -1, 1, 0])), ConditionError, r"cond\[1\] is -1"),
        (lambda: model.sample(4, cond.float()), ConditionError, "cond is torch.float32 .* needs integer labels"),
    )


def _wrong_numbers(model, x, cond):
    needs = r"this model needs (vectors|images) \(4, .* built with cond_"
    return (
        (lambda: model.loss(x, torch.tensor([0, 1, 5, 0])), ConditionError, needs),
        (lambda: model.loss(x, cond[..., :1]), ConditionError, needs),
        (lambda: model.sample(4, cond.double()), DtypeError, "cond is torch.float64, but the model's parameters are torch.float32"),
        (lambda: model.sample(4, cond / 0), ConditionError, r"cond\[0\] is not finite, but a condition needs numbers"),
    )


def _wrong_texts(model, x, cond):
    needs = r"but this model needs a TextContext of \(4, 5, 6\) and \(4, 5\)"
    return (
        (lambda: model.loss(x, torch.tensor([0, 1, 5, 0])), ConditionError, f"cond is a Tensor, {needs}"),
        (lambda: model.sample(4, type(cond)(cond.context[:, 1:], cond.pooled)), ConditionError, rf"of \(4, 4, 6\) and .*{needs}"),
        (lambda: model.loss(x, cond[:2]), ConditionError, r"cond has shape \(2,.*\), but its leading dimension must be 4"),
    )


def _wrong_conditions(model, x, cond):
    if not model.conditioning and cond is not None:
        return _wrong_texts(model, x, cond)
    if not model.conditioning:
        return (
            (lambda: model.sample(4, torch.tensor([0, 1, 2, 0])), ConditionError, "cond is torch.int64 .* was built without conditions"),
        )
    return (
        *(_wrong_labels if model.classes else _wrong_numbers)(model, x, cond),
        (lambda: model.loss(x, cond[:2]), ConditionError, r"cond has shape \(2,.*\), but its leading dimension must be 4"),
    )


def test_wrong_input_is_refused_by_name(subject):
    model, x, cond = subject
    model = model.float()
    x, cond = x.float(), like(model, cond)
    part = x[..., :1]
    wrong, needed, any_n, one = (
        re.escape(shape)
        for shape in (f"{tuple(part.shape)}", f"{tuple(x.shape)}", f"(n, {f'{model.shape}'.strip('(,)')})", f"{model.shape}")
    )
    for call, error, message in (
        (lambda: model.loss(part, cond), ShapeError, f"x has shape {wrong}, but this model needs {any_n}"),
        (lambda: model.loss(x[0]), ShapeError, f"x has shape {one}"),
        (lambda: model.log_prob(x.double(), cond), DtypeError, "x is torch.float64, but the model's parameters are torch.float32"),
        (lambda: model.encode(x.long(), cond), DtypeError, "x is torch.int64"),
        (lambda: model.decode(latents(model, x)[..., :1], cond), ShapeError, r"z has shape \(4, .*\), but this model needs \(n, "),
        (lambda: model.loss(x, cond, noise=x[:1]), ShapeError, rf"noise has shape \(1, .*\), but this model needs {needed}"),
        *_wrong_conditions(model, x, cond),
        (lambda: model.sample(4, 3), ConditionError, "cond is int"),
        (lambda: model.sample(-1), UserError, "n is -1"),
        (lambda: model.sample(2, temperature=0.0), UserError, "temperature is 0.0"),
        (lambda: model.sample(2, batch_size=0), UserError, "batch_size is 0"),
        (lambda: model.sample(3, generator=generators(2)), UserError, "generator is a list of 2, but 3 rows"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_what_a_verb_cannot_use_is_refused_by_name(subject):
    model, x, cond = subject
    exact = model.sampler is None
    guidable = not exact or any(hasattr(one, "guided") for one in model.modules())
    wanting = "guidance 2 needs a condition|needs texts to follow|guidance is 2.0, but|cond is None, but this model needs"
    useless = "has no use for it, as its map is exact"
    unknown = UserError, useless if exact else "did you mean 'exact'"
    if "log_prob" not in model.verbs:
        unknown = NotInvertibleError, "so the model has no log_prob; use a model of the velocity"
    if not model.invertible:
        useless, unknown = "has no use for it, as its decoder is one pass", (NotInvertibleError, "so the model has no log_prob; use evalua")
    for call, error, message in (
        (
            lambda: model.sample(len(x), cond, sampler="euler"),
            UserError,
            f"sampler is 'euler', but .*{useless if exact else 'object such as'}",
        ),
        (lambda: model.sample(2, guidance=2.0), (UserError, ConditionError), wanting if guidable else f"{useless}|cond is None"),
        (lambda: model.log_prob(x, cond, divergence="exakt"), *unknown),
        *(
            (
                (lambda: model.log_prob(x, cond, sampler=QUICK), *((UserError, useless) if model.invertible else unknown)),
                (lambda: model.encode(x, cond, sampler=QUICK), UserError, useless),
                (
                    lambda: model.decode(latents(model, x), guidance=2.0),
                    (UserError, ConditionError),
                    wanting if guidable else f"{useless}|cond is None",
                ),
                (lambda: model.loss(x, cond, noise=x), UserError, "noise is given, but a(n autoencoder draws| normalizing flow finds)"),
            )
            if exact
            else ()
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_it_is_a_generative_model(subject):
    assert isinstance(subject[0], GenerativeModel)
