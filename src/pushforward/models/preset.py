"""What makes a function a preset: the options it shares with others, the default network, and the record of what built the model.

A preset's first parameter may be a record of shared options, a subclass of `Options` such as `VectorOptions` or `PathOptions`:

    @preset(sampler=DDIM(50))                       # this preset's defaults of shared options
    def ddim(shared: PathOptions, eta: float = 0.0) -> PathModel:

`preset` replaces that parameter by the fields of the record, in the signature, the type hints and the docstring. Users call
`ddim(net, (2,), eta=0.5, classes=10)`; the function receives `shared`, the record of their values, and `eta`.
"""

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, overload

from pushforward import registry
from pushforward._checks import check_setting, event_shape, is_whole, shown, whole
from pushforward._memory import built_within_memory
from pushforward._suggestions import bound_arguments
from pushforward.conditions import Conditioning
from pushforward.errors import ConditionError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.nn.config import NetConfig
from pushforward.nn.mlp import MLP
from pushforward.nn.unet import UNet
from pushforward.schema import Schema

P = ParamSpec("P")
M = TypeVar("M", bound=GenerativeModel)
S = TypeVar("S", bound="Options")
Net = NetConfig | Callable[..., Any] | None


@dataclass(frozen=True)
class Options:
    """Options that presets share: each field is a keyword argument of every preset that takes the record.

    A preset shows them in this order: positional fields, its own positional arguments, the fields in `before_own`, its own keyword-only
    arguments, the other keyword-only fields; fields of a subclass come before those of its base. Their text is in the section Args of the
    class or its bases, unless the preset's docstring has a text of its own.

    Args:
        shape: shape of one event.
        schema: columns and classes of the data, `data.load(...).schema`, kept for the table of samples. Shape, levels and the condition
            follow from it, and the columns' units (`bijections.TableUnits`) take the place of `preprocess`.
    """

    before_own: ClassVar[tuple[str, ...]] = ()

    shape: Sequence[int] | None
    schema: Schema | None = field(default=None, kw_only=True)

    @classmethod
    def shape_of(cls, arguments: dict[str, Any]) -> Sequence[int]:
        """Return the shape of one event; a record with other arguments for it derives the shape from them and sets them to None."""
        shape: Sequence[int] = arguments["shape"]
        return shape

    @classmethod
    def follow(cls, arguments: dict[str, Any]) -> None:
        """Add to the arguments that were given those that follow from them, before defaults; none by default."""

    @classmethod
    def recorded(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the model's configuration keeps them: as they are, except live objects of training."""
        return dict(arguments)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event, also where the user gave other arguments for it."""
        assert self.shape is not None  # `preset` replaces it by `shape_of`
        return tuple(self.shape)


@dataclass(frozen=True)
class ConditionalOptions(Options):
    """Options of models that may be conditional on labels, vectors or images.

    Args:
        classes: number of class labels, or None.
        cond_features: length of condition vectors, or None.
        cond_image: shape (channels, height, width) of condition images, such as masks, or None; at most one of the three.
    """

    classes: int | None = field(default=None, kw_only=True)
    cond_features: int | None = field(default=None, kw_only=True)
    cond_image: Sequence[int] | None = field(default=None, kw_only=True)

    @property
    def kind(self) -> Conditioning:
        """The kind of condition that was asked for; false for none."""
        return Conditioning(self.classes, self.cond_features, self.cond_image)

    @property
    def family_condition(self) -> dict[str, Any]:
        """The arguments of a family that describe the condition: classes, cond_features and cond_image."""
        return dict(vars(self.kind))


@overload
def preset(function: Callable[Concatenate[S, P], M], /) -> Callable[..., M]: ...
@overload
def preset(function: Callable[P, M], /) -> Callable[P, M]: ...
@overload
def preset(**defaults: Any) -> Callable[[Callable[Concatenate[S, P], M]], Callable[..., M]]: ...
def preset(function: Any = None, /, **defaults: Any) -> Any:
    """Let a function be a preset, whose model keeps its arguments in `model.config`, from which `pushforward.load` builds it again.

    `net=None` is replaced by the default network's configuration first, and `features`, or `channels` and `size`, by the shape they stand
    for, so that the record states what was built.

    Args:
        function: takes its options and returns a model; if its first parameter is annotated with a subclass of `Options`, it receives
            the shared options in that record.
        defaults: defaults of shared options that are this preset's own.

    Example:
        >>> from pushforward.models.path_options import PathOptions
        >>> @preset(classes=10)
        ... def circle(shared: PathOptions, *, std: float = 1.0) -> pf.families.PathModel:
        ...     times = pf.times.LogitNormal(0.0, std)
        ...     path = pf.paths.Cosine()
        ...     return pf.families.PathModel(shared.network(), shared.event_shape, path, times=times, **shared.family_options)
        >>> circle(shape=(2,), std=0.5).classes
        10
    """
    if function is None:
        return functools.partial(preset, **defaults)
    kind = _kind_of(function)
    own = inspect.signature(function, eval_str=True)
    signature = own if kind is None else _merged(function, own, kind, defaults)
    if kind is None and defaults:
        raise TypeError(f"{function.__name__} takes no shared options, so `preset` has no default {next(iter(defaults))!r} to replace.")
    shared = [] if kind is None else [field.name for field in fields(kind)]

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> GenerativeModel:
        bound = bound_arguments(function.__name__, signature, args, kwargs)
        _follow_schema(bound.arguments, signature.parameters)
        if kind is not None:
            kind.follow(bound.arguments)
        bound.apply_defaults()
        arguments = bound.arguments
        for name, one in signature.parameters.items():
            check_setting(function.__name__, name, one.annotation, one.default, arguments[name])
        _fill_in(arguments, kind)

        def make() -> GenerativeModel:
            if kind is None:
                return function(*bound.args, **bound.kwargs)
            rest = {name: value for name, value in arguments.items() if name not in shared}
            return function(kind(**{name: arguments[name] for name in shared}), **rest)

        model = built_within_memory(f"{function.__name__} with these settings", make)
        if not isinstance(model, GenerativeModel):
            raise UserError(
                f"the preset {function.__name__} returned {shown(model)}, but it must return a GenerativeModel; return its model."
            )
        model.config = {"preset": function.__name__, "model": dict(arguments) if kind is None else kind.recorded(arguments)}
        model.schema = arguments.get("schema")
        return model

    if kind is not None:
        build.__signature__ = signature  # type: ignore[attr-defined]
        build.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()} | {"return": own.return_annotation}
        build.__doc__ = _documented(inspect.getdoc(function) or "", kind, signature.parameters)
    return build


def _kind_of(function: Callable[..., Any]) -> type[Options] | None:
    """Return the record that a preset's first parameter is annotated with, or None."""
    first = next(iter(inspect.signature(function, eval_str=True).parameters.values()), None)
    return first.annotation if first is not None and inspect.isclass(first.annotation) and issubclass(first.annotation, Options) else None


def _merged(function: Callable[..., Any], own: inspect.Signature, kind: type[Options], defaults: Mapping[str, Any]) -> inspect.Signature:
    """Return a preset's signature with the fields of the record in place of its first parameter."""
    by_name: dict[str, Field[Any]] = {field.name: field for field in fields(kind)}
    for name in defaults:
        if name not in by_name:
            raise TypeError(f"{function.__name__}: {registry.unknown('shared option', name, by_name)}")
    for name in list(own.parameters)[1:]:
        if name in by_name:
            raise TypeError(f"{function.__name__} has a parameter {name!r}, which {kind.__name__} has too; read shared.{name} instead.")
    annotated = itertools.chain.from_iterable(inspect.get_annotations(base, eval_str=True).items() for base in kind.__mro__)
    groups: dict[int, list[inspect.Parameter]] = {place: [] for place in range(5)}
    seen: set[str] = set()
    for name, annotation in annotated:
        if name not in by_name or name in seen:
            continue
        seen.add(name)
        field = by_name[name]
        default = defaults.get(name, inspect.Parameter.empty if field.default is MISSING else field.default)
        place = 2 if name in kind.before_own else 4 if field.kw_only else 0
        how = inspect.Parameter.KEYWORD_ONLY if place else inspect.Parameter.POSITIONAL_OR_KEYWORD
        groups[place].append(inspect.Parameter(name, how, default=default, annotation=annotation))
    for parameter in list(own.parameters.values())[1:]:
        groups[3 if parameter.kind is parameter.KEYWORD_ONLY else 1].append(parameter)
    return own.replace(parameters=list(itertools.chain.from_iterable(groups.values())))


def _documented(doc: str, kind: type[Options], parameters: Mapping[str, Any]) -> str:
    """Return a preset's docstring with the texts of its shared options in the section Args."""
    texts: dict[str, str] = {}
    for one in (doc, *(inspect.cleandoc(base.__doc__ or "") for base in kind.__mro__)):
        texts = _arguments(one) | texts
    lines = doc.splitlines()
    titles = [number for number, line in enumerate(lines) if re.fullmatch(r"[A-Z][a-z]+:", line)]
    if "Args:" in lines:
        start = lines.index("Args:")
        end = next((number for number in range(start, len(lines)) if not lines[number]), len(lines))
        before, after = lines[:start], lines[end:]
    elif titles:
        before, after = lines[: titles[0]], ["", *lines[titles[0] :]]
    else:
        before, after = [*lines, ""], []
    entries = dict.fromkeys(texts[name] for name in parameters if name in texts)  # `mean, std: ...` is one entry for both
    return "\n".join([*before, "Args:", *entries, *after])


def _arguments(doc: str) -> dict[str, str]:
    """Return the entries of a docstring's section Args by the argument's name, each with its lines as they are."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?)+)", doc, re.MULTILINE)
    entries = re.split(r"\n(?=[ ]{4}\w)", section[1].rstrip("\n")) if section else []
    return {name: entry for entry in entries for name in entry.strip().partition(":")[0].split(", ")}


def _follow_schema(arguments: dict[str, Any], known: Mapping[str, Any]) -> None:
    """Add what the schema of a table determines and the user did not give: the shape, levels, classes and length of conditions."""
    schema = arguments.get("schema")
    if schema is None:
        return
    if not isinstance(schema, Schema):
        raise UserError(f"schema is {shown(schema)}, but it must be a data set's schema, such as pf.data.load('wine').schema.")
    follows: dict[str, Any] = {"classes": schema.classes}
    if schema.given:
        follows["cond_features"] = schema.cond_features
    if schema.columns:
        follows |= {"shape": (len(schema.columns),), "levels": schema.levels}
    for name, value in follows.items():
        given = arguments.setdefault(name, value) if name in known else None
        if name != "levels" and given is not None and given != value and (name != "shape" or tuple(given) != value):
            raise UserError(f"{name} is {given}, but the schema's table has {value}; leave it out.")


def _fill_in(arguments: dict[str, Any], kind: type[Options] | None) -> None:
    """Replace the shape by the checked one, and no network by the default one; check what all presets mean by the same name."""
    if "shape" in arguments:
        arguments["shape"] = event_shape(arguments["shape"] if kind is None else kind.shape_of(arguments))
        if "net" in arguments and arguments["net"] is None:
            arguments["net"] = MLP.Config() if len(arguments["shape"]) == 1 else UNet.Config()
    own = getattr(arguments.get("net"), "cond_features", None) if isinstance(arguments.get("net"), NetConfig) else None
    if own is not None and "cond_features" in arguments:  # of a configuration with a setting of this name
        if arguments["cond_features"] not in (None, own):
            raise ConditionError(f"cond_features is {arguments['cond_features']}, but the network's is {own}; give one of them.")
        arguments["cond_features"] = own
    for name in ("classes", "cond_features"):
        if arguments.get(name) is not None:
            whole(name, arguments[name], 1, hint="None is a model without them")
    if arguments.get("cond_image") is not None:
        arguments["cond_image"] = event_shape(arguments["cond_image"], "cond_image")


def checked_layers(layers: int, name: str = "layers") -> int:
    """Return the number of layers, or refuse what is none."""
    if not is_whole(layers) or layers < 1:
        raise UserError(f"{name} is {shown(layers)}, but a flow needs at least 1; try 8.")
    return layers


def built(
    net: Net,
    shape: Sequence[int],
    classes: int | None = None,
    outputs: int = 1,
    *,
    cond_features: int | None = None,
    cond_image: Sequence[int] | None = None,
    numbers: int = 0,
) -> Any:
    """Return the network: built from its configuration, to predict `outputs` times the channels and to read further numbers, or as it is.

    Raises:
        ConditionError: the network reads no conditions of this kind.
        UserError: it reads no numbers but t.
    """
    if not isinstance(net, NetConfig):
        return net
    both = {"cond_features": cond_features, "cond_image": cond_image}
    condition: dict[str, Any] = {name: one for name, one in both.items() if one is not None}
    takes = inspect.signature(net.build).parameters
    for name, value in condition.items():
        if name not in takes:
            raise ConditionError(f"{name} is {value}, but {net.name.rpartition('.')[2]} reads no such conditions; use UNet or DiT.")
    if numbers:
        if "numbers" not in takes:
            raise UserError(f"net is {net.name.rpartition('.')[2]}, which reads only t, but a flow map reads an interval; use UNet or DiT.")
        condition["numbers"] = numbers
    return net.build(shape, classes, **condition) if outputs == 1 else net.build(shape, classes, outputs, **condition)
