"""What the views share: the controls of a request, a button that stops it, and how many are computed together."""

import functools
import inspect
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr
import PIL.Image

from pushforward.app.answers import answered
from pushforward.app.asked import EACH, MOST, MOST_EVALUATIONS, NONE
from pushforward.app.loaded import Loaded
from pushforward.app.samplers import OWN, names_of
from pushforward.app.shown import FIRST

Word = Callable[[str], Any]
TOGETHER = 2  # requests that are computed at the same time; others wait in the queue


class Controls(NamedTuple):
    """The controls of samples, in the order of the arguments of `asked`."""

    n: Any
    seed: Any
    label: Any
    sampler: Any
    evaluations: Any
    guidance: Any
    temperature: Any

    @property
    def components(self) -> list[Any]:
        return list(self)


def controls(loaded: Loaded, word: Word, *, n: int | None = None, extra: bool = True) -> Controls:
    """Add the controls of samples; those that a model has no use for are hidden."""
    most, solved = MOST[loaded.kind], len(names_of(loaded)) > 1
    with gr.Row():
        number = gr.Slider(1, most, n or FIRST[loaded.kind], step=1, label=word("n"), min_width=140)
        seed = gr.Number(0, precision=0, label=word("seed"), min_width=90)
    label = label_choice(loaded, word)
    with gr.Row(visible=solved):
        sampler = sampler_choice(loaded, word("sampler"), word("sampler_info"))
        evaluations = gr.Slider(1, MOST_EVALUATIONS, 20, step=1, label=word("count"), min_width=140)
    guidance = gr.Slider(0, 10, 1, step=0.1, label=word("guidance"), visible=loaded.guides)
    temperature = gr.Slider(0.1, 2, 1, step=0.05, label=word("temperature"), visible=extra)
    return Controls(number, seed, label, sampler, evaluations, guidance, temperature)


def label_choice(loaded: Loaded, word: Word) -> Any:
    """Add the choice of a class, hidden for a model without."""
    choices = [("∀ all · 全部", EACH), *([("∅ none · 无", NONE)] if loaded.guides else []), *((one, one) for one in loaded.classes)]
    return gr.Dropdown(choices, value=EACH, label=word("label"), visible=bool(loaded.classes))


def sampler_choice(loaded: Loaded, label: Any, info: Any = None) -> Any:
    """Add the choice of a sampler: Heun's method where a model is solved in steps of the visitor's choice."""
    names = names_of(loaded)
    return gr.Dropdown(
        list(names), value="Heun" if "Heun" in names and loaded.kind != "texts" else OWN, label=label, info=info, min_width=140
    )


def buttons(word: Word, name: str) -> tuple[Any, Any]:
    """Add a button that starts a request and one that stops it."""
    with gr.Row():
        return gr.Button(word(name), variant="primary", min_width=90), gr.Button(word("stop"), min_width=90)


def connect(
    triggers: Sequence[Any],
    stop: Any,
    function: Callable[..., Iterator[Sequence[Any]]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    name: str,
    start: Any = None,
) -> None:
    """Compute outputs, step by step, when one of the triggers fires, and when `start` does for the first time.

    A new request of the same visitor replaces the one in progress, and `stop` ends it.
    """
    limits: dict[str, Any] = {"concurrency_limit": TOGETHER, "concurrency_id": "models", "show_progress": "minimal"}
    first = []
    if start is not None:
        drawn = gr.State(False)
        ends = [drawn, *outputs]
        first = [start(answered(apart(_once(function))), [drawn, *inputs], ends, api_visibility="private", trigger_mode="once", **limits)]
    on = {"api_name": name, "trigger_mode": "always_last", "cancels": first}
    event = gr.on(list(triggers), answered(apart(function)), list(inputs), list(outputs), **on, **limits)
    stop.click(None, cancels=[event, *first], queue=False, api_visibility="private")


def _once(function: Callable[..., Iterator[Sequence[Any]]]) -> Callable[..., Iterator[Any]]:
    """Return a function that yields True and what another one does, and nothing after that has been done."""

    def first(drawn: bool, *values: Any) -> Iterator[Any]:
        if drawn:
            yield gr.skip()
            return
        for found in function(*values):
            yield True, *found

    return first


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function or generator whose pictures have files of their own.

    Gradio names a file by its content, and would write it again while a browser is reading it, if two steps or visitors got equal pictures.
    """

    def marked(found: Any) -> Any:
        if isinstance(found, PIL.Image.Image):
            found.info["request"] = secrets.token_hex(8)  # it becomes part of the PNG
        elif isinstance(found, tuple | list):
            for one in found:
                marked(one)
        return found

    if inspect.isgeneratorfunction(function):
        return functools.wraps(function)(lambda *arguments: (yield from map(marked, function(*arguments))))
    return functools.wraps(function)(lambda *arguments: marked(function(*arguments)))


def picture(word: Word, name: str, caption: bool = True) -> Any:
    """Add a picture that is a result, with its name above it."""
    if caption:
        gr.Markdown(word(name))
    return gr.Image(
        label=word(name), show_label=False, format="png", interactive=False, buttons=["download", "fullscreen"], elem_classes="picture"
    )
