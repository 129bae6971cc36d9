"""What a model's parameters owe to code that sees them from outside: optimisers of one vector, and torch.func."""

import copy

import pytest
import torch
from examples import by, examples
from torch import nn

from pushforward.samplers.euler import Euler

MODULES = [one for group in ("models", "families", "nn", "bijections", "bases") for one in examples(group)]


def modules_of(entry):
    """Return the Modules of an example, which may be one, or a tuple that starts with one."""
    made = entry.example()
    return [one for one in (made if isinstance(made, tuple) else (made,)) if isinstance(one, nn.Module)]


@pytest.mark.parametrize("entry", MODULES)
def test_parameters_are_contiguous_and_survive_being_one_vector(entry):
    for module in modules_of(entry):
        strided = [name for name, p in module.named_parameters() if not p.is_contiguous()]
        assert strided == []
        before = [p.detach().clone() for p in module.parameters()]
        if before:
            vector = nn.utils.parameters_to_vector(module.parameters())
            nn.utils.vector_to_parameters(vector.detach().clone(), module.parameters())
            assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("entry", examples("models"))
def test_a_step_of_lbfgs_lowers_the_loss(entry):
    model, x, cond = entry.example()
    optimiser = torch.optim.LBFGS(model.parameters(), lr=1e-3, max_iter=1)

    def closure():
        optimiser.zero_grad()
        loss = model.loss(x, cond, generator=torch.Generator().manual_seed(0))
        loss.backward()
        assert all(p.grad.is_contiguous() for p in model.parameters() if p.grad is not None)
        return loss

    before = optimiser.step(closure)
    assert float(closure().detach()) < float(before.detach())


@pytest.mark.parametrize("entry", examples("models"))
def test_jacobians_of_encode_by_torch_func_are_those_of_autograd(entry):
    model, x, cond = entry.example()
    if "encode" not in model.verbs:
        pytest.skip("has no encode")
    model, x = copy.deepcopy(model).eval(), x[:2]
    labels = None if cond is None else cond[:1]

    def encoded(row):
        return model.encode(row[None], labels, **by(model, Euler(2))).flatten()

    jacobians = torch.func.vmap(torch.func.jacrev(encoded))(x)
    expected = torch.stack([torch.autograd.functional.jacobian(encoded, row) for row in x])
    torch.testing.assert_close(jacobians, expected, rtol=1e-9, atol=1e-9)
