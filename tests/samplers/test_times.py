"""The grid of given times: the network is evaluated exactly there, from every end, in both directions, and a wrong list is refused."""

import pytest
import torch

import pushforward as pf
from pushforward.errors import UserError
from pushforward.formats.config import from_plain, to_plain
from pushforward.samplers.sampler import Sampler

pytestmark = pytest.mark.usefixtures("float64")
GIVEN = (1.0, 0.7, 0.25, 0.1)


def calls(sampler, path, kind="velocity"):
    """Return the times at which a model's network is called for a sample."""
    times = []

    def net(x, t, cond):
        times.append(float(t[0]))
        return torch.tanh(x)

    assert pf.families.PathModel(net, (2,), path, kind).sample(3, sampler=sampler).isfinite().all()
    return times


@pytest.mark.parametrize("kind", [pf.samplers.DDIM, pf.samplers.DDPM, pf.samplers.DPMSolverPP, pf.samplers.UniPC, pf.samplers.Euler])
@pytest.mark.parametrize("path", [pf.paths.Linear(), pf.paths.Discrete()], ids=["Linear", "Discrete"])
def test_the_network_is_evaluated_at_the_given_times(kind, path):
    assert calls(kind(4, grid=pf.samplers.Times(GIVEN)), path) == pytest.approx(GIVEN)


def test_a_path_with_noise_left_ends_with_the_expected_data():
    assert calls(pf.samplers.DDIM(4, grid=pf.samplers.Times(GIVEN)), pf.paths.VariancePreserving()) == pytest.approx([*GIVEN, 1e-4])


def test_uniform_times_given_one_by_one_are_the_grid_uniform():
    model = pf.families.PathModel(lambda x, t, cond: torch.tanh(x), (2,))
    x = torch.randn(5, 2)
    for given, plain in (
        (pf.samplers.Heun(4, pf.samplers.Times((1.0, 0.75, 0.5, 0.25))), pf.samplers.Heun(4)),
        (pf.samplers.DDIM(4, grid=pf.samplers.Times((1.0, 0.75, 0.5, 0.25))), pf.samplers.DDIM(4)),
    ):
        assert torch.equal(model.decode(x, sampler=given), model.decode(x, sampler=plain))
        assert torch.equal(model.encode(x, sampler=given), model.encode(x, sampler=plain))
        assert torch.equal(model.log_prob(x, sampler=given), model.log_prob(x, sampler=plain))


def test_a_part_of_the_interval_has_the_times_inside_it():
    grid = pf.samplers.Times(GIVEN)
    assert grid(0.8, 0.2, 4) == [0.8, 0.7, 0.25, 0.2]
    assert grid(0.0, 0.8, 4) == [0.0, 0.1, 0.25, 0.7, 0.8]
    assert grid.to_data(0.5, 4, pf.paths.Discrete()) == [0.5, 0.25, 0.1, 0.0]


def test_a_config_file_keeps_it():
    sampler = pf.samplers.DDIM(4, grid=pf.samplers.Times(list(GIVEN)))
    assert hash(sampler) == hash(pf.samplers.DDIM(4, grid=pf.samplers.Times(GIVEN)))
    assert from_plain(to_plain(sampler), Sampler, "sampler") == sampler


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pf.samplers.Times(()), "times is empty, but it lists the times at which steps start"),
        (lambda: pf.samplers.Times(0.5), "times is 0.5, but it must be a sequence of finite numbers"),
        (lambda: pf.samplers.Times(torch.tensor(0.5)), r"times is a tensor of shape \(\), but it must be a sequence"),
        (lambda: pf.samplers.Times((1.0, 0.5, 0.5)), "times has 0.5 after 0.5, but times fall"),
        (lambda: pf.samplers.Times((0.1, 0.5)), "times has 0.5 after 0.1, but times fall, from noise at t = 1"),
        (lambda: pf.samplers.Times((1.0, 0.0)), "times has 0.0, but steps start at times above 0 and at most 1; leave out the end"),
        (lambda: pf.samplers.Times((999, 500)), "times has 999, but steps start at times above 0 and at most 1"),
        (lambda: pf.samplers.Times((1.0, float("nan"))), r"times is \(1.0, nan\), but it must be a sequence of finite numbers"),
        (
            lambda: calls(pf.samplers.DDIM(grid=pf.samplers.Times(GIVEN)), pf.paths.Linear()),
            "steps is 50, but the grid lists 4 times.*steps=4",
        ),
        (
            lambda: calls(pf.samplers.DDIM(2, grid=pf.samplers.Times((1.0, 0.0005))), pf.paths.Discrete()),
            r"times has 0.0005, but Discrete.* is defined from 0.001 to 1",
        ),
        (lambda: calls(pf.samplers.Euler(2, pf.samplers.Times((0.9, 0.5))), pf.paths.Linear()), "the first time is 0.9.* put 1 first"),
    ],
)
def test_a_wrong_list_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
