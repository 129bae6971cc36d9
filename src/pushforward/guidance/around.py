"""Guidance around another guidance, and what a user may give as guidance."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

from pushforward._checks import is_real, shown
from pushforward.errors import UserError
from pushforward.guidance.cfg import CFG
from pushforward.guidance.guidance import Guidance, Guided
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.sampler import Sampler


class Around(Guidance):
    """Guidance that contains another one in its field `guidance`: a guidance, a scale, or None."""

    guidance: Guidance | float | None

    @property
    def needs_unconditional(self) -> bool:
        inner = as_guidance(self.guidance)
        return inner is not None and inner.needs_unconditional

    def inside(self, denoiser: Denoiser) -> Denoiser | Guided:
        """Return the denoiser with the inner guidance applied."""
        inner = as_guidance(self.guidance)
        return denoiser if inner is None else inner(denoiser)

    @property
    def shares_condition(self) -> bool:
        inner = as_guidance(self.guidance)
        return inner is not None and inner.shares_condition

    def check_model(self, model: Any) -> None:
        inner = as_guidance(self.guidance)
        if inner is not None:
            inner.check_model(model)

    def on_model(self, model: Any, units: Any = None) -> Self:
        self.check_model(model)
        return self._around(lambda inner: inner.on_model(model, units))

    @property
    def sampler(self) -> Sampler | None:
        inner = as_guidance(self.guidance)
        return None if inner is None else inner.sampler

    @property
    def has_density(self) -> bool:
        inner = as_guidance(self.guidance)
        return inner is None or inner.has_density

    @property
    def needs_times(self) -> bool:
        inner = as_guidance(self.guidance)
        return inner is not None and inner.needs_times

    def rows(self, rows: slice, n: int) -> Self:
        return self._around(lambda inner: inner.rows(rows, n))

    def prepared(self, prepare: Callable[[Any], Any]) -> Self:
        return self._around(lambda inner: inner.prepared(prepare))

    def on(self, times: Sequence[float]) -> Guidance | None:
        return self._around(lambda inner: inner.on(times))

    def _around(self, change: Callable[[Guidance], Guidance | None]) -> Self:
        """Return it around the changed inner guidance."""
        inner = as_guidance(self.guidance)
        return self if inner is None else replace(self, guidance=change(inner))  # type: ignore[type-var]


def as_guidance(guidance: Guidance | float | None) -> Guidance | None:
    """Return a guidance unchanged, and a number as the scale of classifier-free guidance."""
    if guidance is None or isinstance(guidance, Guidance):
        return guidance
    if not is_real(guidance):
        raise UserError(f"guidance is {shown(guidance)}, but it is a number such as 3.0, or a guidance such as pf.guidance.CFG(3.0).")
    return CFG(float(guidance))


def loop_of(guidance: Guidance | float | None, sampler: Sampler | None) -> Sampler | None:
    """Return the steps of guidance that is a loop of its own, or None.

    Raises:
        UserError: there is a sampler too.
    """
    loop = guidance.sampler if isinstance(guidance, Guidance) else None
    if loop is not None and sampler is not None:
        raise UserError(f"sampler is {sampler}, but {guidance} is a loop of its own; leave sampler out, and give steps= to the guidance.")
    return loop
