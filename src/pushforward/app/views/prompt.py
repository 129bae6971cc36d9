"""Images of a prompt, with previews."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pushforward.app.asked import MOST
from pushforward.app.loaded import Loaded
from pushforward.app.prompts import MOST_STEPS, generated
from pushforward.app.shown import stage
from pushforward.app.views.parts import Word, buttons, connect


def build(loaded: Loaded, word: Word, prefix: str = "") -> None:
    """Add the view."""
    gr.Markdown(word("about_prompt"))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(label=word("prompt_text"), lines=2)
            negative = gr.Textbox(label=word("negative"))
            with gr.Row():
                n = gr.Slider(1, MOST["texts"], 1, step=1, label=word("images"), min_width=120)
                steps = gr.Slider(1, MOST_STEPS, 28, step=1, label=word("steps"), min_width=120)
            with gr.Row():
                guidance = gr.Slider(0, 15, 5, step=0.5, label=word("guidance"), min_width=120)
                seed = gr.Number(0, precision=0, label=word("seed"), min_width=90)
            draw, stop = buttons(word, "draw")
        with gr.Column(scale=3, min_width=300):
            look: dict[str, Any] = {"columns": 2, "height": "auto", "object_fit": "contain", "elem_classes": "pictures"}
            images = gr.Gallery(label=word("samples"), format="png", buttons=["download", "fullscreen"], **look)
            progress = gr.Textbox(label=word("progress"), interactive=False, max_lines=1)

    def text(*values: Any) -> Iterator[tuple[Any, str]]:
        for preview in generated(loaded, *values):
            yield [large(one) for one in preview.images], stage(preview)

    inputs = [prompt, negative, n, steps, guidance, seed]
    connect([draw.click, prompt.submit], stop, text, inputs, [images, progress], f"{prefix}prompt")


def large(image: Any) -> Any:
    """Return a preview enlarged, as one of 32 pixels would be hard to see."""
    factor = max(1, 256 // max(image.size))
    return image.resize((image.width * factor, image.height * factor))
