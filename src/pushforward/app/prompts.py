"""Images of texts, with a preview after each evaluation of the network."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import PIL.Image

from pushforward.app.asked import LARGEST_SEED, MOST, integer, number
from pushforward.app.loaded import Loaded, named
from pushforward.errors import UserError
from pushforward.sd3.progress import Progress

LONGEST = 2000  # characters of a prompt
MOST_STEPS = 100


class Preview(NamedTuple):
    """Images of a prompt so far: how many evaluations are done, of how many, and whether they are the result."""

    step: int
    total: int | None
    images: list[PIL.Image.Image]
    last: bool = False


def check_prompt(prompt: Any, what: str = "the prompt", empty: bool = False) -> str:
    """Return a prompt without spaces at its ends.

    Raises:
        UserError: it is empty or too long.
    """
    text = prompt.strip() if isinstance(prompt, str) else ""
    if not text and not empty:
        raise UserError(f"{what} is empty; describe the image in a few words.")
    if len(text) > LONGEST:
        raise UserError(f"{what} has {len(text)} characters, more than {LONGEST}; shorten it.")
    return text


def generated(
    loaded: Loaded, prompt: Any, negative: Any = "", n: Any = 1, steps: Any = 28, guidance: Any = 5.0, seed: Any = 0, size: Any = None
) -> Iterator[Preview]:
    """Yield previews after each evaluation of the network, and then the images; closing the iterator stops the computation.

    Raises:
        UserError: something was typed that cannot be, or the model makes no images of texts.
    """
    yield from _stepped(_sampling(loaded, prompt, negative, n, steps, guidance, seed, size))


def prompts_side_by_side(
    models: Sequence[Loaded], name_a: Any, steps_a: Any, name_b: Any, steps_b: Any, prompt: Any, negative: Any, guidance: Any, seed: Any
) -> Iterator[tuple[Preview, Preview]]:
    """Yield previews of both models, or of one with two numbers of steps, after each evaluation of either; one prompt and seed for both.

    Raises:
        UserError: something was typed that cannot be, found before anything is computed, or a model makes no images of texts.
    """
    wanted = [(named(models, name), steps) for name, steps in ((name_a, steps_a), (name_b, steps_b))]
    calls = [_sampling(one, prompt, negative, 1, steps, guidance, seed) for one, steps in wanted]
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(contextlib.closing(_stepped(one))) for one in calls]
        left, right = next(sides[0]), next(sides[1])
        yield left, right
        while not (left.last and right.last):
            left, right = next(sides[0], left), next(sides[1], right)
            yield left, right


def _sampling(
    loaded: Loaded, prompt: Any, negative: Any, n: Any, steps: Any, guidance: Any, seed: Any, size: Any = None
) -> Callable[[Callable[[Progress], None]], Any]:
    """Return what draws the images when it is called with a callback, after checking what was typed."""
    if loaded.pipeline is None:
        raise UserError(f"{loaded.name} makes no images of texts; give a run of `pushforward train sd3`, or a Stable Diffusion 3.")
    text, avoided = check_prompt(prompt), check_prompt(negative, "the negative prompt", empty=True)
    options: dict[str, Any] = {
        "steps": integer("the number of steps", steps, 1, MOST_STEPS),
        "guidance": number("guidance", guidance, 0, 50),
        "generator": integer("the seed", seed, 0, LARGEST_SEED),
    }
    count = integer("the number of images", n, 1, MOST["texts"])
    if size not in (None, ""):
        side = integer("the side", size, loaded.pipeline.step, max(loaded.pipeline.size))
        options["size"] = (side, side)
    return lambda callback: loaded.pipeline.sample([text] * count, avoided, callback=callback, **options)


def _stepped(sample: Callable[[Callable[[Progress], None]], Any]) -> Generator[Preview]:
    """Yield what a call reports while it computes in a thread of its own, which ends after the next step if the iterator is closed."""
    reports: queue.Queue[Any] = queue.Queue()
    closed = threading.Event()

    def report(progress: Progress) -> None:
        if closed.is_set():
            progress.stop()
        reports.put(Preview(progress.done, progress.total, progress.images()))

    def compute() -> None:
        try:
            reports.put(sample(report))
        except BaseException as error:  # passed on to the visitor's thread
            reports.put(error)

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    latest = Preview(0, None, [])
    try:
        while True:
            found = reports.get()
            if isinstance(found, BaseException):
                raise found
            if not isinstance(found, Preview):
                yield Preview(latest.step, latest.total, list(found), last=True)
                return
            latest = found
            yield found
    finally:
        closed.set()
