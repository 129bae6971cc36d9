"""Losses and likelihoods, compiled to one graph with their gradients, are the eager ones."""

import subprocess
import sys

import pytest

from pushforward.training.compiling import obstacle

COMPILED = """
import sys, torch
from pushforward import models
from pushforward.families.path_model import PathModel
from pushforward.nn.mlp import MLP
backend = sys.argv[1]
if backend == "inductor":
    import torch._inductor.config
    torch._inductor.config.fallback_random = True  # its own numbers differ

def same(call, compiled, parameters, **tolerance):
    found = []
    for one in (call, compiled):
        torch.manual_seed(1)
        value = one()
        found.append((value, *torch.autograd.grad(value.sum(), parameters)))
    torch.testing.assert_close(*found, **tolerance)

flows = {
    "realnvp": lambda: models.realnvp(6, 2, (8,)),
    "maf": lambda: models.maf(6, 2, (8,)),
    "nsf": lambda: models.nsf(6, 2, 4, (8,)),
    "glow": lambda: models.glow(3, 4, 2, 1, 8, preprocess="none"),
}
for name in sys.argv[2:]:
    torch.manual_seed(1)
    if name == "path":
        model, x, noise = PathModel(MLP(2, 2, (8,), time_features=4), (2,)), torch.randn(5, 2), torch.randn(5, 2)
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        same(lambda: model(x, noise=noise), lambda: compiled(x, noise=noise), list(model.parameters()))
    else:
        model = flows[name]()
        x = torch.randn(3, *model.shape)
        model.initialise(x)
        compiled = torch.compile(model.log_prob, backend=backend, fullgraph=True)
        same(lambda: model.log_prob(x), lambda: compiled(x), list(model.bijection.parameters()), rtol=1e-4, atol=1e-4)
"""
INDUCTOR = [pytest.mark.slow, pytest.mark.skipif(bool(obstacle()), reason=obstacle())]


@pytest.mark.parametrize(
    ("backend", "names"),
    [
        pytest.param(
            "aot_eager", ["path", "realnvp"], id="aot_eager", marks=pytest.mark.slow
        ),  # draws the numbers that the eager one draws
        pytest.param("aot_eager", ["maf", "nsf", "glow"], id="aot_eager-more", marks=pytest.mark.slow),
        pytest.param("inductor", ["path"], id="inductor", marks=INDUCTOR),
    ],
)
def test_compiled_to_one_graph_values_and_gradients_are_the_eager_ones(backend, names):
    """In a process of its own, as dynamo cannot see through the shape checks that tests install."""
    run = subprocess.run([sys.executable, "-c", COMPILED, backend, *names], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
