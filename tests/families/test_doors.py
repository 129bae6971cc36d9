"""What comes through a door of any family: a table of bad inputs, each of which is one sentence of the library's own."""

import math

import numpy
import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.conditions import TextContext
from pushforward.errors import CheckpointError, ConditionError, PushforwardError, ShapeError, UserError
from pushforward.families import ContinuousFlow, NormalizingFlow, PathModel

X, LABELS, FEW = torch.randn(4, 2), torch.tensor([0, 1, 2, 0]), pf.samplers.Euler(2)
MODELS = {
    "path": lambda: pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=3, sampler=FEW),
    "continuous": lambda: ContinuousFlow(pf.nn.MLP(2, 2, (8,), time_features=4, classes=3), (2,), classes=3, sampler=FEW),
    "normalizing": lambda: pf.models.realnvp(2, layers=2, hidden=(8,), classes=3),
}
STATES = {
    "list": X.tolist(),
    "numpy": X.numpy(),
    "None": None,
    "double": X.double(),
    "complex": X.to(torch.complex64),
    "wider": torch.randn(4, 3),
    "one row": X[0],
    "scalar": torch.tensor(1.0),
    "on another device": X.to("meta"),
    "sparse": X.to_sparse(),
}
CONDS = {
    "float": torch.zeros(4),
    "too large": torch.full((4,), 9),
    "negative": torch.full((4,), -1),
    "short": LABELS[:3],
    "scalar": LABELS[0],
    "int": 1,
    "list": [0, 1, 0, 1],
    "numpy": LABELS.numpy(),
    "str": "cat",
    "dict": {"label": LABELS},
    "column": LABELS[:, None],
    "on another device": LABELS.to("meta"),
    "a record": TextContext(torch.randn(4, 3, 6), torch.randn(4, 5)),
}
GENERATORS = {
    "seed": 3,
    "numpy": numpy.random.default_rng(0),
    "None in a list": [torch.Generator(), None],
    "empty": [],
    "five": [torch.Generator() for _ in range(5)],
    "three": [torch.Generator() for _ in range(3)],
}
SAMPLING = [
    *(("n", n) for n in (3.0, "3", True, torch.tensor(3), -1, None, 2**70)),
    *(("temperature", t) for t in (math.nan, math.inf, torch.tensor(1.0), 0, "1", None, True)),
    *(("batch_size", size) for size in (0, 2.0, "2", torch.tensor(2), True)),
    *(("guidance", g) for g in ("cfg", math.nan, torch.tensor(3.0), [3.0])),
    *(("sampler", s) for s in ("euler", pf.samplers.Euler, 4)),
]


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.mark.parametrize("x", STATES.values(), ids=STATES)
@pytest.mark.parametrize("verb", ["loss", "log_prob", "encode", "decode", "initialise"])
def test_a_state_that_does_not_fit_is_refused(model, verb, x):
    with pytest.raises(PushforwardError, match="^[xz] (is|has) "):
        getattr(model, verb)(x, LABELS)


@pytest.mark.parametrize("cond", CONDS.values(), ids=CONDS)
@pytest.mark.parametrize("verb", ["loss", "log_prob", "encode", "decode", "sample"])
def test_a_condition_that_does_not_fit_is_refused(model, verb, cond):
    with pytest.raises(ConditionError, match="^cond"):
        getattr(model, verb)(4 if verb == "sample" else X, cond)


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
@pytest.mark.parametrize("verb", ["loss", "log_prob", "sample"])
def test_what_is_no_randomness_is_refused(model, verb, generator):
    with pytest.raises(UserError, match="^generator"):
        getattr(model, verb)(4 if verb == "sample" else X, LABELS, generator=generator)


@pytest.mark.parametrize(("name", "value"), SAMPLING)
def test_an_option_of_sampling_that_is_none_is_refused(model, name, value):
    with pytest.raises(UserError, match=f"^{name} is "):
        model.sample(**{"n": 4, "cond": LABELS, name: value})


