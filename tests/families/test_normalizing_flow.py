"""NormalizingFlow: its loss, conditions, bases and shapes, and the distribution of torch that it becomes."""

import math
import warnings

import pytest
import torch
from torch.distributions import AffineTransform, Distribution, Independent, Normal

from pushforward import bases, bijections, models
from pushforward.errors import ConditionError, DtypeError, NotInvertibleError, ShapeError, UserError
from pushforward.families.normalizing_flow import NormalizingFlow


@pytest.fixture
def vectors():
    return models.nsf(3, 2, 4, (16,), cond_features=2)


@pytest.fixture
def labels():
    return models.maf(3, 2, (16,), classes=4)


def test_the_loss_is_minus_the_mean_log_prob_in_nats_per_dimension(vectors):
    x, cond = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(vectors.loss(x, cond), -vectors.log_prob(x, cond).mean() / 3)


def test_the_loss_speaks_the_datas_units():
    """It is the bound that bits per dimension are, whatever the preprocessing."""
    model = models.nice(2, hidden=(8,), preprocess="logit", levels=4)
    x = torch.randint(4, (50, 2)).float()
    u = torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.loss(x, generator=torch.Generator().manual_seed(1)), -model.log_prob(x + u).mean() / 2)


def test_a_condition_changes_the_density_and_none_is_the_null_row(vectors, labels):
    x = torch.randn(5, 3)
    assert not torch.equal(vectors.log_prob(x, torch.zeros(5, 2)), vectors.log_prob(x, torch.ones(5, 2)))
    zeros = torch.zeros(5, dtype=torch.long)
    assert not torch.equal(labels.log_prob(x, zeros), labels.log_prob(x, zeros + 1))
    assert not torch.equal(labels.log_prob(x, zeros), labels.log_prob(x))


def test_each_row_has_its_own_condition(vectors):
    x, cond = torch.randn(5, 3), torch.randn(5, 2)
    alone = torch.cat([vectors.log_prob(x[k : k + 1], cond[k : k + 1]) for k in range(5)])
    torch.testing.assert_close(vectors.log_prob(x, cond), alone, rtol=0, atol=1e-5)


