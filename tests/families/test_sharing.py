"""Samples and densities that several processes share: any number of parts, put together, is what one process computes."""

import copy

import pytest
import torch

import pushforward as pf
from pushforward._shares import Share
from pushforward.errors import SolverError
from pushforward.families.sharing import LEADER

LABELS = torch.arange(23) % 2


class Several:
    """A leader whose other processes are copies of the model in this one; a task reaches them as it would by a wire."""

    def __init__(self, model, size):
        self.model, self.size, self.tasks = model, size, []

    def collect(self, task, own):
        self.tasks.append(task.verb)
        others = [task.part(copy.deepcopy(self.model), Share(rank, self.size)) for rank in range(1, self.size)]
        return [own(), *others]


def shared(model, size, act):
    """Return what an act gives alone and led, and what was asked for."""
    torch.manual_seed(5)
    alone, leader = act(), Several(model, size)
    torch.manual_seed(5)
    led = LEADER.set(leader)
    try:
        return alone, act(), leader.tasks
    finally:
        LEADER.reset(led)


def flow(**options):
    torch.manual_seed(0)
    return pf.models.flow_matching(pf.nn.MLP.Config((16,)), (2,), classes=2, drop_cond=0.1, **options).double().eval()


@pytest.mark.parametrize(("size", "batch_size", "given"), [(2, None, True), (3, 9, True), (2, 9, False), (23, 9, True), (23, 23, False)])
@pytest.mark.parametrize("sampler", [pf.samplers.Heun(3), pf.samplers.Dopri5(), pf.samplers.DDPM(4), pf.samplers.EulerMaruyama(3)])
def test_parts_of_samples_are_those_of_one_process_and_leave_its_generator(size, batch_size, given, sampler):
    model = flow()

    def act():
        generator = torch.Generator().manual_seed(3) if given else None
        drawn = model.sample(23, LABELS, sampler=sampler, guidance=2.0, generator=generator, batch_size=batch_size)
        return drawn, torch.rand(1, generator=generator, dtype=torch.float64)

    alone, led, tasks = shared(model, size, act)
    assert tasks == ([] if (batch_size or 23) < size else ["sample"])
    torch.testing.assert_close(led[0], alone[0], rtol=1e-10, atol=1e-10)
    assert torch.equal(led[1], alone[1])


@pytest.mark.parametrize(("size", "batch_size", "given"), [(2, None, True), (5, 9, True), (5, 9, False)])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_parts_of_densities_are_those_of_one_process(size, batch_size, given, divergence):
    model, x = flow(), torch.randn(23, 2, dtype=torch.float64)

    @torch.no_grad()
    def act():
        generator = torch.Generator().manual_seed(3) if given else None
        options = {"sampler": pf.samplers.RK4(4), "divergence": divergence, "generator": generator, "batch_size": batch_size}
        return model.log_prob(x, LABELS, **options), torch.rand(1, generator=generator, dtype=torch.float64)

    alone, led, tasks = shared(model, size, act)
    assert tasks == ["log_prob"]
    torch.testing.assert_close(led[0], alone[0], rtol=1e-10, atol=1e-10)
    assert torch.equal(led[1], alone[1])


def test_samples_with_their_densities_are_shared_too():
    torch.manual_seed(0)
    model = pf.models.nsf(2, layers=2, hidden=(8,)).double().eval()
    alone, led, tasks = shared(model, 3, lambda: model.sample(23, log_prob=True, generator=torch.Generator().manual_seed(1)))
    assert tasks == ["sample"]
    for one, other in zip(led, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_generators_for_each_row_and_other_models_are_left_to_one_process():
    model, other = flow(), flow()
    x, each = torch.randn(4, 2, dtype=torch.float64), [torch.Generator().manual_seed(k) for k in range(4)]

    def act():
        model.log_prob(x, LABELS[:4], sampler=pf.samplers.Euler(1))
        model.sample(4, LABELS[:4], sampler=pf.samplers.Euler(1), generator=each)
        return other.sample(4, LABELS[:4], sampler=pf.samplers.Euler(1))

    assert shared(model, 2, act)[2] == []


def test_a_failure_names_the_row_as_one_process_does():
    model = flow()

    class Broken(pf.samplers.Euler):
        def __call__(self, denoiser, x, *arguments):
            return torch.where(x == noise[20], torch.nan, x)

    noise = model.base.sample(23, generator=torch.Generator().manual_seed(1)).double()
    said = []
    for size in (1, 3):
        led = LEADER.set(Several(model, size) if size > 1 else None)
        with pytest.raises(SolverError) as error:
            model.sample(23, LABELS, sampler=Broken(1), generator=torch.Generator().manual_seed(1))
        LEADER.reset(led)
        said.append(str(error.value))
    assert "20" in said[0]
    assert said[0] == said[1]
