"""What may be done to a module and its parts, as functions that do it: replaced methods, parts and parameters, other settings and modes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from calls import FACTOR, scaled
from torch import Tensor, nn

Change = tuple[str, Callable[[nn.Module, Any], Any]]  # what it is, and what does it to a module, given pytest's monkeypatch


def _bent(value: Any) -> Any:
    """Return what a method returns, but other numbers, wherever they are."""
    if isinstance(value, Tensor):
        return scaled(value, FACTOR) if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_bent(one) for one in value)
    return value


def methods_of(kind: type) -> list[str]:
    """Return the names of the methods that a class and its bases define; of `nn.Module` none."""
    bases = [base for base in kind.__mro__ if base not in nn.Module.__mro__]
    return sorted({name for base in bases for name, value in vars(base).items() if callable(value) and not name.startswith("__")})


def on_the_object(module: nn.Module) -> Iterator[Change]:
    """Each method of each part replaced on this one object."""
    for name, part in module.named_modules():
        for method in methods_of(type(part)):
            yield f"{name}.{method} = ...", lambda module, patch, name=name, method=method: _replaced(module.get_submodule(name), method)


def _replaced(thing: Any, method: str) -> None:
    own = getattr(thing, method)
    setattr(thing, method, lambda *args, **options: _bent(own(*args, **options)))


def on_the_class(module: nn.Module) -> Iterator[Change]:
    """Each method replaced on the class of a part, and on the base that defines it."""
    seen = set()
    for part in module.modules():
        for method in methods_of(type(part)):
            for kind in {type(part), next(base for base in type(part).__mro__ if method in vars(base))}:
                if (kind, method) not in seen and not isinstance(vars(kind).get(method), staticmethod):
                    seen.add((kind, method))
                    yield f"{kind.__name__}.{method} = ...", lambda module, patch, kind=kind, method=method: _patched(patch, kind, method)


def _patched(patch: Any, kind: type, method: str) -> None:
    own = getattr(kind, method)
    patch.setattr(kind, method, lambda self, *args, **options: _bent(own(self, *args, **options)))


class Adapted(nn.Linear):
    """A Linear with a low-rank change, as adapters of other libraries are."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__(inner.in_features, inner.out_features, inner.bias is not None, dtype=inner.weight.dtype)
        self.load_state_dict(inner.state_dict())
        self.low, self.high = (
            nn.Parameter(0.2 * torch.ones(*size, dtype=inner.weight.dtype)) for size in ((1, inner.in_features), (inner.out_features, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.low.T @ self.high.T


class Keyword(nn.Identity):
    """A part that takes whatever it is called with and returns the first."""

    def forward(self, x: Any, *args: Any, **options: Any) -> Any:
        return x


def _in_place_of(part: nn.Module) -> dict[str, Callable[[nn.Module], Any]]:
    """Return what may be put in the place of a part: as a rule not what it was, but a module that torch can call."""
    found: dict[str, Callable[[nn.Module], Any]] = {
        "Identity": lambda part: nn.Identity(),
        "None": lambda part: None,
        "one of any arguments": lambda part: Keyword(),
        "Sequential": lambda part: nn.Sequential(part, nn.SiLU()),
        "one of its own in a Sequential": lambda part: nn.Sequential(part),
    }
    if isinstance(part, nn.Linear):
        sizes = part.in_features, part.out_features
        found |= {
            "LoRA": Adapted,
            "Linear without bias": lambda part: nn.Linear(*sizes, bias=False),
            "Linear of another dtype": lambda part: nn.Linear(*sizes, dtype=torch.bfloat16),
            "wider Linear": lambda part: nn.Linear(sizes[0], sizes[1] + 2),
            "Linear of one output": lambda part: nn.Linear(sizes[0], 1),
            "LayerNorm": lambda part: nn.LayerNorm(sizes[1]),
            "another Linear": lambda part: nn.Linear(*sizes),
        }
    if isinstance(part, nn.Conv2d):
        found |= {
            "Conv2d without bias": lambda part: nn.Conv2d(part.in_channels, part.out_channels, 1, bias=False),
            "Conv2d of other sides": lambda part: nn.Conv2d(part.in_channels, part.out_channels, 1),
            "GELU": lambda part: nn.GELU(),
        }
    if isinstance(part, nn.GELU | nn.SiLU):
        found |= {"exact GELU": lambda part: nn.GELU(), "SiLU": lambda part: nn.SiLU(), "Softmax": lambda part: nn.Softmax(-1)}
    if isinstance(part, nn.LayerNorm | nn.RMSNorm):
        size = part.normalized_shape
        found |= {
            "LayerNorm": lambda part: nn.LayerNorm(size, eps=0.1),
            "RMSNorm": lambda part: nn.RMSNorm(size, eps=0.1),
            "norm without weights": lambda part: nn.LayerNorm(size, elementwise_affine=False),
        }
    return found


def parts(module: nn.Module) -> Iterator[Change]:
    """Each part replaced by another module, or by none."""
    for name, part in module.named_modules():
        for what, make in _in_place_of(part).items() if name else ():
            yield f"{name} = {what}", lambda module, patch, name=name, make=make: _put(module, name, make(module.get_submodule(name)))


def _put(module: nn.Module, name: str, part: Any) -> None:
    above, _, child = name.rpartition(".")
    holder = module.get_submodule(above)
    holder._modules[child] = part


def parameters(module: nn.Module) -> Iterator[Change]:
    """Each parameter and buffer of each part replaced, by none, by another or by one of another kind, or changed in place."""
    for name, part in module.named_modules():
        for key, one in part.named_parameters(recurse=False):
            for what, change in PARAMETERS.items():
                yield f"{name}.{key}: {what}", lambda module, patch, n=name, k=key, change=change: change(module.get_submodule(n), k)
            like = [other for _, other in module.named_parameters() if other is not one and other.shape == one.shape]
            if like:
                at = [other is like[-1] for _, other in module.named_parameters()].index(True)
                yield f"{name}.{key}: tied", lambda module, patch, n=name, k=key, at=at: _tied(module, n, k, at)
        for key, _ in part.named_buffers(recurse=False):
            yield f"{name}.{key}: in place", lambda module, patch, n=name, k=key: _moved(getattr(module.get_submodule(n), k))
            yield f"{name}.{key}: another", lambda module, patch, n=name, k=key: _other_buffer(module.get_submodule(n), k)


def _other_buffer(part: nn.Module, key: str) -> None:
    setattr(part, key, _moved(getattr(part, key).clone()))


def _tied(module: nn.Module, name: str, key: str, at: int) -> None:
    setattr(module.get_submodule(name), key, [p for _, p in module.named_parameters()][at])


@torch.no_grad()
def _moved(one: Tensor) -> Tensor:
    return one.mul_(1.2).add_(0.1) if one.is_floating_point() else one.copy_(one.flip(0))


def _plain_tensor(part: nn.Module, key: str) -> None:
    value = getattr(part, key).detach() * 1.1
    delattr(part, key)
    setattr(part, key, value)


def _buffer(part: nn.Module, key: str) -> None:
    value = getattr(part, key).detach() * 1.1
    delattr(part, key)
    part.register_buffer(key, value)


class Derived(nn.Parameter):
    """A subclass of Parameter."""


PARAMETERS: dict[str, Callable[[nn.Module, str], Any]] = {
    "none": lambda part, key: setattr(part, key, None),
    "deleted": lambda part, key: delattr(part, key),
    "another": lambda part, key: setattr(part, key, nn.Parameter(1.1 * getattr(part, key).detach())),
    "a derived one": lambda part, key: setattr(part, key, Derived(1.1 * getattr(part, key).detach())),
    "one row": lambda part, key: setattr(part, key, nn.Parameter(getattr(part, key).detach()[:1].clone())),
    "one row more": lambda part, key: setattr(part, key, nn.Parameter(torch.cat((getattr(part, key), getattr(part, key)[:1])).detach())),
    "transposed": lambda part, key: setattr(part, key, nn.Parameter(getattr(part, key).detach().mT.contiguous().mT * 1.1)),
    "of another dtype": lambda part, key: setattr(part, key, nn.Parameter(getattr(part, key).detach().bfloat16())),
    "a plain tensor": _plain_tensor,
    "a buffer": _buffer,
    "in place": lambda part, key: _moved(getattr(part, key)),
    "by data": lambda part, key: setattr(getattr(part, key), "data", 1.1 * getattr(part, key).data),
    "frozen": lambda part, key: getattr(part, key).requires_grad_(False),
}


def dtypes(module: nn.Module) -> Iterator[Change]:
    """The own parameters of each part in bfloat16, and each bias alone in the other of float32 and float64, by their data."""
    for name, part in module.named_modules():
        own = [key for key, _ in part.named_parameters(recurse=False)]
        if own:
            yield f"{name}: in bfloat16", lambda module, patch, n=name, own=own: _converted(module.get_submodule(n), own, torch.bfloat16)
        for key in own:
            if key.endswith("bias"):
                other = torch.float32 if _is_double(module) else torch.float64
                yield f"{name}.{key}: in {other}", lambda module, patch, n=name, k=key, d=other: _converted(module.get_submodule(n), [k], d)


def _converted(part: nn.Module, keys: list[str], dtype: torch.dtype) -> None:
    for key in keys:
        one = getattr(part, key)
        one.data = one.data.to(dtype)


def settings(module: nn.Module) -> Iterator[Change]:
    """Each activation and each dropout replaced, by a function or by a module."""
    for name, part in module.named_modules():
        for key, makes in SETTINGS.items():
            if hasattr(part, key):
                for what, make in makes.items():
                    yield (
                        f"{name}.{key} = {what}",
                        lambda module, patch, n=name, k=key, make=make: setattr(module.get_submodule(n), k, make()),
                    )


class _Unhashable:
    """A callable without a hash."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.atan(x)


SETTINGS: dict[str, dict[str, Callable[[], Any]]] = {
    "act": {
        "sin": lambda: torch.sin,
        "softmax": lambda: lambda x: torch.softmax(x, -1),
        "a module": nn.GELU,
        "a norm": lambda: nn.LayerNorm(6),
        "one without hash": _Unhashable,
        "relu_": lambda: torch.relu,
    },
    "dropout": {"a function": lambda: lambda x: 2 * x, "a norm": lambda: nn.LayerNorm(6), "Identity": nn.Identity, "none": lambda: None},
}


def whole(module: nn.Module) -> Iterator[Change]:
    """What is done to the module as a whole."""
    yield "requires_grad_(False)", lambda module, patch: module.requires_grad_(False)
    yield "train()", _in_training
    yield "load_state_dict", lambda module, patch: module.load_state_dict(_others(module))
    yield "load_state_dict(assign=True)", lambda module, patch: module.load_state_dict(_others(module), assign=True)
    yield (
        "load_state_dict(assign=True), no parameters",
        lambda module, patch: module.load_state_dict({name: one.detach() for name, one in _others(module).items()}, assign=True),
    )
    yield "to(bfloat16)", lambda module, patch: module.bfloat16()
    yield "to another dtype and back", lambda module, patch: module.half().double() if _is_double(module) else module.double().float()
    yield "parametrised", _parametrised
    yield "hooked within", lambda module, patch: [one.register_forward_hook(lambda m, i, o: _bent(o)) for one in _leaves(module)]
    for name, _ in module.named_children():
        yield f"{name}.train()", lambda module, patch, name=name: (_without_dropout(module), module.get_submodule(name).train())


def _is_double(module: nn.Module) -> bool:
    return next(module.parameters()).dtype is torch.float64


def _others(module: nn.Module) -> dict[str, Any]:
    state = {name: one.clone() for name, one in module.state_dict().items()}
    return {name: nn.Parameter(_moved(one)) if one.is_floating_point() else one for name, one in state.items()}


def _without_dropout(module: nn.Module) -> None:
    """Draws of rows and of columns differ in order, so nothing may be dropped."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


def _in_training(module: nn.Module, patch: Any) -> None:
    _without_dropout(module)
    module.train()


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [one for one in module.modules() if not any(True for _ in one.children())]


class _Times(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 1.1 * weight


def _parametrised(module: nn.Module, patch: Any) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.utils.parametrize.register_parametrization(part, "weight", _Times())


FAMILIES: dict[str, Callable[[nn.Module], Iterator[Change]]] = {
    "a method on one object": on_the_object,
    "a method on a class": on_the_class,
    "a part": parts,
    "a parameter": parameters,
    "a dtype": dtypes,
    "a setting": settings,
    "the module": whole,
}
