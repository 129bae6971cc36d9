"""What a PyTorch person does to a module, and what must come of it through the five verbs of a model."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
from pushforward.samplers.heun import Heun

FACTOR = 1.1


def results(model: nn.Module, x: Tensor, cond: Any, steps: int = 1) -> dict[str, Tensor]:
    """Return what the verbs that a model has return, with few steps, seeded noise and the exact divergence."""
    solver = {} if model.sampler is None else {"sampler": Heun(steps)}
    exact = {} if model.sampler is None else {"divergence": "exact"}
    if "encode" not in model.verbs:
        solver = {}
    seed = lambda: torch.Generator().manual_seed(5)  # noqa: E731
    model.eval()
    found = {"loss": model.loss(x, cond, generator=seed()), "sample": model.sample(len(x), cond, **solver, generator=seed())}
    if "log_prob" in model.verbs:
        found["log_prob"] = model.log_prob(x, cond, **solver, **exact)
    if "encode" in model.verbs:
        found["encode"] = model.encode(x, cond, **solver)
    z = found.get("encode", x).detach().flip(0)
    return {**found, "decode": model.decode(z, cond, **solver)}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], what: str, tolerance: float = 1e-8) -> None:
    """Demand equal results through every verb."""
    assert found.keys() == expected.keys()
    for verb in found:
        one, other = found[verb].detach().double(), expected[verb].detach().double()
        off = float((one - other).abs().max() / (1 + other.abs().max()))
        assert off <= tolerance, f"{verb}, {what}: {off:.2g} off"


def differ(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Return whether some verb returns other numbers."""
    return any(float((found[verb] - expected[verb]).detach().abs().max()) > 1e-6 for verb in found)


class Behind(nn.Module):
    """A module behind a plain Module, whose output is bent."""

    def __init__(self, inner: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, *args: Any, **options: Any) -> Any:
        return scaled(self.inner(*args, **options), self.factor)


class BehindBijection(Behind):
    """A bijection behind a plain Module that has an inverse too."""

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return scaled(self.inner(x, cond), self.factor)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.inner.inverse(z, cond)


def scaled(output: Any, factor: float) -> Any:
    """Return an output (a tensor, or the first of several) that is bent by as much as the factor is off 1; a norm would undo a scale."""
    if factor == 1 or output is None:
        return output
    return _bent(output, factor) if isinstance(output, Tensor) else (_bent(output[0], factor), *output[1:])


def _bent(x: Tensor, factor: float) -> Tensor:
    return x + (factor - 1) * torch.sin(3 * x)


def parts(model: nn.Module) -> list[str]:
    """Return the names of a model's parts that are called and hold parameters: containers have no forward of their own."""
    found = []
    for name, part in model.named_modules():
        held = name and not name.startswith(("base", "preprocess")) and type(part).forward is not nn.Module.forward
        if held and any(True for _ in part.parameters()):
            found.append(name)
    return found


def kinds(model: nn.Module) -> list[str]:
    """Return the first part of each type."""
    first: dict[type, str] = {}
    for name in parts(model):
        first.setdefault(type(model.get_submodule(name)), name)
    return list(first.values())


def exchanged(model: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return a copy of a model in which a part is replaced by what `make` returns of it."""
    model = copy.deepcopy(model)
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    part = make(model.get_submodule(name))
    if isinstance(holder, nn.ModuleList | nn.Sequential):
        holder[int(child)] = part
    else:
        setattr(holder, child, part)
    return model


def behind(part: nn.Module, factor: float = 1.0) -> nn.Module:
    return (BehindBijection if isinstance(part, Bijection) else Behind)(part, factor)


def hooked(part: nn.Module) -> nn.Module:
    part.register_forward_hook(lambda module, inputs, output: scaled(output, FACTOR))
    return part


def subclassed(part: nn.Module) -> nn.Module:
    kind = type(part)

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        return scaled(kind.forward(self, *args, **options), FACTOR)

    part.__class__ = type(f"Derived{kind.__name__}", (kind,), {"forward": forward})
    return part


def called_otherwise(part: nn.Module) -> nn.Module:
    kind = type(part)

    def call(self: Any, *args: Any, **options: Any) -> Any:
        return scaled(nn.Module.__call__(self, *args, **options), FACTOR)

    part.__class__ = type(f"Called{kind.__name__}", (kind,), {"__call__": call})
    return part


def replaced_forward(part: nn.Module) -> nn.Module:
    own = part.forward
    part.forward = lambda *args, **options: scaled(own(*args, **options), FACTOR)
    return part


def pre_hooked(part: nn.Module) -> nn.Module:
    part.register_forward_pre_hook(lambda module, inputs: tuple(_in(one) for one in inputs[:1]) + inputs[1:])
    return part


class BehindInputs(Behind):
    """A module behind a plain Module, whose first input is bent."""

    def forward(self, first: Any, *args: Any, **options: Any) -> Any:
        return self.inner(_in(first), *args, **options)


class BehindBijectionInputs(BehindInputs):
    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.inner.inverse(z, cond)


def _in(one: Any) -> Any:
    return _bent(one, FACTOR) if isinstance(one, Tensor) and one.is_floating_point() else one


def behind_inputs(part: nn.Module) -> nn.Module:
    return (BehindBijectionInputs if isinstance(part, Bijection) else BehindInputs)(part)


class _Bent(nn.Module):
    """A parametrisation: what a weight becomes before it is used."""

    def forward(self, weight: Tensor) -> Tensor:
        return _bent(weight, FACTOR)


def parametrised(part: nn.Module) -> nn.Module:
    for name, p in list(part.named_parameters(recurse=False)):
        if p.is_floating_point():
            nn.utils.parametrize.register_parametrization(part, name, _Bent(), unsafe=True)
    return part


def with_bent_weights(part: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in part.parameters(recurse=False):
            p.copy_(_bent(p, FACTOR))
    return part


def weight_normed(part: nn.Module) -> nn.Module:
    """Return a layer whose weight is a direction and a size, twice as large as it was."""
    part = nn.utils.parametrizations.weight_norm(part)
    with torch.no_grad():
        part.parametrizations.weight.original0.mul_(2)
    return part


def with_doubled_weight(part: nn.Module) -> nn.Module:
    with torch.no_grad():
        part.weight.mul_(2)
    return part


def compiled_in_place(part: nn.Module) -> nn.Module:
    part.compile(backend="eager")
    return part


def compiled(part: nn.Module) -> nn.Module:
    return torch.compile(part, backend="eager")


def gradients(model: nn.Module, x: Tensor, cond: Any) -> list[Tensor]:
    """Return the gradients of the loss, and of the log-likelihood of a flow, by x and by all parameters, in the order of their names."""
    x = x.clone().requires_grad_()
    loss = model.loss(x, cond, generator=torch.Generator().manual_seed(5))
    if model.sampler is None and "log_prob" in model.verbs:
        loss = loss + model.log_prob(x, cond).sum()
    named = sorted((name.replace(".inner.", ".").replace("._orig_mod.", "."), p) for name, p in model.named_parameters() if p.requires_grad)
    return list(torch.autograd.grad(loss, [x, *(p for _, p in named)], allow_unused=True, materialize_grads=True))


def backward_hooked(part: nn.Module) -> nn.Module:
    part.register_full_backward_hook(lambda module, by_inputs, by_outputs: tuple(None if g is None else 2 * g for g in by_inputs))
    return part
