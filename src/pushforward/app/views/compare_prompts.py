"""Two models of images of texts, or one with two numbers of steps: one prompt, one seed."""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from pushforward.app.loaded import Loaded
from pushforward.app.prompts import MOST_STEPS, prompts_side_by_side
from pushforward.app.shown import stage
from pushforward.app.views.parts import Word, buttons, connect, picture
from pushforward.app.views.prompt import large


def build(models: Sequence[Loaded], word: Word) -> None:
    """Add the view."""
    gr.Markdown(word("about_compare_prompts"))
    names = [one.name for one in models]
    prompt = gr.Textbox(label=word("prompt_text"), lines=2)
    with gr.Row():
        negative = gr.Textbox(label=word("negative"), scale=2, min_width=280)
        guidance = gr.Slider(0, 15, 5, step=0.5, label=word("guidance"), min_width=160)
        seed = gr.Number(0, precision=0, label=word("seed"), min_width=90)
    draw, stop = buttons(word, "draw")
    inputs: list[Any] = []
    outputs: list[Any] = []
    with gr.Row():
        for side, name, count in (("a", names[0], 28), ("b", names[-1], 28 if len(names) > 1 else 4)):
            with gr.Column(min_width=280):
                inputs.append(gr.Dropdown(names, value=name, label=word(f"model_{side}")))
                inputs.append(gr.Slider(1, MOST_STEPS, count, step=1, label=word(f"steps_{side}"), min_width=120))
                outputs.append(picture(word, "samples", caption=False))
                outputs.append(gr.Textbox(label=word("progress"), interactive=False, max_lines=1))

    def compare(*values: Any) -> Iterator[tuple[Any, ...]]:
        for left, right in prompts_side_by_side(models, *values):
            yield large(left.images[0]), stage(left), large(right.images[0]), stage(right)

    connect([draw.click, prompt.submit], stop, compare, [*inputs, prompt, negative, guidance, seed], outputs, "compare_prompts")
