"""Where laws find their subjects: the registry's examples, and the analytic truth as a model."""

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from pushforward import registry
from pushforward.data.mixture import GaussianMixture, three_gaussians
from pushforward.families.on_path import OnPath
from pushforward.families.path_model import PathModel
from pushforward.paths import Linear
from pushforward.samplers.dopri5 import Dopri5
from pushforward.testing.laws import non_contiguous as non_contiguous
from pushforward.times import Times

TIGHT = Dopri5(1e-10, 1e-10)
SOLVED = 1e-9  # a "solved" thing runs at tolerance 1e-10 and is right within 10 times that


def examples(group, *, of=None, **facts):
    """Return the entries of a group that come with an example (and are a kind of `of`), as parameters with their names."""
    entries = [one for one in registry.entries(group, **facts) if one.example is not None]
    return [pytest.param(one, id=one.name) for one in entries if of is None or (isinstance(one.thing, type) and issubclass(one.thing, of))]


def things(group, *, of=None):
    """Return the examples themselves, made when the test runs."""
    return [pytest.param(functools.partial(_made, one.values[0]), id=one.id) for one in examples(group, of=of)]


def _made(entry):
    return entry.example()


def kinds_of(paths, count=1):
    """Return (path, kind, ...) for all predictions that each path has, as parameters: "v" where it is variance preserving."""
    return [
        pytest.param(one.values[0], *kinds, id="-".join((one.id, *kinds)))
        for one in paths
        for kinds in itertools.product(one.values[0]().kinds, repeat=count)
    ]


def truth_model(path=None, prediction="velocity", *, truth=None, sampler=TIGHT, exact_base=True, **options):
    """Return the PathModel that perfect training on a Gaussian mixture would give, and the mixture.

    With `exact_base` the base is the mixture's own marginal at the interval's end, where the default N(0, sigma²) forgets the little data
    that is left in it.
    """
    path = Linear() if path is None else path
    truth = three_gaussians(torch.float64) if truth is None else truth
    _, high = path.interval_for(prediction)
    base = marginal(truth, path, high) if exact_base else None
    return PathModel(truth.net(path, prediction), truth.shape, path, prediction, base=base, sampler=sampler, **options), truth


def marginal(truth: GaussianMixture, path, t: float) -> GaussianMixture:
    at = torch.tensor(t, dtype=torch.float64)
    return truth.marginal(float(path.alpha(at)), float(path.sigma(at)))


def by(model, sampler):
    """Return the argument that makes a model solve with this sampler: none for one whose map is exact, or that solves no ODE."""
    return {} if model.sampler is None or "encode" not in model.verbs else {"sampler": sampler}


def latents(model, x):
    """Return what `decode` takes, equally many: x itself where noise has its shape."""
    return x if model.latent_shape == model.shape else x.flatten(1)[:, : math.prod(model.latent_shape)].unflatten(1, model.latent_shape)


def paired(model, noise):
    """Return the argument that pairs data with noise: none for a model that finds each row's noise by itself."""
    return {"noise": noise} if isinstance(model, OnPath) else {}


class At(Times):
    """All of training at one time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)


def generators(n, seed=0):
    """Return n generators, one a sample."""
    return [torch.Generator().manual_seed(1000 * seed + k) for k in range(n)]


def one_in(every, values, first=0):
    """Return all values of a parameter, of which only one in `every` is quick, from the place `first` on."""
    values = [one if isinstance(one, type(pytest.param())) else pytest.param(one) for one in values]
    return [
        one if k % every == first else pytest.param(*one.values, id=one.id, marks=[*one.marks, pytest.mark.slow])
        for k, one in enumerate(values)
    ]


def some_of(*axes, every=None):
    """Return all combinations of lists of parameters, of which only some are quick: one in `every`, in which all values occur.

    By default one in as many as the shortest list has: every pair of values of two lists occurs in a quick test of three lists. A value
    that is slow by itself stays so.
    """
    every = min(map(len, axes)) if every is None else every
    axes = [[one if isinstance(one, type(pytest.param())) else pytest.param(one) for one in axis] for axis in axes]
    places = list(itertools.product(*(range(len(axis)) for axis in axes)))
    assert all({at[k] for at in places if sum(at) % every == 0} == set(range(len(axis))) for k, axis in enumerate(axes))
    found = []
    for at in places:
        chosen = [axis[k] for axis, k in zip(axes, at, strict=True)]
        values = [value for one in chosen for value in one.values]
        marks = [mark for one in chosen for mark in one.marks] + ([] if sum(at) % every == 0 else [pytest.mark.slow])
        found.append(pytest.param(*values, id="-".join(str(one.id or one.values[0]) for one in chosen), marks=marks))
    return found
