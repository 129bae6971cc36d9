"""Laws of what the page shows: its samples are those of `sample`, and two models start from the same noise."""

import pytest
import torch

import pushforward as pf
from pushforward.app.asked import Asked, asked, noise_of
from pushforward.app.samplers import OWN, names_of, sampler_of
from pushforward.app.states import check_comparable, drawn, together
from pushforward.errors import UserError
from pushforward.families.family import Family

NAMES = ("digits", "ddpm", "meanflow", "moons", "nsf", "maf", "ffjord", "table")
SOME = ("Euler", "EulerMaruyama", "UniPC", "Renoise", "Jumps")


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_the_last_state_is_the_sample_of_the_seed_bit_for_bit(name, which, models):
    one = models[name]
    for sampler in names_of(one):
        if which == "all" or sampler in SOME:
            settings = asked(one, 4, seed=3, sampler=sampler, evaluations=6)
            *_, frame = drawn(one.model, settings)
            generator = torch.Generator().manual_seed(3)
            assert torch.equal(frame.x, one.model.sample(4, settings.cond, sampler=settings.sampler, generator=generator)), sampler


@pytest.mark.parametrize("name", NAMES)
def test_the_first_state_is_the_noise_and_comes_before_the_network_is_called(name, models):
    one = models[name]
    settings = asked(one, 4, seed=3)
    hooks = [network.register_forward_pre_hook(lambda *_: pytest.fail("the network was called")) for network in one.model.networks()]
    frame = next(drawn(one.model, settings))
    for hook in hooks:
        hook.remove()
    noise = one.model.base.sample(4, generator=torch.Generator().manual_seed(3))
    assert frame.step == 0
    assert torch.equal(frame.x, one.model._from_model(noise))


def test_each_step_is_one_state(models):
    frames = list(drawn(models["digits"].model, asked(models["digits"], 2, sampler="Heun", evaluations=20)))
    assert [frame.step for frame in frames] == [*range(11), 10]  # 10 steps of two evaluations, and the sample
    assert [frame.last for frame in frames] == [False] * 11 + [True]
    assert {frame.total for frame in frames[1:]} == {10}


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("name", ["digits", "meanflow", "ffjord"])
def test_no_sampler_takes_more_evaluations_than_were_chosen(name, evaluations, models):
    for sampler in names_of(models[name]):
        made = sampler_of(models[name].model, sampler, evaluations, 200)
        least = None if made is None or made.evaluations is None else type(made)(steps=1).evaluations if hasattr(made, "steps") else 1
        assert least is None or made.evaluations <= max(evaluations, least), sampler


def test_samplers_that_do_not_fit_a_model_are_not_offered(models):
    assert names_of(models["nsf"]) == (OWN,)
    assert "EulerMaruyama" in names_of(models["digits"])
    assert "EulerMaruyama" not in names_of(models["ffjord"])
    assert "Jumps" in names_of(models["meanflow"])
    assert "Jumps" not in names_of(models["digits"])


def test_two_models_start_from_the_same_noise(models):
    a, b = models["digits"], models["meanflow"]
    settings = [asked(one, 5, seed=9, sampler="Heun", evaluations=count) for one, count in ((a, 4), (b, 8))]
    assert torch.equal(noise_of(a.model, settings[0]), noise_of(b.model, settings[1]))
    frames = list(together(drawn(a.model, settings[0]), drawn(b.model, settings[1])))
    assert torch.equal(frames[0][0].x, frames[0][1].x)  # the same units, as both have the same levels
    assert [left.step for left, _ in frames] == [0, 1, 2, 2, 2, 2]
    assert frames[-1][0].last
    assert frames[-1][1].last


def test_noise_of_another_deviation_is_the_same_up_to_it():
    a, b = (pf.models.rectified_flow(pf.nn.MLP.Config((4,)), shape=(2,)) for _ in range(2))
    b.base = pf.bases.Gaussian((2,), std=3.0)
    assert torch.allclose(3 * noise_of(a, Asked(6, 1)), noise_of(b, Asked(6, 1)))


def test_one_model_beside_itself_draws_equal_samples(models):
    one = models["moons"]
    settings = asked(one, 5, seed=2, sampler="Euler", evaluations=3)
    *_, (left, right) = together(drawn(one.model, settings), drawn(one.model, settings))
    assert torch.equal(left.x, right.x)


def test_models_without_a_common_noise_are_refused(models):
    with pytest.raises(UserError, match=r"digits has events of shape \(1, 4, 4\) and moons of \(2,\)"):
        check_comparable(models["digits"].model, models["moons"].model, ("digits", "moons"))


def test_latent_sliders_keep_the_distribution_of_noise():
    model = pf.models.rectified_flow(pf.nn.MLP.Config((1,)), shape=(8000,))
    noise = noise_of(model, Asked(1, 0, slides=(1.5, -0.5, 3.0)))
    # mean of 8,000 normal numbers: deviation 0.011; their variance: 0.016. Four deviations each, with a fixed seed.
    assert abs(float(noise.mean())) < 0.045
    assert abs(float(noise.var()) - 1) < 0.064


def test_nothing_of_a_model_is_changed_by_a_request(models):
    for one in models.values():
        before = {key: value.clone() for key, value in one.model.state_dict().items()}
        state = {key: value for key, value in vars(one.model).items() if not key.startswith("_")}
        list(drawn(one.model, asked(one, 3)))
        assert isinstance(one.model, Family)
        assert all(torch.equal(value, before[key]) for key, value in one.model.state_dict().items())
        assert all(vars(one.model)[key] is value for key, value in state.items())
