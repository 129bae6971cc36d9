"""Two models, or one with two samplers, from the same noise."""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from pushforward.app.asked import MOST_EVALUATIONS
from pushforward.app.loaded import Loaded
from pushforward.app.samplers import OWN, names_of
from pushforward.app.shown import FIRST, counterpart, side_by_side
from pushforward.app.views.parts import Word, buttons, connect, label_choice, picture


def build(models: Sequence[Loaded], word: Word, start: Any = None) -> None:
    """Add the view; `start`, an event, draws the first pictures."""
    gr.Markdown(word("about_compare"))
    names = [one.name for one in models]
    samplers = list(dict.fromkeys(name for one in models for name in names_of(one)))
    sides = []
    with gr.Row():
        for side, name in (("a", names[0]), ("b", counterpart(models).name)):
            with gr.Column(min_width=280):
                model = gr.Dropdown(names, value=name, label=word(f"model_{side}"))
                with gr.Row():
                    first = "Heun" if "Heun" in names_of(models[names.index(name)]) else OWN
                    sampler = gr.Dropdown(samplers, value=first, label=word(f"sampler_{side}"), min_width=120)
                    count = gr.Slider(1, MOST_EVALUATIONS, 20 if side == "a" else 4, step=1, label=word(f"count_{side}"), min_width=120)
                result = picture(word, "samples", caption=False)
                sides.append(([model, sampler, count], result, gr.Textbox(label=word("progress"), interactive=False, max_lines=1)))
    with gr.Row():
        n = gr.Slider(1, 64, min(64, FIRST[models[0].kind]), step=1, label=word("n"), min_width=120, visible=models[0].kind == "images")
        seed = gr.Number(0, precision=0, label=word("seed"), min_width=90)
        label = label_choice(models[0], word)
    draw, stop = buttons(word, "draw")

    def compare(*values: Any) -> Iterator[tuple[Any, ...]]:
        yield from side_by_side(models, *values)

    inputs = [*sides[0][0], *sides[1][0], n, seed, label]
    connect([draw.click], stop, compare, inputs, [*sides[0][1:], *sides[1][1:]], "compare", start)