def test_a_row_that_is_not_a_number_keeps_its_density_unknown(model):
    x = X.clone()
    x[1, 0] = math.nan
    assert model.log_prob(x, LABELS).isnan().tolist() == [False, True, False, False]


def test_weights_of_another_architecture_are_refused(model):
    with pytest.raises(CheckpointError, match=r"do not fit the model: \d+ missing \(first .*; it was trained with another architecture"):
        model.load_state_dict(pf.models.nice(2, hidden=(4,)).state_dict())
    wide = {key: torch.cat((one, one)) if one.ndim else one for key, one in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"is \(.*\), the model's is \(.*\)"):
        model.load_state_dict(wide)


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize("name", ["classes", "levels"])
def test_a_number_of_classes_or_levels_that_is_none_is_refused(name, value):
    for build in (lambda **options: PathModel(lambda x, t, cond=None: x, (2,), **options), pf.models.rectified_flow, pf.models.realnvp):
        with pytest.raises(UserError, match=f"{name} is {value!r}, but"):
            build(**({"features": 2} if build is pf.models.realnvp else {}), **{name: value})


# A network whose output has another shape would broadcast: each output against the targets of all rows.

WRONG = {
    "without its axis": lambda x: x[:, 0],
    "an axis more": lambda x: x[..., None],
    "one for all": lambda x: x[:1],
    "a tuple": lambda x: (x,),
}


def _paths(net):
    path = pf.paths.VariancePreserving()
    return {
        "plain": PathModel(net, (1,), sampler=FEW),
        "noise": PathModel(net, (1,), path, "noise", sampler=FEW),
        "preconditioned": PathModel(pf.nn.Preconditioned(net, path), (1,), path, "data", sampler=FEW),
        "following": PathModel(net, (1,), path, "noise", sampler=FEW).follow(pf.paths.Linear()),
        "continuous": ContinuousFlow(net, (1,), sampler=FEW, loss_sampler=FEW),
    }


@pytest.mark.parametrize("kind", _paths(lambda x, t, cond=None: x))
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_output_of_another_shape_is_refused_by_every_verb(kind, wrong):
    model, x = _paths(lambda x, t, cond=None: wrong(x))[kind], torch.randn(8, 1)
    calls = [lambda: model.loss(x), lambda: model.log_prob(x), lambda: model.encode(x), lambda: model.decode(x), lambda: model.sample(8)]
    for call in calls:
        with pytest.raises((ShapeError, TypeError), match=r"returned|maps|field"):
            call()
    if kind != "continuous":
        with pytest.raises(ShapeError, match=r"returned"):
            model.sample(8, torch.zeros(8), guidance=pf.guidance.CFG(2.0, torch.ones(8)))


def test_reflow_and_distill_refuse_it_too():
    model = PathModel(lambda x, t, cond=None: x[:, 0], (1,), sampler=FEW)
    with pytest.raises(ShapeError, match=r"the network returned shape \(4,\) for x of shape \(4, 1\), but it must return x's shape"):
        pf.reflow(model, 4)


class _Summed(nn.Module):
    """A base whose log_prob forgets to sum, as torch's Normal does."""

    shape = (2,)

    def sample(self, n, *, generator=None):
        return torch.randn(n, 2)

    def log_prob(self, z):
        return torch.distributions.Normal(0.0, 1.0).log_prob(z)


def test_a_base_that_does_not_sum_over_the_event_is_refused():
    flow = NormalizingFlow(pf.bijections.AffineCoupling(2), _Summed(), shape=(2,))
    for call in (lambda: flow.loss(X[:2]), lambda: flow.log_prob(X[:2]), lambda: flow.sample(2, log_prob=True)):
        with pytest.raises(ShapeError, match=r"the log_prob of the base _Summed is a tensor of shape \(2, 2\), but .* \(2,\)"):
            call()


