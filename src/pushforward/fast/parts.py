"""What fast paths presume of the parts that they read, which users may replace by others of known types."""

from typing import Any

import torch
from torch import nn

from pushforward.nn.activation import ACTIVATIONS
from pushforward.nn.embedding import LabelEmbedding, VectorEmbedding

ELEMENTWISE = tuple(ACTIVATIONS.values())
CONDITIONS = (LabelEmbedding, VectorEmbedding)
TOKENWISE, NORMS = (nn.Linear, nn.GELU, nn.SiLU, nn.Identity), (nn.LayerNorm, nn.RMSNorm)


def returns_rows(condition: Any, width: int) -> bool:
    """Return whether the embedding of a condition, if there is one, returns rows of this width."""
    kind = type(condition)
    if kind not in CONDITIONS:
        return False
    if not condition.conditional:
        return True
    if kind is VectorEmbedding:
        null = condition._parameters.get("null")
        return null is not None and null.shape == (width,)
    table = condition._modules.get("table")
    weight = table._parameters.get("weight") if type(table) is nn.Embedding else None
    return weight is not None and weight.shape[1] == width


def is_linear(layer: Any, outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Return whether a layer is a linear map of these sizes with a bias, all in this dtype."""
    if type(layer) is not nn.Linear:
        return False
    held = layer._parameters
    weight, bias = held.get("weight"), held.get("bias")
    if weight is None or bias is None or weight.dtype is not dtype or bias.dtype is not dtype:
        return False
    return weight.shape == (outputs, inputs) and bias.shape == (outputs,)


def of_one_dtype(module: Any) -> bool:
    """Return whether all parameters of a module have one dtype.

    Whether torch promotes two dtypes or refuses them depends on the shapes and strides that a Linear is called with, and the dtype of a sum
    on its order: a fast path that calls the parts of a module with other shapes asks for one dtype.
    """
    return len({parameter.dtype for parameter in module.parameters()}) == 1


def is_tokenwise(layer: Any, width: int) -> bool:
    """Return whether a layer maps each token by itself, whatever other axes its input has, and its norms are those of tokens of a width."""
    kind = type(layer)
    if kind in TOKENWISE:
        return True
    if kind is nn.Sequential:
        return all(is_tokenwise(one, width) for one in layer._modules.values())
    return kind in NORMS and layer.normalized_shape == (width,)
