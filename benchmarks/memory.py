"""Memory that a loss holds for its backward pass."""

import torch
from torch import Tensor, nn


def megabytes_held(model: nn.Module, x: Tensor) -> float:
    """Return how many megabytes the graph of model(x) holds besides the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # keep the tensor, so that its address is not reused

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(size for size, _ in kept.values()) / 2**20