def test_wrong_conditions_are_refused_by_name(vectors):
    x = torch.randn(5, 3)
    for call, error, message in (
        (lambda: vectors.log_prob(x), ConditionError, r"cond is None, but this model needs vectors \(5, 2\)"),
        (
            lambda: vectors.log_prob(x, torch.randn(5, 3)),
            ConditionError,
            r"cond is torch.float32 of shape \(5, 3\), but this model needs vectors \(5, 2\)",
        ),
        (lambda: vectors.sample(2, torch.randn(2, 2).double()), DtypeError, "cond is torch.float64, but the model's parameters are"),
        (
            lambda: models.nsf(3).log_prob(x, torch.zeros(5)),
            ConditionError,
            "of shape \\(5,\\), but this flow was built without conditions; build it with classes=K",
        ),
        (lambda: models.nsf(3, classes=2, cond_features=2), ConditionError, "labels, vectors or images; give one of them"),
        (
            lambda: NormalizingFlow(bijections.Scale(3), classes=2, cond_features=2),
            ConditionError,
            "labels, vectors or images; give one of them",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_shape_is_the_bases_or_the_bijections():
    assert NormalizingFlow(bijections.Scale(3)).shape == (3,)
    assert NormalizingFlow(bijections.Scale(4), bases.Logistic((1, 2, 2))).shape == (1, 2, 2)
    assert NormalizingFlow(bijections.Sigmoid(), shape=(2, 2)).shape == (2, 2)
    with pytest.raises(UserError, match="shape is None, but neither the bijection nor the base specifies"):
        NormalizingFlow(bijections.Sigmoid())
    with pytest.raises(ShapeError, match=r"shape is \(2,\), but the bijection is for vectors of 3 features"):
        NormalizingFlow(bijections.Scale(3), shape=(2,))


def test_the_dtype_is_that_of_the_first_floating_parameter_or_else_buffer():
    model = models.maf(3, layers=2, hidden=(8,), norm="batch")
    assert model.dtype == next(model.parameters()).dtype
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    model.bijection.steps[0].net.layers[0].half()  # the first parameter alone
    assert model.dtype == torch.float16
    bare = NormalizingFlow(bijections.Permutation([1, 0]))  # whole numbers, and the base's place
    assert not [*bare.parameters()]
    assert bare.float().dtype == torch.float32
    assert bare.double().dtype == torch.float64


def test_log_prob_in_chunks_is_that_of_all_rows():
    model = models.nsf(3, layers=2, hidden=(8,), cond_features=2, preprocess="standardise")
    x, cond = torch.randn(7, 3), torch.randn(7, 2)
    model.initialise(x, cond)
    whole = model.log_prob(x, cond)
    torch.testing.assert_close(model.log_prob(x, cond, batch_size=3), whole, rtol=0, atol=1e-5)
    assert model.log_prob(x[:0], cond[:0]).shape == (0,)
    with pytest.raises(UserError, match="batch_size is 0"):
        model.log_prob(x, cond, batch_size=0)


def test_steps_of_one_log_determinant_for_all_rows_give_one_a_row():
    expanded = bijections.Transform(AffineTransform(torch.zeros(3), torch.ones(3), event_dim=1))  # one number, expanded to all rows
    for steps in ([bijections.Scale(3)], [bijections.Reverse(3)], [bijections.Scale(3), bijections.Scale(3)], [expanded]):
        total = bijections.Chain(steps)(torch.randn(5, 3))[1]
        assert total.shape == (5,)
        total += torch.arange(5)  # each row has memory of its own


def test_an_image_is_flattened_inside():
    model = models.realnvp(shape=(1, 2, 2), layers=2, hidden=(8,))
    images, log_prob = model.sample(3, log_prob=True)
    assert images.shape == (3, 1, 2, 2)
    torch.testing.assert_close(model.log_prob(images), log_prob, rtol=0, atol=1e-4)


def test_presets_that_cannot_be_are_refused_by_name():
    for call, error, message in (
        (lambda: models.nice(), UserError, "features is None, but a flow must know how many numbers"),
        (lambda: models.nice(3, shape=(2, 2)), UserError, r"features is 3, but events of shape \(2, 2\) have 4 numbers"),
        (lambda: models.realnvp(1), UserError, "features is 1, but a coupling needs at least 2"),
        (lambda: models.realnvp(4, 0), UserError, "layers is 0, but a flow needs at least 1"),
        (lambda: models.maf(4, norm="layer"), UserError, "norm is 'layer', but it is 'none', 'act' or 'batch'"),
        (lambda: models.nsf(4, kind="free"), UserError, "kind is 'free'"),
        (lambda: models.nsf(4, preprocess="logit"), UserError, "levels is None, so there is no one interval"),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: [bijections.AffineCoupling(4), bijections.AffineCoupling(4)], "features 0, 1"),
        (lambda: [bijections.Scale(4), bijections.AdditiveCoupling(4, swap=True)], "features 2, 3"),
    ],
)
def test_features_that_no_coupling_changes_are_warned_of(make, left):
    with pytest.warns(UserWarning, match=f"{left} pass through all couplings unchanged"):
        NormalizingFlow(bijections.Chain(make()))


def test_alternating_or_mixing_couplings_warn_of_nothing():
    for between in ([], [bijections.Reverse(4)], [bijections.LULinear(4)]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            NormalizingFlow(bijections.Chain([bijections.AffineCoupling(4), *between, bijections.AffineCoupling(4, swap=not between)]))


def test_a_conditional_base_reads_the_condition():
    base = bases.ConditionalGaussian((3,), torch.nn.Linear(2, 6))
    model = NormalizingFlow(bijections.Scale(3), base, cond_features=2)
    x, cond = torch.randn(5, 3), torch.randn(5, 2)
    mean, s = base.net(cond).chunk(2, 1)
    expected = Normal(mean, (5 * torch.tanh(s / 5)).exp()).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x, cond), expected)
    samples, log_prob = model.sample(5, cond, log_prob=True)
    torch.testing.assert_close(log_prob, model.log_prob(samples, cond).detach(), rtol=0, atol=1e-5)


def test_a_base_without_a_density_gives_samples_alone():
    class Uniformly(torch.nn.Module):
        shape = (2,)

        def sample(self, n, generator=None):
            return torch.rand(n, 2, generator=generator)

    model = NormalizingFlow(bijections.Scale(2), Uniformly())
    assert model.sample(3).shape == (3, 2)
    with pytest.raises(NotInvertibleError, match="the base Uniformly has no log_prob"):
        model.log_prob(torch.rand(3, 2))


