"""Rows of a table, drawn from the model or filled in."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pushforward.app.asked import asked
from pushforward.app.loaded import Loaded
from pushforward.app.rows import example, filled, fills, frame_of
from pushforward.app.shown import stage
from pushforward.app.states import drawn
from pushforward.app.views.parts import Word, buttons, connect, controls


def build(loaded: Loaded, word: Word, prefix: str = "") -> None:
    """Add the view."""
    gr.Markdown(word("about_table"))
    chosen = controls(loaded, word, n=20)
    draw, stop = buttons(word, "draw_rows")
    progress = gr.Textbox(label=word("progress"), interactive=False, max_lines=1)
    rows = gr.Dataframe(label=word("rows"), interactive=False, wrap=False, buttons=["fullscreen", "copy"])

    def table(*values: Any) -> Iterator[tuple[Any, str]]:
        wanted = asked(loaded, *values)
        for frame in drawn(loaded.model, wanted):
            yield (frame_of(loaded, frame.x, wanted.cond) if frame.last else gr.skip()), stage(frame)

    connect([draw.click], stop, table, chosen, [rows, progress], f"{prefix}table")
    if not fills(loaded):
        return
    gaps = gr.Dataframe(example(loaded), label=word("gaps"), interactive=True, type="pandas")
    fill, end = buttons(word, "fill")
    made = gr.Dataframe(label=word("filled"), interactive=False)

    def complete(frame: Any) -> Any:
        return filled(loaded, frame)

    connect([fill.click], end, complete, [gaps], [made], f"{prefix}fill")
