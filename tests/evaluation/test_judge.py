"""Judging a model from outside: what it is made of does not matter."""

import math

import pytest
import torch

import pushforward as pf


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            pf.families.NormalizingFlow(pf.bijections.Permutation([1, 0]), pf.bases.Gaussian((2,))), id="map", marks=pytest.mark.slow
        ),
        pytest.param(pf.families.PathModel(lambda x, t, cond: 0 * x, (2,), sampler=pf.samplers.Euler(2)), id="path"),
    ],
)
def test_a_model_without_parameters_is_judged(model):
    """A velocity of 0 maps noise to itself, and a permutation keeps its density: both cost the entropy of N(0, I).

    That is log2(sqrt(2 pi e)) bits a dimension. Those of one row have the standard deviation sqrt(1 / 2) / sqrt(2) / ln 2 = 0.72, their
    mean over 400 rows 0.036, and 5 of these fail once in 2 million.
    """
    assert not list(model.parameters())
    data = [pf.data.Dataset("normal", torch.randn(400, 2, generator=torch.Generator().manual_seed(k))) for k in range(3)]
    judged, made, labels = pf.evaluation.judge(model, *data, samples=100, evaluations=(1,))
    assert (tuple(made.shape), labels) == ((100, 2), None)
    assert judged.likelihood[0].pooled == pytest.approx(math.log2(math.sqrt(2 * math.pi * math.e)), abs=0.18)


def test_guidance_is_that_of_the_samples_and_not_of_likelihoods():
    model = pf.families.PathModel(lambda x, t, cond: 0 * x, (2,), sampler=pf.samplers.Euler(2))
    data = [pf.data.Dataset("normal", torch.randn(40, 2, generator=torch.Generator().manual_seed(k))) for k in range(3)]
    clip = pf.guidance.Clip(-0.5, 0.5)
    (plain, free, _), (clipped, made, _) = (
        pf.evaluation.judge(model, *data, samples=100, evaluations=(1,), guidance=guidance) for guidance in (None, clip)
    )
    assert made.abs().max() <= 0.5 + 1e-6 < free.abs().max()
    assert clipped.likelihood[0].pooled == plain.likelihood[0].pooled
    assert clipped.quality[0].distance > plain.quality[0].distance
    assert f"with {clip} (likelihoods without)" in clipped.sampler