def test_the_bijection_is_what_the_trainer_compiles(labels):
    assert labels.networks() == [labels.bijection]


def test_what_data_start_is_started_in_the_models_units():
    model = models.maf(3, 1, (8,), norm="act", preprocess="standardise")
    x = 100 + 7 * torch.randn(200, 3)
    model.initialise(x)
    z = model.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std(0), torch.ones(3), rtol=1e-4, atol=0)


def test_the_logit_keeps_samples_of_quantised_data_within_their_interval():
    model = models.nice(shape=(2,), hidden=(8,), preprocess="logit", levels=4)
    samples = model.sample(1000, temperature=10.0)
    assert samples.min() > -0.3  # a margin of 0.05 / 0.9 of the interval is left at either end
    assert samples.max() < 4.3
    assert model.loss(torch.randint(4, (5, 2)).float()).isfinite()


# As a distribution of torch.


def test_it_is_a_distribution_with_batch_and_event_shapes(vectors, labels):
    assert isinstance(labels.as_distribution(), Distribution)
    assert (labels.as_distribution().batch_shape, labels.as_distribution().event_shape) == ((), (3,))
    one = vectors.as_distribution(torch.randn(5, 2))
    assert (one.batch_shape, one.event_shape) == ((5,), (3,))
    assert one.sample((4, 2)).shape == one.rsample((4, 2)).shape == (4, 2, 5, 3)
    assert labels.as_distribution().sample().shape == (3,)


def test_its_log_prob_broadcasts_values_against_the_batch(vectors):
    cond, x = torch.randn(5, 2), torch.randn(4, 5, 3)
    one = vectors.as_distribution(cond)
    expected = torch.stack([vectors.log_prob(x[k], cond) for k in range(4)])
    torch.testing.assert_close(one.log_prob(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.log_prob(x[0, 0]), vectors.log_prob(x[0, :1].expand(5, 3), cond), rtol=0, atol=1e-5)
    single = vectors.as_distribution(cond[:1])
    torch.testing.assert_close(single.log_prob(x[0]), vectors.log_prob(x[0], cond[:1].expand(5, 2)), rtol=0, atol=1e-5)


def test_its_draws_have_gradients_by_parameters_and_condition_unless_sampled(vectors):
    cond = torch.randn(5, 2, requires_grad=True)
    one = vectors.as_distribution(cond)
    one.rsample((2,)).sum().backward()
    assert cond.grad.abs().sum() > 0
    assert all(p.grad is not None for p in vectors.parameters())
    assert not one.sample().requires_grad


def test_expand_repeats_what_is_there(vectors, labels):
    wide = labels.as_distribution().expand((7,))
    assert (wide.batch_shape, wide.sample((2,)).shape) == ((7,), (2, 7, 3))
    assert wide.log_prob(torch.zeros(7, 3)).shape == (7,)
    cond, x = torch.randn(5, 2), torch.randn(2, 5, 3)
    grown = vectors.as_distribution(cond).expand((2, 5))
    torch.testing.assert_close(grown.log_prob(x), vectors.as_distribution(cond).log_prob(x), rtol=0, atol=1e-5)
    assert Independent(grown, 1).log_prob(x).shape == (2,)


def test_its_density_is_that_of_a_known_distribution():
    """A scale by exp(s) turns N(0, I) into N(0, exp(-2 s))."""
    flow = NormalizingFlow(bijections.Scale(2))
    torch.nn.init.constant_(flow.bijection.log_scale, math.log(4))
    x = torch.randn(6, 2)
    torch.testing.assert_close(flow.as_distribution().log_prob(x), Normal(0.0, 0.25).log_prob(x).sum(1), rtol=1e-5, atol=1e-5)


def test_wrong_conditions_and_values_are_refused_by_the_distribution_too(vectors):
    with pytest.raises(ConditionError, match="needs vectors"):
        vectors.as_distribution()
    with pytest.raises(ShapeError, match=r"value has shape \(5, 4\), but it must end in the event's shape \(3,\)"):
        vectors.as_distribution(torch.randn(5, 2)).log_prob(torch.randn(5, 4))
