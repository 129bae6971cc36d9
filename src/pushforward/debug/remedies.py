"""What to write instead, by what the tensor is and how it came to share memory."""

import torch

from pushforward.debug.places import Place
from pushforward.debug.views import OUTSIDE

OUT, PARAMETER, BUFFER, GRADIENT, PLAIN = "out", "parameter", "buffer", "gradient", "plain"


def out_of_place(operator: str) -> str:
    """Return the name of the operator that returns what this one writes, or an empty string; those of foreach have none to recommend."""
    name = operator.partition(".")[2]
    plain = name.removesuffix("_")
    if plain == name or name.startswith("_") or name.endswith("__") or not hasattr(torch.Tensor, plain) or plain in ("copy", "set"):
        return ""
    return plain


def of_overlap(role: str, operator: str, shape: tuple[int, ...], how: str, made: Place | None) -> str:
    """Return the remedy for a tensor whose elements share memory."""
    if role == OUT:
        return f"give out= memory of its own, torch.empty({', '.join(map(str, shape))}), or leave it out"
    if how == OUTSIDE:
        return "copy the array, torch.from_numpy(array.copy()), where it becomes a tensor"
    if role == PARAMETER:
        return "make the unexpanded tensor the parameter and expand it in forward, or nn.Parameter(x.clone()) to train each element"
    if role == BUFFER:
        return "register the buffer with memory of its own: clone() where it is expanded"
    if role == GRADIENT:
        return "assign a gradient with memory of its own: clone() where it is expanded"
    expression = f": {made.text}.clone()" if made is not None and made.called() and len(made.text) < 80 else ""
    plain = out_of_place(operator)
    return f"clone() where it is expanded{expression}" + (f", or {plain}() in place of {plain}_()" if plain else "")


def of_input(operator: str, name: str) -> str:
    """Return the remedy for an argument that is changed, by the name under which it is written."""
    plain = out_of_place(operator)
    clone = f"{name} = {name}.clone()" if name.isidentifier() else "clone() it"
    return (f"{plain}() in place of {plain}_(), or " if plain else "") + f"{clone} before it is written"


def of_saved(operator: str, own: bool, optimiser: bool) -> str:
    """Return the remedy for a saved value.

    Args:
        operator: what wrote.
        own: whether it changed the value itself, or another part of the same base.
        optimiser: whether it ran in an optimiser's step.
    """
    if optimiser:
        return "call backward before the step, or compute the loss again after it; detach() a state that is carried over the step"
    if not own:
        return "clone() the part that is saved before it is used, or collect the parts in a list and torch.stack() them"
    plain = out_of_place(operator)
    return (f"{plain}() in place of {plain}_(), or " if plain else "") + "clone() the value before it is written, or write after backward"


PARAMETERS = "let an optimiser change parameters, and keep in a buffer what forward updates"
PARTIAL = "clone() what is read, as in x[1:] = x[:-1].clone() or x[x.clone()] = y"
