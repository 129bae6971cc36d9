"""What an operator does to memory, read off its schema: which arguments it writes, and whether its result is a view of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.debug.overlap import same_elements

# Writing the same number through every index is well defined, and torch allows it.
SAME_VALUE = {"fill_.Scalar", "zero_.default", "_foreach_zero_.default", "full.out", "zeros.out", "ones.out"}
# Kernels that take memory to be dense: on an expanded tensor they write beyond its end.
DENSE = "_fused_"
MAKES_VIEWS = {"empty_strided", "new_empty_strided"}  # the strides are given, so that elements may overlap
OWN = {"aten", "prims", "profiler", "prim", "inductor"}


@dataclass(frozen=True)
class Plan:
    """What is known of an operator before it is called.

    `written` are (position, name) of the arguments whose elements it writes, `views` whether its results share memory with an argument.
    """

    name: str
    written: tuple[tuple[int, str], ...]
    views: bool
    same_value: bool
    dense: bool
    training: int | None  # the position of `training`, without which batch normalisation writes nothing
    custom: bool
    one: bool  # whether it writes one tensor, rather than several or a list

    def writes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of each argument that this call writes, and the tensor."""
        if self.training is not None and not (args[self.training] if self.training < len(args) else kwargs["training"]):
            return
        for position, name in self.written:
            if self.dense and name == "grads" and kwargs.get("grad_scale") is None:
                continue  # gradients are only written to be unscaled
            value = args[position] if position < len(args) else kwargs.get(name)
            if self.name == "aten.copy_" and same_elements(args[0], args[1]):
                continue  # x[0] += 1 ends by copying x[0] to itself
            for one in value if isinstance(value, list | tuple) else (value,):
                if isinstance(one, Tensor):
                    yield name, one

    def reads(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
        """Yield the tensors that an operator which writes one tensor reads next to it."""
        ((place, name),) = self.written
        for position, value in enumerate(args):
            if position != place:
                if isinstance(value, Tensor):
                    yield value
                elif type(value) is list:
                    yield from (one for one in value if isinstance(one, Tensor))
        for key, value in kwargs.items():
            if key != name and isinstance(value, Tensor):
                yield value


def plan_of(operator: Any) -> Plan | None:
    """Return the plan of an operator, or None if it neither writes nor views."""
    schema = getattr(operator, "_schema", None)
    if schema is None:  # a higher-order operator
        return None
    name = schema.name.partition("::")[2]
    arguments = [(position, one.name) for position, one in enumerate(schema.arguments)]
    changed = [one.alias_info is not None and one.alias_info.is_write for one in schema.arguments]
    if torch.Tag.inplace_view in operator.tags:  # changes shape and strides, not elements
        written, views = [], True
    else:
        written = [at for at, write in zip(arguments, changed, strict=True) if write]
        views = any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns) or name in MAKES_VIEWS
    by_name = {argument: position for position, argument in arguments}
    running = {"running_mean", "running_var", "training"} <= by_name.keys() and "backward" not in name
    if running:  # native_batch_norm writes them, which its schema leaves out
        written = sorted({*written, *((by_name[one], one) for one in ("running_mean", "running_var"))})
    custom = operator.namespace not in OWN
    full = f"{name}.{operator._overloadname}"
    overload = f".{operator._overloadname}" if any(one.is_out for one in schema.arguments) else ""
    if not written and not views and not custom:
        return None
    one = len(written) == 1 and isinstance(schema.arguments[written[0][0]].type, torch.TensorType)
    training = by_name["training"] if running else None
    return Plan(
        f"{operator.namespace}.{name}{overload}", tuple(written), views, full in SAME_VALUE, name.startswith(DENSE), training, custom, one
    )
