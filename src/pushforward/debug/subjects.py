"""What is observed: a model by one of its methods, a module, or any function, with the names of what it holds."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pushforward._checks import shown
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.held import reachable
from pushforward.registry import unknown


@dataclass(frozen=True)
class Subject:
    """A callable, and the tensors and modules that it holds.

    Args:
        call: the function to call.
        title: its name in output.
        modules: all modules by dotted name; "" is the model itself.
        parameters: parameters, and other leaves with gradients that a function refers to, by name.
        buffers: the modules' buffers.
        held: all other tensors that it refers to.
    """

    call: Callable[..., Any]
    title: str
    modules: dict[str, nn.Module]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    held: dict[str, Tensor]


def subject_of(model: Any, verb: str | None, arguments: Mapping[str, Any]) -> Subject:
    """Return the subject of an observed call.

    Args:
        model: a model, a Module, or a function.
        verb: the method to call, or None.
        arguments: all arguments of the call by name; modules and parameters among them are known as those of the function are.

    Raises:
        UserError: there is nothing to call.
    """
    if not callable(model):
        raise UserError(f"model is {shown(model)}, but it must be a model, a Module or a function.")
    if verb is None:
        call, what = model, "loss" if isinstance(model, GenerativeModel) else "forward"
    else:
        call, what = getattr(model, verb, None), verb
        if not callable(call):
            raise UserError(unknown(f"method of {type(model).__name__}", verb, _methods(model)))
    named = isinstance(model, nn.Module) or verb is not None
    title = f"{what} of {type(model).__name__}" if named else getattr(model, "__qualname__", type(model).__name__)
    everything = list(reachable((model, arguments)))
    variables = {**_variables(model), **{id(one): name for name, one in arguments.items()}}
    owners = _modules(model, [one for one in everything if isinstance(one, nn.Module)], variables)
    parameters = _named(owners, "_parameters")
    buffers = _named(owners, "_buffers")
    given = [one for one in tree_leaves(list(arguments.values())) if isinstance(one, Tensor)]
    known = {id(one) for one in (*parameters.values(), *buffers.values(), *given)}
    held: dict[str, Tensor] = {}
    for k, one in enumerate(one for one in everything if isinstance(one, Tensor) and id(one) not in known):
        (parameters if one.is_leaf and one.requires_grad else held)[variables.get(id(one), f"tensor[{k}]")] = one
    return Subject(call, title, owners, parameters, buffers, held)


def _modules(model: Any, found: list[nn.Module], variables: Mapping[int, str]) -> dict[str, nn.Module]:
    """Return all modules by dotted name; if there are several outermost ones other than `model`, the names of the variables come first."""
    inner = {id(part) for one in found for part in one.modules() if part is not one}
    roots = [one for one in found if id(one) not in inner]
    names: dict[str, nn.Module] = {}
    for k, root in enumerate(roots):
        prefix = "" if len(roots) == 1 or root is model else variables.get(id(root), f"{type(root).__name__}[{k}]")
        names.update(root.named_modules(prefix=prefix))
    return names


def _named(modules: dict[str, nn.Module], kind: str) -> dict[str, Any]:
    """Return the parameters or buffers of modules by dotted name, each once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module in modules.items():
        for own, tensor in getattr(module, kind).items():
            if tensor is not None:
                found.setdefault(id(tensor), (f"{name}.{own}".lstrip("."), tensor))
    return dict(found.values())


def _variables(function: Any) -> dict[int, str]:
    """Return the names of the variables that a function refers to, by the id of their value."""
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, types.FunctionType):
        return {}
    inside = inspect.getclosurevars(function)
    return {id(value): name for names in (inside.globals, inside.nonlocals) for name, value in names.items()}


def _methods(model: Any) -> list[str]:
    return [name for name in dir(type(model)) if not name.startswith("_") and callable(getattr(type(model), name, None))]
