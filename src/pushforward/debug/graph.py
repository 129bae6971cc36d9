"""The graph that one call builds for its backward pass: what is saved, by which line and module, and where it is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pushforward._checks import shown
from pushforward._modes import eagerly
from pushforward.debug.graph_build import Builder, unreached
from pushforward.debug.graph_calls import Calls
from pushforward.debug.graph_record import GraphRecord
from pushforward.debug.graph_svg import svg_of
from pushforward.debug.graph_text import text_of
from pushforward.debug.storages import Storages, named_tensors
from pushforward.debug.subjects import subject_of
from pushforward.errors import UserError
from pushforward.formats.files import write_text
from pushforward.registry import export

CUTS = ("detach", "no_grad", "inference_mode")  # written in order to cut; other ends of the graph are only given as reasons


@export("debug.Graph")
class Graph(GraphRecord):
    """What `debug.graph` returns: the nodes, saved tensors and cuts of one call, as numbers, as text and as a picture.

    Args:
        title: what was called.
        nodes: all nodes in the order in which they were made, except for the leaves. A node has `operation` (the call in forward terms),
            `kind` (autograd's own name), `module`, `place` (the line), `inputs` and `leaves` (what receives gradients from it), `view`,
            `in_place` and `saved`. What it saved has `name`, `kind` (activation, parameter, buffer, input, held, attribute, recomputed),
            `label`, `shape`, `dtype`, `bytes` of its storage, `counted`, `view`, `version` and `overwritten`.
        cuts: detach and no_grad whose value is used in the graph, with `kind`, `place`, `module`, `parameters` and `used_by`.
        unreached: the parameters whose gradient will be None, with `name`, `reason` and `cut`.
        reached: names of the parameters that will receive a gradient.
        modules: the type of each module, by its dotted name.
    """

    def text(self, depth: int | None = None) -> str:
        """Return the graph as a tree of modules; `str` does the same.

        Args:
            depth: modules nested deeper are collapsed into one line each; None takes the largest depth with at most 60 lines.
        """
        return text_of(self, depth)

    def __str__(self) -> str:
        return self.text()

    def svg(self, path: str | Path | None = None, depth: int | None = None) -> str:
        """Return the graph as an SVG picture, from inputs at the top to the output at the bottom.

        Args:
            path: a file to write, atomically; None writes none.
            depth: modules nested deeper are collapsed into one box each; None opens those that keep the most bytes, up to 32 boxes.
        """
        text = svg_of(self, depth)
        if path is not None:
            write_text(Path(path), text)
        return text


@export("debug.graph")
def graph(model: Callable[..., Any], *inputs: Any, verb: str | None = None, **options: Any) -> Graph:
    """Call a model or function once, and return the graph that autograd built for the backward pass of what it returned.

    The call is an ordinary one: it draws random numbers and updates buffers, and no gradient is stored. Compiled code runs eagerly; an
    autograd.Function is one node. Where parameters are reached only through such Functions, which may return None for them, a backward
    pass is run too.

    Args:
        model: a model, a Module, or any function of tensors.
        inputs: the positional arguments of the call.
        verb: the name of the method to call, such as "log_prob"; None is a model's `loss`, a Module's `forward`, or the function itself.
        options: keyword arguments of the call.

    Returns:
        The graph, a frozen record, whose `str` is a tree of modules and whose `svg` is a picture.

    Raises:
        UserError: there is no such method, or the call returns no tensor.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> found = graph(net, torch.zeros(100, 2))
        >>> found.saved_bytes == 100 * 8 * 4  # what tanh returned; the input and the weights existed before
        True
        >>> found.unreached
        ()
    """
    subject = subject_of(model, verb, {**{f"inputs[{k}]": one for k, one in enumerate(inputs)}, **options})
    arguments = {**named_tensors(inputs, "inputs"), **named_tensors(options, "")}
    calls = Calls(
        {id(module): name for name, module in reversed(subject.modules.items())},
        {id(one): name for name, one in subject.parameters.items()},
        _observed.__code__,
    )
    with eagerly(), calls:
        returned = _observed(subject.call, inputs, options)
    outputs = [one for one in tree_leaves(returned) if isinstance(one, Tensor)]
    if not outputs:
        raise UserError(f"{subject.title} returned {shown(returned)}, which holds no tensor; give a function that returns one.")
    storages = Storages(
        (("parameter", subject.parameters), ("buffer", subject.buffers), ("input", arguments), ("held", subject.held)), calls.writes
    )
    names = {id(one): name for name, one in (*arguments.items(), *subject.parameters.items())}
    builder = Builder(outputs, calls, names, storages)
    nodes, cuts, reached = builder.nodes(), builder.cuts(), builder.reached()
    return Graph(
        title=subject.title,
        nodes=nodes,
        cuts=tuple(cut for cut, used in cuts.items() if used and cut.kind in CUTS),
        unreached=unreached(subject.parameters, reached, cuts, calls),
        reached=tuple(name for name in subject.parameters if name in reached),
        modules={name: type(module).__name__ for name, module in subject.modules.items()},
    )


def _observed(call: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return call(*inputs, **options)
