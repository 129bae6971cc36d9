"""Images of a visitor: between two of them, their likelihood, and a part drawn again."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from pushforward.app.answers import answered
from pushforward.app.asked import asked
from pushforward.app.likelihood import bits_of, bits_of_tests, placed, way_of
from pushforward.app.loaded import Loaded
from pushforward.app.painted import repainted
from pushforward.app.pictures import histogram, picture_of
from pushforward.app.pixels import from_test, interpolated, shown
from pushforward.app.shown import stage
from pushforward.app.views.parts import Word, apart, buttons, connect, controls, label_choice, picture


def build_interpolate(loaded: Loaded, word: Word, prefix: str = "") -> None:
    """Add the view of images between two."""
    gr.Markdown(word("about_interpolate"))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                images = [_upload(word(f"image_{side}")) for side in "ab"]
            _numbers(loaded, word, images, "take_tests", prefix, "interpolate")
            steps = gr.Slider(3, 16, 8, step=1, label=word("between"))
            kind = gr.Radio(["spherical", "linear"], value="spherical", label=word("kind"), info=word("kind_info"))
            label, inverted = label_choice(loaded, word), gr.Checkbox(False, label=word("inverted"))
            draw, stop = buttons(word, "draw")
        with gr.Column(scale=3, min_width=300):
            result = picture(word, "result")

    def interpolate(a: Any, b: Any, steps: Any, label: Any, kind: Any, inverted: Any) -> Iterator[Any]:
        yield from interpolated(loaded, a, b, steps, label, kind, bool(inverted))

    connect([draw.click], stop, interpolate, [*images, steps, label, kind, inverted], [result], f"{prefix}interpolate")


def build_likelihood(loaded: Loaded, word: Word, prefix: str = "") -> None:
    """Add the view of an image's likelihood."""
    gr.Markdown(word("about_likelihood"))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = _upload(word("image"))
            _numbers(loaded, word, [image], "take_test", prefix, "likelihood")
            label, inverted = label_choice(loaded, word), gr.Checkbox(False, label=word("inverted"))
            measure, stop = buttons(word, "measure")
        with gr.Column(scale=3, min_width=300):
            bits = gr.Textbox(label=word("bits"), interactive=False, max_lines=1)
            chart = picture(word, "distribution")

    def likelihood(image: Any, label: Any, inverted: Any) -> Iterator[tuple[str, Any]]:
        found = bits_of(loaded, image, label, bool(inverted))
        yield f"{found.value:.3f} …", None
        tests = bits_of_tests(loaded, way_of(loaded, label))
        found = placed(found, tests)
        text = f"{found.value:.3f}" if found.less_likely is None else f"{found.value:.3f} · {100 * found.less_likely:.0f} %"
        yield text, histogram(tests, found.value) if tests else None

    connect([measure.click], stop, likelihood, [image, label, inverted], [bits, chart], f"{prefix}likelihood")


def build_paint(loaded: Loaded, word: Word, prefix: str = "") -> None:
    """Add the view in which a part of an image is drawn again."""
    gr.Markdown(word("about_paint"))
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            editor = gr.ImageEditor(
                label=word("image"),
                type="pil",
                format="png",
                image_mode="RGBA",
                sources=("upload", "clipboard"),
                transforms=(),
                layers=False,
                brush=gr.Brush(default_size=40, colors=["#e4572e"], color_mode="fixed"),
                canvas_size=(320, 320),
                height=420,
            )
            _numbers(loaded, word, [editor], "take_test", prefix, "paint")
            chosen = controls(loaded, word, n=4, extra=False)
            chosen.sampler.value = "own"
            inverted = gr.Checkbox(False, label=word("inverted"))
            draw, stop = buttons(word, "repaint")
        with gr.Column(scale=1, min_width=300):
            kept, result = picture(word, "missing"), picture(word, "samples")
            progress = gr.Textbox(label=word("progress"), interactive=False, max_lines=1)

    def paint(edited: Any, inverted: Any, *settings: Any) -> Iterator[tuple[Any, Any, str]]:
        for frame, y in repainted(loaded, edited, asked(loaded, *settings), bool(inverted)):
            yield shown(loaded, y.nan_to_num()), picture_of(loaded, frame.x), stage(frame)

    connect([draw.click], stop, paint, [editor, inverted, *chosen.components[:-1]], [kept, result, progress], f"{prefix}paint")


def _upload(label: Any) -> Any:
    return gr.Image(
        label=label, type="filepath", format="png", image_mode=None, sources=["upload", "clipboard"], buttons=[], min_width=140, height=220
    )


def _numbers(loaded: Loaded, word: Word, images: list[Any], name: str, prefix: str, view: str) -> None:
    """Add numbers of test images with a button that puts these images in place; nothing where there is no test data."""
    if loaded.tested is None:
        return
    with gr.Row():
        numbers = [gr.Number(k, precision=0, label=word("test_number"), min_width=130) for k in range(len(images))]
        button = gr.Button(word(name), min_width=120)

    def take(*given: Any) -> Any:
        made = [from_test(loaded, one) for one in given]
        return made if len(made) > 1 else made[0]

    button.click(answered(apart(take)), numbers, images, api_name=f"{prefix}{view}_test", show_progress="hidden", concurrency_limit=8)
