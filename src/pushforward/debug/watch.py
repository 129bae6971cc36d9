"""The dispatch mode that sees every operator, and decides which writes are findings."""

import itertools
import threading
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pushforward.debug import remedies
from pushforward.debug.findings import AliasingFinding
from pushforward.debug.held import PARAMETER, Held
from pushforward.debug.naming import name_of
from pushforward.debug.operators import Plan, plan_of
from pushforward.debug.overlap import crosses, overlapping, strided
from pushforward.debug.places import Mark, here, in_optimiser, place
from pushforward.debug.saved import Saved, SavedValues, Write
from pushforward.debug.views import BEFORE, Origin, Views
from pushforward.errors import AliasingError

RAISES = {
    message: f'raises RuntimeError, "{message} single memory location"'
    for message in (
        "more than one element of the written-to tensor refers to a",
        "some elements of the input tensor and the written-to tensor refer to a",
    )
}
PASSES = "does not raise: all elements with the same memory change, the last write to each counts"
BEYOND = "would write beyond the memory: this kernel takes it to be dense, so that the check did not run it"
RENORMALISES = "embedding_renorm_"  # nn.Embedding(max_norm=) changes its parameter by definition


class Watch(TorchDispatchMode):
    """Sees every operator between enter and exit, also those of backward and of optimisers, and collects findings."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.views, self.held = Views(), Held()
        self.saved = SavedValues(self.report_saved, self._thread)
        self.findings: dict[tuple[Any, ...], AliasingFinding] = {}
        self.custom: set[str] = set()  # operators
        self.other: set[str] = set()  # classes and layouts of written tensors that are not strided
        self._plans: dict[Any, Plan | None] = {}
        self._raised: BaseException | None = None

    def __enter__(self) -> "Watch":
        self._uncompiled = torch.compiler.set_stance("force_eager")  # compiled kernels are no operators; fullgraph=True would raise
        self.saved.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.saved.__exit__(*error)
        self._uncompiled.__exit__(*error)

    def explains(self, error: BaseException) -> bool:
        """Return whether a finding is the cause of an error."""
        return error is self._raised or isinstance(error, AliasingError)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            plan = self._plans[func]
        except KeyError:
            plan = self._plans[func] = plan_of(func)
        if plan is None:
            return func(*args, **kwargs)
        if plan.custom:
            self.custom.add(plan.name.partition(".")[0] + "::" + plan.name.partition(".")[2])
        found: list[AliasingFinding] = []
        if plan.written:
            found = self._before(plan, args, kwargs)
        try:
            output = func(*args, **kwargs)
        except RuntimeError as error:
            effect = next((text for message, text in RAISES.items() if message in str(error)), "")
            if effect and not found:  # x[x] = 0: the index is what is written, which elementwise operators may do and indexing may not
                found = [self._crossing(plan, one) for _, one in itertools.islice(plan.writes(args, kwargs), 1)]
            for one in found:
                one.effect = effect or f"raises {type(error).__name__}"
                self._raised = error
            raise
        if plan.written:
            self._after(plan, args, kwargs)
        if plan.views:
            self.views.viewed(plan.name, args, output, self._thread)
        return output

    def _before(self, plan: Plan, args: Any, kwargs: Any) -> list[AliasingFinding]:
        """Look at the tensors that an operator is about to write; return the findings of overlapping memory, which torch may refuse."""
        found = []
        for argument, tensor in plan.writes(args, kwargs):
            if not strided(tensor):
                self.other.add(type(tensor).__name__ if tensor.layout is torch.strided else str(tensor.layout))
                continue
            if not plan.same_value and overlapping(tensor):
                found.append(self._overlap(plan, argument, tensor))
                if plan.dense:
                    raise AliasingError(str(found[-1]))
            elif (parent := self.views.expanded_parent(tensor)) is not None:
                self._part(plan, parent)
            if plan.one and any(crosses(tensor, one) for one in plan.reads(args, kwargs)):
                found.append(self._crossing(plan, tensor))
        return found

    def _after(self, plan: Plan, args: Any, kwargs: Any) -> None:
        """Look at the tensors that an operator has written: whether they are held, and what they mean for saved values."""
        for _, tensor in plan.writes(args, kwargs):
            if strided(tensor):
                if self.held:
                    self._change_of_held(plan, tensor)
                if plan.training is None:  # running moments are written without a new version, and backward does not read them
                    self.saved.written(tensor, plan.name)

    def _overlap(self, plan: Plan, argument: str, tensor: Tensor) -> AliasingFinding:
        mark, (name, role) = here(self._thread), name_of(tensor, self._thread)
        role = remedies.OUT if plan.name.count(".") == 2 else remedies.BUFFER if argument.startswith("running_") else role
        origin = self.views.origin(tensor) or Origin(BEFORE, ())
        made, how = place(origin.mark), _how(origin)
        remedy = remedies.of_overlap(role, plan.name, tuple(tensor.shape), origin.how, made)
        return self._add(
            "overlap",
            name or ("" if argument == "self" else argument),
            tensor,
            plan.name,
            mark,
            how,
            origin.mark,
            BEYOND if plan.dense else PASSES,
            remedy,
        )

    def _crossing(self, plan: Plan, tensor: Tensor) -> AliasingFinding:
        name, effect = name_of(tensor, self._thread)[0], "does not raise: the result depends on the order in which elements are written"
        return self._add("partial", name, tensor, plan.name, here(self._thread), "", (), effect, remedies.PARTIAL)

    def _part(self, plan: Plan, parent: Tensor) -> None:
        origin = self.views.origin(parent) or Origin(BEFORE, ())
        remedy = remedies.of_overlap(remedies.PLAIN, "aten.copy_", tuple(parent.shape), origin.how, place(origin.mark))
        effect = "does not raise: the part itself does not overlap, but all others change with it"
        self._add(
            "part", name_of(parent, self._thread)[0], parent, plan.name, here(self._thread), _how(origin), origin.mark, effect, remedy
        )

    def _change_of_held(self, plan: Plan, tensor: Tensor) -> None:
        changed = self.held.changed_by(tensor)
        if changed is None or in_optimiser():
            return
        kind, name, held = changed
        if kind == PARAMETER:
            if plan.name.endswith(RENORMALISES):
                return
            remedy, how = remedies.PARAMETERS, "parameter of the checked Module"
        else:
            own = name_of(tensor, self._thread)[0]
            remedy, how = remedies.of_input(plan.name, own), "passed to the check"
        self._add(
            kind,
            name,
            held,
            plan.name,
            here(self._thread),
            how,
            (),
            "does not raise: the caller's tensor has other values afterwards",
            remedy,
        )

    def report_saved(self, saved: Saved) -> None:
        """Add the finding of a value that changed after it was saved; raise if torch would.

        Raises:
            AliasingError: torch would have raised here.
        """
        finding = self.add_saved(saved)
        if saved.changed:
            raise AliasingError(str(finding))

    def add_saved(self, saved: Saved) -> AliasingFinding:
        """Add the finding of a value that changed after it was saved."""
        later, touched = saved.later(), saved.touched()
        write: Write | None = later[0] if later else None
        operator = write.operator if write else "an operation that the check does not see"
        if not saved.changed:
            effect = "does not raise: the write went past the version counter (.data), and the gradient is computed from the new values"
        elif touched is None and write is not None:
            effect = "raises RuntimeError in backward: it counts writes to the whole base, although another part was written"
        else:
            effect = 'raises RuntimeError in backward, "has been modified by an inplace operation"'
        remedy = remedies.of_saved(operator if write else "", touched is not None or write is None, write is not None and write.optimiser)
        name = name_of(saved.tensor, self._thread)[0]
        node = torch._C._current_autograd_node()
        how = "" if node is None else f"for {node.name()}"
        return self._add("saved", name, saved.tensor, operator, write.mark if write else (), how, saved.mark, effect, remedy)

    def _add(
        self, kind: str, name: str, tensor: Tensor, operator: str, mark: Mark, how: str, made: Mark, effect: str, remedy: str
    ) -> AliasingFinding:
        key = kind, name, operator, mark, made
        if key in self.findings:
            self.findings[key].count += 1
        else:
            shape, strides = tuple(tensor.shape), tensor.stride()
            self.findings[key] = AliasingFinding(kind, name, shape, strides, operator, place(mark), how, place(made), effect, remedy)
        return self.findings[key]


def _how(origin: Origin) -> str:
    """Return how a tensor came to overlap itself, with the name by which the line calls the operator."""
    line = place(origin.mark)
    called = line.called() if line is not None else ""
    how = called if called and hasattr(torch, called) | hasattr(torch.Tensor, called) else origin.how
    return how if origin.source is None else f"{how}, from shape {origin.source}"
