"""Memory that a loss holds for its backward pass."""

import weakref

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class _Saved:
    """A tensor as the graph holds it; a graph that is gone lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # an output that its own node saves would be part of a cycle that is never freed


def megabytes_held(model: nn.Module, *inputs: Tensor) -> float:
    """Return how many megabytes the graph of model(*inputs) holds besides the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def keep(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        kept.add(saved)
        return saved

    with saved_tensors_hooks(keep, lambda saved: saved.tensor):
        loss = model(*inputs)
    sizes = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes() for one in kept}
    assert loss.requires_grad  # and its graph is alive until here
    return sum(size for pointer, size in sizes.items() if pointer not in own) / 2**20
