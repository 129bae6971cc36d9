# --8<-- [start:new]
import functools
from collections.abc import Sequence

import torch

import pushforward as pf
from pushforward.models.preset import Net, built, preset
from pushforward.registry import api_export

export = functools.partial(api_export, package="my_papers")


@export("models.trigonometric_flow")
@preset
def trigonometric_flow(net: Net = None, shape: Sequence[int] = (2,), *, classes: int | None = None) -> pf.families.PathModel:
    """Flow matching on a quarter of a circle with logit-normal times.

    Args:
        net: a network, its configuration, or None for the default.
        shape: shape of one event.
        classes: number of class labels, or None.
    """
    return pf.families.PathModel(
        built(net, shape, classes), shape, pf.paths.Cosine(), "velocity", pf.times.LogitNormal(0.0, 1.0), classes=classes
    )


# --8<-- [end:new]


# --8<-- [start:use]
model = pf.models.trigonometric_flow(pf.nn.MLP.Config(hidden=(32, 32)))
print(model.loss(torch.randn(64, 2)).item() > 0, model.sample(3).shape)
print(model.config["model"]["net"])
same = pf.load(pf.save(model, "model"))  # the preset's arguments are in the model's config.yaml
print(torch.equal(same.net.out.weight, model.net.out.weight))
# --8<-- [end:use]