def test_a_base_that_draws_another_shape_is_refused():
    class Flat(_Summed):
        def sample(self, n, *, generator=None):
            return torch.randn(n)

    with pytest.raises(ShapeError, match=r"the base Flat drew of shape \(3,\), but 3 events of this model need \(3, 2\)"):
        PathModel(lambda x, t, cond=None: x, (2,), base=Flat()).sample(3)


# Chunks, supports and guidance.


@pytest.mark.parametrize(
    "sampler", [FEW, pf.samplers.DDPM(3), pf.samplers.EulerMaruyama(3, noise="brownian")], ids=["ode", "fresh", "brownian"]
)
@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_samples_of_a_list_of_generators_do_not_depend_on_batch_size(sampler, k, size):
    model = pf.models.ddpm(pf.nn.MLP.Config((8,)), (2,))

    def sampled(batch_size):
        generators = [torch.Generator().manual_seed(seed) for seed in range(k)]
        x = model.sample(6, sampler=sampler, generator=generators, batch_size=batch_size)
        return x, torch.cat([torch.rand(1, generator=one) for one in generators])

    for cut, whole in zip(sampled(size), sampled(None), strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [None, 2])
def test_estimated_densities_do_not_depend_on_batch_size(k):
    model = MODELS["path"]()

    def estimated(batch_size):
        seeds = [torch.Generator().manual_seed(seed) for seed in range(k or 1)]
        return model.log_prob(X, LABELS, divergence="hutchinson", generator=seeds if k else seeds[0], batch_size=batch_size)

    torch.testing.assert_close(estimated(3), estimated(None), rtol=0, atol=1e-5)


def test_samples_of_one_generator_by_an_ode_do_not_depend_on_batch_size():
    model = MODELS["path"]()
    one, two = (model.sample(40, generator=torch.Generator().manual_seed(0), batch_size=size) for size in (7, None))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def _logit_models():
    return [
        pf.models.realnvp(2, layers=2, hidden=(8,), preprocess="logit", levels=16),
        pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), preprocess="logit", levels=16, sampler=FEW),
    ]


@pytest.mark.parametrize("model", _logit_models(), ids=["flow", "path"])
def test_outside_the_support_the_density_is_zero_and_gradients_inside_are_numbers(model):
    x = torch.tensor([[3.0, 4.0], [50.0, 3.0], [-50.0, 50.0]], requires_grad=True)
    values = model.log_prob(x)
    assert values.isneginf().tolist() == [False, True, True]
    alone = model.log_prob(x[:1])
    torch.testing.assert_close(values[:1], alone, rtol=0, atol=1e-5)
    grads = [torch.autograd.grad(one.sum(), [x, *model.parameters()], allow_unused=True, retain_graph=True) for one in (values, alone)]
    for whole, inside in zip(*grads, strict=True):
        assert (whole is None) == (inside is None)
        if whole is not None:
            torch.testing.assert_close(whole[:1] if whole.shape == x.shape else whole, inside[:1] if inside.shape == x.shape else inside)
    assert grads[0][0].isfinite().all()
    if model.sampler is None:
        assert model.encode(x)[1:, 0].isnan().all()


def test_guidance_without_training_for_it_is_refused():
    labels = LABELS[:2] % 2
    for untrained in (
        pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=2),
        pf.models.tarflow((1, 4, 4), classes=2, drop_cond=0.0),
    ):
        with pytest.raises(ConditionError, match=r"drop_cond is 0, so .*; train with drop_cond=0.1"):
            untrained.sample(2, labels, guidance=3.0)
        assert untrained.sample(2, labels, guidance=1.0).shape[0] == 2
    path = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=2, sampler=FEW)
    assert path.sample(2, labels, guidance=pf.guidance.CFG(3.0, 1 - labels)).shape == (2, 2)
    own = PathModel(lambda x, t, cond=None: x if cond is None else -x, (2,), classes=2, sampler=FEW)  # knows None by itself
    assert own.sample(2, labels, guidance=3.0).shape == (2, 2)
