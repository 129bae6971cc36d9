"""Models inside the wrappers of torch: compiled, spread over processes, averaged. A file holds the model itself, under its own names."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pushforward._checks import shown
from pushforward.errors import CheckpointError, ConfigError, UserError
from pushforward.families.model import GenerativeModel

# Under which name each wrapper of torch keeps the module that it wraps; by name, as importing all of them takes a second.
INSIDE = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": "_checkpoint_wrapped_module",
}
FLAT = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"


def inside(module: nn.Module) -> str | None:
    """Return the name under which a wrapper of torch keeps its module, or None for what is no wrapper."""
    for kind in type(module).__mro__:
        name = INSIDE.get(f"{kind.__module__}.{kind.__qualname__}")
        if name is not None:
            return name
    return None


def unwrapped(model: Any, what: str = "model") -> GenerativeModel:
    """Return the model inside any number of wrappers.

    Raises:
        UserError: there is none; the type is named.
    """
    given = model
    while isinstance(model, nn.Module) and (name := inside(model)) is not None:
        model = model._modules[name]
    if not isinstance(model, GenerativeModel):
        around = "" if model is given else f" around {shown(model)}"
        remedy = (
            "gather it by torch's get_model_state_dict(full_state_dict=True) and load that into a model of your own"
            if any(f"{kind.__module__}.{kind.__qualname__}" == FLAT for kind in type(model).__mro__)
            else "give one, or what torch.compile, DDP or AveragedModel made of one"
        )
        raise UserError(f"{what} is {shown(given)}{around}, but it must be a GenerativeModel; {remedy}.")
    return model


def own_names(model: nn.Module) -> dict[str, str]:
    """Return the names of a model's state without wrappers of parts of it (`net = torch.compile(net)`), each with the name it has there."""
    cuts = [f"{path}.{name}." if path else f"{name}." for path, part in model.named_modules() if (name := inside(part)) is not None]
    names = {}
    for key in model.state_dict():
        own = key
        for cut in sorted(cuts, key=len, reverse=True):  # from the innermost out, as the outer ones are part of its path
            if own.startswith(cut):
                own = own[: len(cut) - len(cut.rstrip(".").rpartition(".")[2]) - 1] + own[len(cut) :]
        names[own] = key
    return names


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state under its own names, whatever parts of it are wrapped in."""
    state = model.state_dict()
    return {own: state[key] for own, key in own_names(model).items()}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what checkpoints hold: the state, of a model with `saves_frozen = False` without what is frozen."""
    frozen = frozen_names(model)
    return {own: tensor for own, tensor in own_state(model).items() if own not in frozen}


def frozen_names(model: nn.Module) -> set[str]:
    """Return the own names of what checkpoints leave out: frozen parameters and their buffers, such as a table of positions."""
    if getattr(model, "saves_frozen", True):
        return set()
    kept = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    kept |= {name for name, _ in model.named_buffers(remove_duplicate=False)} if kept else set()
    return {own for own, key in own_names(model).items() if key in kept}


def state_to_save(model: nn.Module) -> dict[str, Tensor]:
    """Return what a file holds of a model: its state under its own names, parametrised tensors as the values that they have now.

    Raises:
        CheckpointError: a tensor is sharded over processes.
    """
    state = own_state(model)
    for path, part in model.named_modules():
        if parametrize.is_parametrized(part):
            start = f"{_own_path(model, path)}." if path else ""
            for name in part.parametrizations:
                for key in [one for one in state if one.startswith(f"{start}parametrizations.{name}.")]:
                    del state[key]
                state[start + name] = getattr(part, name)
    for key in state:
        one: Any = state[key]
        if hasattr(one, "full_tensor"):
            if one.device_mesh.size() > 1:
                raise CheckpointError(
                    f"{key} is a {type(one).__name__}, sharded over {one.device_mesh.size()} processes; gather the weights by torch's "
                    "get_model_state_dict(full_state_dict=True), load them into a model that is not sharded, and save that."
                )
            state[key] = one.full_tensor()
    return state


def _own_path(model: nn.Module, path: str) -> str:
    """Return the path of a submodule without the wrappers on the way."""
    steps, module = [], model
    for step in path.split("."):
        if step != inside(module):
            steps.append(step)
        module = module.get_submodule(step)
    return ".".join(steps)


def check_described(model: nn.Module, rebuilt: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse a model that its configuration does not describe: parts of other types or tensors than those of `rebuilt`, built from it.

    Raises:
        ConfigError: the first such part is named with its type.
    """
    ours = {_own_path(model, path) if path else "": part for path, part in model.named_modules() if inside(part) is None}
    theirs = dict(rebuilt.named_modules())
    for path, part in ours.items():
        if ".parametrizations" in f".{path}":
            continue
        other = theirs.get(path)
        kind = _kind(part)
        if other is None or kind is not type(other):
            was = "nothing" if other is None else f"a {type(other).__name__}"
            raise ConfigError(
                f"{path or 'the model'} is a {kind.__module__}.{kind.__qualname__}, where the settings of config.yaml build {was}, so that "
                "a loaded model would compute something else; save its state_dict() instead."
            )
    lost = next(_differing(rebuilt.state_dict(), state), None)
    if lost is not None:
        raise ConfigError(
            f"{lost} is not what the settings of config.yaml build, so it could not be loaded; save the state_dict() instead."
        )


def _kind(part: nn.Module) -> type[nn.Module]:
    """Return the type that a part was written as: torch makes subclasses of parametrised and sharded ones."""
    made = int(parametrize.is_parametrized(part))
    return next(kind for kind in type(part).__mro__[made:] if not kind.__module__.startswith("torch.distributed."))


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        if key not in one or key not in other or one[key].shape != other[key].shape:
            yield key


def without_random(build: Any) -> Any:
    """Return what a function builds, leaving torch's random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        return build()
