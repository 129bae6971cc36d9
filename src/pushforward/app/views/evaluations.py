"""The same noise at any number of evaluations, with its distance to the exact solution."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pushforward.app.loaded import Loaded
from pushforward.app.pictures import picture_of
from pushforward.app.quality import measured, standing
from pushforward.app.views.parts import Word, buttons, connect, controls, picture


def build(loaded: Loaded, word: Word, prefix: str = "") -> None:
    """Add the view."""
    gr.Markdown(word("about_evaluations"))
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            result = picture(word, "samples", caption=False)
            draw, stop = buttons(word, "draw")
            numbers = gr.Textbox(label=word("standing"), interactive=False, max_lines=1)
        with gr.Column(scale=2, min_width=300):
            chosen = controls(loaded, word, extra=False)

    def evaluations(n: Any, seed: Any, label: Any, sampler: Any, count: Any, guidance: Any) -> Iterator[tuple[Any, str]]:
        for found in measured(loaded, n, seed, label, sampler, count, guidance):
            yield picture_of(loaded, found.frame.x, None), standing(found)

    triggers = [draw.click, chosen.evaluations.release, chosen.guidance.release, chosen.sampler.input]
    connect(triggers, stop, evaluations, chosen.components[:-1], [result, numbers], f"{prefix}evaluations")
