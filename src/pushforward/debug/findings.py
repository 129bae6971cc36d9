"""What the check reports: one finding for each line that writes memory that it should not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pushforward.debug.places import Place
from pushforward.registry import export

HEADINGS = {
    "overlap": "{operator} writes {tensor}, whose elements share memory",
    "part": "{operator} writes a part of {tensor}, whose parts share memory",
    "partial": "{operator} writes {tensor} while it reads other elements of the same memory",
    "input": "{operator} changes {tensor}, which the caller still holds",
    "parameter": "{operator} changes {tensor}, a parameter, outside an optimiser",
    "saved": "{operator} changes {tensor} after it was saved for backward",
}


@export("debug.AliasingFinding")
@dataclass(eq=False)
class AliasingFinding:
    """One line that writes memory that it should not.

    Attributes: `kind` is "overlap" (elements of the written tensor share memory), "part" (a part of an expanded tensor is written, which
    changes the other parts), "partial" (the operator reads memory that it writes, at other indices), "input" (an argument of the call is
    changed), "parameter" (a parameter of the called Module is changed) or "saved" (a value saved for backward is changed). `name`, `shape`
    and `strides` are those of the tensor, `operator` is what writes, `written` the line that does, `made` the line that expanded or saved
    the tensor and `how` by what, `effect` what torch does, `remedy` what to write instead, and `count` how often it happened.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    operator: str
    written: Place | None
    how: str
    made: Place | None
    effect: str
    remedy: str
    count: int = 1

    def __str__(self) -> str:
        tensor = f"{self.name or 'a tensor'} of shape {self.shape} and strides {self.strides}"
        heading = HEADINGS[self.kind].format(operator=self.operator, tensor=tensor)
        rows = [("written", _shown(self.written)), (_verb(self.kind), self._origin()), ("torch", self.effect), ("remedy", self.remedy)]
        times = f" ({self.count} times)" if self.count > 1 else ""
        return "\n".join([heading + times, *(f"  {label:<9} {text}" for label, text in rows if text)])

    def _origin(self) -> str:
        if self.made is None:
            return self.how
        return f"{self.made} ({self.how})" if self.how else str(self.made)


def _verb(kind: str) -> str:
    return {"saved": "saved", "input": "held", "parameter": "held"}.get(kind, "expanded")


def _shown(place: Place | None) -> str:
    return "at no line of Python code" if place is None else str(place)


@export("debug.AliasingReport")
@dataclass(eq=False)
class AliasingReport:
    """What a check has found; it prints as text.

    Attributes: `findings`, each an `AliasingFinding`; `result` is what the checked function returned; `error` is the exception by which
    aliasing ended it, or None; `unseen` states which parts of the run the check could not see.
    """

    findings: Sequence[AliasingFinding] = ()
    result: Any = None
    error: BaseException | None = None
    unseen: Sequence[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = [f"{number}. {one}" for number, one in enumerate(self.findings, 1)] or ["no write to shared memory"]
        return "\n\n".join([*found, *(f"not seen: {one}" for one in self.unseen)])
