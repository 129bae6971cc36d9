"""A model of the plane: its density, and a grid of noise that it deforms."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pushforward.app.asked import asked
from pushforward.app.loaded import Loaded
from pushforward.app.pictures import density_picture, lines_picture
from pushforward.app.plane import densities, grids
from pushforward.app.shown import stage
from pushforward.app.views.parts import Word, buttons, connect, controls, picture


def build(loaded: Loaded, word: Word, prefix: str = "", start: Any = None) -> None:
    """Add the view; `start`, an event, draws the first pictures."""
    gr.Markdown(word("about_plane"))
    chosen = controls(loaded, word, extra=False)
    chosen.n.visible = False
    with gr.Row():
        with gr.Column(min_width=300, visible=loaded.has_density):
            density = picture(word, "density")
            draw, stop = buttons(word, "density_draw")
            share = gr.Textbox(label=word("progress"), interactive=False, max_lines=1)
        with gr.Column(min_width=300):
            grid = picture(word, "grid")
            deform, end = buttons(word, "grid_draw")
            progress = gr.Textbox(label=word("progress"), interactive=False, max_lines=1)

    def dense(label: Any) -> Iterator[tuple[Any, str]]:
        for values, window, done in densities(loaded, label):
            yield density_picture(values, window), f"{100 * done:.0f} %"

    def deformed(seed: Any, label: Any, sampler: Any, evaluations: Any, guidance: Any) -> Iterator[tuple[Any, str]]:
        for lines, frame in grids(loaded, asked(loaded, 1, seed, label, sampler, evaluations, guidance)):
            yield lines_picture(lines), stage(frame)

    connect([draw.click], stop, dense, [chosen.label], [density, share], f"{prefix}density", start if loaded.has_density else None)
    inputs = [chosen.seed, chosen.label, chosen.sampler, chosen.evaluations, chosen.guidance]
    connect([deform.click], end, deformed, inputs, [grid, progress], f"{prefix}grid", start)
