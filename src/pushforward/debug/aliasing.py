"""Find writes to memory that other elements, a caller or the backward pass still need, with the lines that cause them."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from pushforward.debug.findings import AliasingReport
from pushforward.debug.held import INPUT, PARAMETER, tensors_of
from pushforward.debug.naming import variable
from pushforward.debug.watch import Watch
from pushforward.errors import AliasingError
from pushforward.registry import export

F = TypeVar("F", bound=Callable[..., Any])


@export("debug.check_aliasing")
def check_aliasing(function: Callable[..., Any], *inputs: Any, **options: Any) -> AliasingReport:
    """Call a function or Module, and report each write to memory that other elements, the caller or the backward pass still need.

    The call runs as it is under a dispatch mode, which sees each operator before it runs: in forward, in backward and in an optimiser's
    step if the function does them. Reported are:

    - writes to a tensor whose elements share memory, as after expand, expand_as, broadcast_to, as_strided, unfold or from an array of numpy
      with stride 0: those that torch refuses ("more than one element of the written-to tensor refers to a single memory location")
      and those that it lets pass. Filling such a tensor with a number (`zero_`, `fill_`) is well defined and no finding;
    - writes to a part of an expanded tensor, such as mask[0] += 1, which change all other parts;
    - writes to the inputs (tensors, in containers and data sets), and to the parameters of a called Module, other than by an optimiser;
      an argument named out, or with a trailing underscore, may be written. Buffers may be written: that is what they are for;
    - values saved for backward that change before backward reads them, also past the version counter (.data).

    Not seen are: kernels that write memory without an operator of torch, such as Triton's or numpy's; what a custom operator writes in
    addition to what its schema declares; the inside of `torch.compile`, because the check runs compiled functions uncompiled; values saved
    within `torch.func` transforms and `torch.utils.checkpoint`; other processes. Views made before the check are judged by their shape
    and strides, but the line that made them is unknown. `unseen` of the report lists what of this was met.

    Args:
        function: what is called, in the grad mode of the caller.
        inputs: its arguments.
        options: its keyword arguments.

    Returns:
        The report: findings, the function's result, and the error if aliasing ended the call. Other errors are raised, with the findings
        as a note.

    Example:
        >>> def shift(x, bias):
        ...     bias = bias.expand_as(x)
        ...     return bias.add_(1) + x
        >>> report = check_aliasing(shift, torch.zeros(3, 4), torch.zeros(4))
        >>> [(one.kind, one.operator, one.shape, one.strides) for one in report.findings]
        [('overlap', 'aten.add_', (3, 4), (0, 1))]
    """
    watch, report = Watch(), AliasingReport()
    _hold(watch, function, inputs, options)
    try:
        with watch:
            report.result = function(*inputs, **options)
            if any(tensor.requires_grad for _, tensor in tensors_of(report.result, "result")):
                for saved in watch.saved.changed():
                    watch.add_saved(saved)
    except Exception as error:
        if not watch.explains(error):
            _note(error, watch)
            raise
        report.error = error
    _complete(report, watch, function, *inputs)
    return report


@export("debug.detect_aliasing")
class detect_aliasing:
    """Watch a block or a function as `check_aliasing` does, and raise if there is a finding.

    As a context manager it gives the report, which is complete when the block ends. As a decorator, `@detect_aliasing()`, it watches each
    call of the function, whose inputs it protects.

    Args:
        held: tensors, containers, data sets, or Modules (their parameters) that the block must not change except by an optimiser.
        raises: whether findings raise when the block ends; an error of torch is raised in any case.

    Raises:
        AliasingError: there are findings; the error of torch that ended the block is its cause. Another error is raised, with the findings
            as a note.

    Example:
        >>> data = torch.zeros(4)
        >>> with detect_aliasing(data, raises=False) as report:
        ...     _ = data[:2].add_(1)
        >>> [(one.kind, one.operator) for one in report.findings]
        [('input', 'aten.add_')]
    """

    def __init__(self, *held: Any, raises: bool = True) -> None:
        self._held, self._raises = held, raises

    def __enter__(self) -> AliasingReport:
        self._watch, self._report = Watch(), AliasingReport()
        for place, one in enumerate(self._held):
            kind = PARAMETER if isinstance(one, nn.Module) else INPUT
            self._watch.held.add(kind, variable(one) or f"held[{place}]", one)
        self._watch.__enter__()
        return self._report

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._watch.__exit__(kind, error, trace)
        report, watch = self._report, self._watch
        _complete(report, watch, *self._held)
        if error is not None and not watch.explains(error):
            _note(error, watch)
            return
        report.error = error
        if report.findings and self._raises:
            raise failure(report) from error

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            again = detect_aliasing(*self._held, raises=self._raises)
            with again:
                _hold(again._watch, function, args, kwargs)
                return function(*args, **kwargs)

        return watched  # type: ignore[return-value]


def failure(report: AliasingReport) -> AliasingError:
    """Return the error of a report: the first finding and the number of all."""
    more = len(report.findings) - 1
    error = AliasingError(str(report.findings[0]) + (f"\n(and {more} more, in .report)" if more else ""))
    error.report = report
    return error


def _note(error: BaseException, watch: Watch) -> None:
    """Add the findings to an error that has another cause, which is raised unchanged."""
    if watch.findings and isinstance(error, Exception):
        error.add_note("before this error: " + "\n".join(map(str, watch.findings.values())))


def _hold(watch: Watch, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hold the arguments of a call under the names of the function's parameters, and the parameters of a Module that is called."""
    called = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    for name, value in _arguments(function.forward if isinstance(function, nn.Module) else function, args, kwargs):
        if name != "out" and not name.endswith("_"):
            watch.held.add(INPUT, name, value)
    if isinstance(called, nn.Module):
        watch.held.add(PARAMETER, type(called).__name__, called)


def _arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a builtin, or a call that will fail by itself
        yield from ((f"inputs[{place}]", one) for place, one in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        variable = bound.signature.parameters[name].kind
        yield from value.items() if variable is inspect.Parameter.VAR_KEYWORD else ((name, value),)


def _complete(report: AliasingReport, watch: Watch, *run: Any) -> None:
    report.findings = list(watch.findings.values())
    report.unseen = [f"what {name} writes other than its schema declares" for name in sorted(watch.custom)]
    report.unseen += [f"writes to tensors of {name}, which have memory of another kind" for name in sorted(watch.other)]
    if watch.saved.transforms:
        report.unseen.append("values saved for backward within torch.func transforms")
    modules = [module for one in run if isinstance(one, nn.Module) for module in one.modules()]
    compiled = any(hasattr(one, "_torchdynamo_orig_callable") for one in run)
    if compiled or any(isinstance(one, torch._dynamo.OptimizedModule) for one in modules):
        report.unseen.append("compiled kernels: compiled functions ran uncompiled")
    if any(isinstance(one, torch.jit.ScriptModule) for one in modules):
        report.unseen.append("fused kernels of TorchScript")
