"""Noise becoming data, step by step, with classes, guidance and latent sliders."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pushforward.app.loaded import Loaded
from pushforward.app.shown import stepwise
from pushforward.app.views.parts import Word, buttons, connect, controls, picture
from pushforward.bases import Gaussian

SLIDES = 3


def build(loaded: Loaded, word: Word, prefix: str = "", start: Any = None) -> None:
    """Add the view; `start`, an event such as that of the loaded page, draws the first picture."""
    gr.Markdown(word("about"))
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            result = picture(word, "samples", caption=False)
            draw, stop = buttons(word, "draw")
            progress = gr.Textbox(label=word("progress"), interactive=False, max_lines=1)
        with gr.Column(scale=2, min_width=300):
            chosen = controls(loaded, word)
            shown = gr.Radio(
                [("x(t)", "state"), ("E[x | x(t)]", "expected")], value="state", label=word("shown"), visible=_predicts(loaded)
            )
            with gr.Accordion(word("latent"), open=False, visible=type(loaded.model.base) is Gaussian):
                slides = [gr.Slider(-3, 3, 0, step=0.05, label=word(f"slide_{k + 1}")) for k in range(SLIDES)]

    def sample(*values: Any) -> Iterator[tuple[Any, str]]:
        yield from stepwise(loaded, *values)

    triggers = [draw.click, *(one.release for one in slides)]
    connect(triggers, stop, sample, [*chosen, shown, *slides], [result, progress], f"{prefix}sample", start)


def _predicts(loaded: Loaded) -> bool:
    return hasattr(loaded.model, "denoiser") and hasattr(loaded.model, "path")
