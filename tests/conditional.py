"""Networks and models under every kind of condition, and of series and volumes, next to the registry's examples: subjects of the laws."""

from types import SimpleNamespace

import pytest
import torch

import pushforward as pf
from pushforward.bijections.columns import moved

VECTORS = {"cond_features": 3}


def _unet(shape=(1, 2, 2), **condition):
    return pf.nn.UNet(shape, channels=4, multipliers=(1,), depth=1, attention=0, heads=1, **condition)


def _dit(shape=(1, 2, 2), patch=1, **condition):
    return pf.nn.DiT(shape, patch=patch, width=8, depth=1, heads=2, **condition)


def _dit_of_volumes(shape, **condition):
    return pf.nn.DiT(shape, patch=1, width=12, depth=1, heads=2, **condition)


def _cond(condition, n=4):
    """Return labels, or conditions whose means and deviations are not 0 and 1."""
    if "classes" in condition:
        return torch.arange(n) % condition["classes"]
    shape = (3,) if "cond_features" in condition else condition["cond_image"]
    return 0.5 + 0.7 * torch.randn(n, *shape)


def _network(make, shape, **condition):
    return lambda: (make(shape, **condition), (torch.randn(4, *shape), torch.rand(4), _cond(condition)))


def _path_model(make, shape=(1, 2, 2), **condition):
    def example():
        own = {one: value for one, value in condition.items() if one in ("classes", "cond_features", "cond_image")}
        net = make(shape, time_scale=30.0, **condition)  # an ODE that changes a thousand times along its way would be stiff
        for p in net.parameters():
            if not (p.is_meta or p.any()):  # what starts at zero; larger numbers would make a stiff ODE
                torch.nn.init.normal_(p, std=0.001)
        return pf.families.PathModel(net, shape, drop_cond=0.1, **own), torch.randn(4, *shape), _cond(condition)

    return example


def _preset(name, shape, *args, **options):
    def example():
        model = getattr(pf.models, name)(*args, shape=shape, **options)
        if hasattr(model, "bijection"):
            for p in moved(model.bijection).parameters():
                p.data.mul_(0.5)  # a density without peaks that a grid over the plane would miss
        return model, torch.randn(4, *shape), _cond(options)

    return example


def _subjects(slow=(), **examples):
    found = {name: SimpleNamespace(name=name, example=example) for name, example in examples.items()}
    return [pytest.param(one, id=name, marks=[pytest.mark.slow] * (name in slow)) for name, one in found.items()]


NETWORKS = _subjects(
    unet_of_vectors=_network(_unet, (1, 2, 2), **VECTORS),
    unet_of_images=_network(_unet, (1, 2, 4), cond_image=(2, 2, 4)),
    unet_of_small_images=_network(_unet, (1, 4, 4), cond_image=(2, 2, 2)),
    dit_of_vectors=_network(_dit, (1, 2, 2), **VECTORS),
    dit_of_large_images=_network(_dit, (1, 2, 4), cond_image=(1, 4, 8)),
    unet_by_attention=_network(_unet, (1, 2, 4), cond_image=(2, 6, 4), cond_by="attention"),
    dit_by_attention=_network(_dit, (1, 2, 4), cond_image=(1, 3, 2), cond_by="attention", cond_patch=1),
    unet_on_series=_network(_unet, (2, 4), classes=3),
    unet_on_volumes=_network(_unet, (1, 2, 2, 4), cond_image=(1, 4, 4, 8)),
    dit_on_series=_network(_dit, (2, 4), patch=2, cond_image=(1, 6), cond_by="attention", cond_patch=3),
    dit_on_volumes=_network(_dit_of_volumes, (2, 1, 2, 3), classes=3),
    mlp_of_vectors=_network(lambda shape, **condition: pf.nn.MLP.Config((8,)).build(shape, **condition), (2,), **VECTORS),
    mlp_of_images=_network(lambda shape, **condition: pf.nn.MLP.Config((8,)).build(shape, **condition), (2,), cond_image=(1, 2, 2)),
)
MODELS = _subjects(
    slow=("unet_of_vectors", "unet_by_attention", "dit_of_large_images", "nsf_of_vectors"),
    unet_of_vectors=_path_model(_unet, **VECTORS),
    unet_of_images=_path_model(_unet, cond_image=(2, 2, 2)),
    dit_of_vectors=_path_model(_dit, **VECTORS),
    dit_of_large_images=_path_model(_dit, cond_image=(1, 4, 4)),
    unet_on_series=_path_model(_unet, (1, 4), classes=3),
    dit_on_volumes=_path_model(
        lambda shape, **options: pf.nn.DiT(shape, patch=1, width=6, depth=1, heads=1, **options), (1, 2, 1, 2), classes=3
    ),
    unet_by_attention=_path_model(_unet, cond_image=(1, 6, 2), cond_by="attention"),
    dit_by_attention=_path_model(_dit, cond_image=(1, 3, 2), cond_by="attention", cond_patch=1),
    rectified_flow_of_vectors=_preset("rectified_flow", (2,), pf.nn.MLP.Config((8, 8)), drop_cond=0.1, **VECTORS),
    nsf_of_vectors=_preset("nsf", (2,), layers=2, bins=4, hidden=(8,), activation="tanh", mixing="none", **VECTORS),
    glow_of_images=_preset("glow", (1, 4, 4), levels=2, depth=1, hidden=2, activation="tanh", preprocess="none", cond_image=(1, 4, 4)),
    tarflow_of_images=_preset(
        "tarflow", (1, 2, 2), layers=2, patch=1, width=8, depth=1, heads=2, noise=0.0, preprocess="none", cond_image=(1, 4, 4)
    ),
)


def like(model, cond):
    """Return a condition in the dtype of a model: labels and records as they are."""
    return cond.to(model.dtype) if isinstance(cond, torch.Tensor) and cond.is_floating_point() else cond
