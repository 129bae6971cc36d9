"""What the page shows of a request, step by step: a picture, and how far it is."""

from collections.abc import Iterator, Sequence
from typing import Any

from pushforward.app.asked import EACH, asked
from pushforward.app.loaded import Loaded, named
from pushforward.app.pictures import joined, picture_of, window_of
from pushforward.app.prompts import Preview
from pushforward.app.states import Frame, check_comparable, drawn, together
from pushforward.errors import UserError

FIRST = {"images": 20, "plane": 2000, "table": 500, "series": 9, "texts": 1}  # samples unless a visitor chooses


def stage(frame: Frame | Preview) -> str:
    """Return how far a request is, in numbers, which need no translation."""
    bar = "✓" if frame.last else "…"
    return f"{frame.step} / {frame.total} {bar}" if frame.total else f"{frame.step} {bar}"


def stepwise(loaded: Loaded, *values: Any) -> Iterator[tuple[Any, str]]:
    """Yield a picture after each step with its progress; the values are those of `asked`, what is shown, and the latent sliders."""
    *settings, what, slide_1, slide_2, slide_3 = values
    n, seed, label, sampler, evaluations, guidance, temperature = settings
    slides = (slide_1, slide_2, slide_3)
    wanted = asked(loaded, n, seed, label, sampler, evaluations, guidance, temperature, slides)
    view = None if loaded.kind not in ("plane", "table") or loaded.tested is None else window_of(loaded.tested.x)
    for frame in drawn(loaded.model, wanted):
        x = frame.data if what == "expected" and frame.data is not None and not frame.last else frame.x
        window = None if view is None or frame.last else joined(view, window_of(x))
        yield picture_of(loaded, x, wanted.cond, window), stage(frame)


def side_by_side(models: Sequence[Loaded], *values: Any) -> Iterator[tuple[Any, str, Any, str]]:
    """Yield both pictures with their progress after each step of either model.

    Raises:
        UserError: the models cannot start from one noise, or what was typed cannot be.
    """
    (name_a, sampler_a, count_a, name_b, sampler_b, count_b, n, seed, label) = values
    a, b = (named(models, name) for name in (name_a, name_b))
    for one in (a, b):
        if one.kind == "texts":
            raise UserError(f"{one.name} makes images of texts; use the tab of prompts, or that of prompts side by side.")
    check_comparable(a.model, b.model, (a.name, b.name))
    count = n if a.kind == "images" else FIRST[a.kind]
    first = asked(a, count, seed, label, sampler_a, count_a)
    second = asked(b, count, seed, label if b.classes == a.classes else EACH, sampler_b, count_b)
    for left, right in together(drawn(a.model, first), drawn(b.model, second)):
        yield picture_of(a, left.x, first.cond), stage(left), picture_of(b, right.x, second.cond), stage(right)


def counterpart(models: Sequence[Loaded]) -> Loaded:
    """Return the next model that the first can be compared with, or the first itself."""
    first = models[0]
    equal = [one for one in models[1:] if one.model.shape == first.model.shape and type(one.model.base) is type(first.model.base)]
    return equal[0] if equal else first
