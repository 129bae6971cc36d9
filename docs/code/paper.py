# --8<-- [start:new]
"""my_papers/trigonometric_flow.py: flow matching on a quarter of a circle.

What it adds: x_t = cos(pi t / 2) data + sin(pi t / 2) noise, with most of the training in the middle of the path.
"""

import functools

import torch

import pushforward as pf
from pushforward.models.path_options import PathOptions
from pushforward.models.preset import preset
from pushforward.registry import api_export

export = functools.partial(api_export, package="my_papers")


def _example() -> tuple:
    return trigonometric_flow(pf.nn.MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.trigonometric_flow", example=_example)
@preset(sampler=pf.samplers.Heun(20))
def trigonometric_flow(shared: PathOptions, *, std: float = 1.0) -> pf.families.PathModel:
    """Regress the velocity of the cosine path at logit-normal times.

    Args:
        std: standard deviation of logit(t) in training.

    Returns:
        A PathModel on the cosine path with velocity prediction.
    """
    times = pf.times.LogitNormal(0.0, std)
    return pf.families.PathModel(shared.network(), shared.event_shape, pf.paths.Cosine(), "velocity", times, **shared.family_options)


# --8<-- [end:new]


# --8<-- [start:use]
import inspect

print(list(inspect.signature(pf.models.trigonometric_flow).parameters))
model = pf.models.trigonometric_flow(pf.nn.MLP.Config((32, 32)), (2,), std=0.5, classes=2)
print(model.loss(torch.randn(64, 2), torch.randint(2, (64,))).item() > 0, model.sample(3, torch.tensor([0, 1, 1])).shape)
same = pf.load(pf.save(model, "model"))  # the preset's arguments are in the model's config.yaml
print(same.config == model.config, torch.equal(same.net.out.weight, model.net.out.weight))
# --8<-- [end:use]

# --8<-- [start:laws]
model, x, cond = _example()
model, x, exact = model.double(), x.double(), pf.samplers.Dopri5(1e-9, 1e-9)
back = model.decode(model.encode(x, cond, sampler=exact), cond, sampler=exact)
print("decode inverts encode:", bool((back - x).abs().max() < 1e-6))
samples, log_prob = model.sample(4, cond, sampler=exact, log_prob=True)
print("samples and log_prob agree:", bool((model.log_prob(samples, cond, sampler=exact) - log_prob).abs().max() < 1e-6))
# --8<-- [end:laws]

# What the page gives as a command.
import contextlib
import io

from pushforward.cli import main

command = ["train", "trigonometric_flow", "--data", "moons", "--std", "0.5", "--steps", "100", "net:mlp", "--net.hidden", "32", "32"]
with contextlib.redirect_stdout(io.StringIO()):
    assert main(command) == 0
assert pf.load("runs/trigonometric_flow-moons").times == pf.times.LogitNormal(0.0, 0.5)
