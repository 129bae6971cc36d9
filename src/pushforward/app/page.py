"""The page: a tab for each run, and in it one for each view that suits its model."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from pushforward.app.loaded import Loaded
from pushforward.app.samplers import names_of
from pushforward.app.views import compare, compare_prompts, evaluations, images, plane, prompt, sample, table
from pushforward.app.views.parts import Word
from pushforward.app.words import CHINESE, ENGLISH, PREFIX, translations

TITLE = "pushforward"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
STYLE = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container main, .gradio-container .wrap.sidebar-parent { width: 100% !important; }
.gradio-container main .tabs, .gradio-container main .tabitem { width: 100%; }
.picture .image-container { padding-top: 40px; }
.pictures .grid-wrap { max-height: none !important; height: auto !important; overflow: hidden !important; }
.picture { background: var(--block-background-fill); }
html, body { overflow-x: hidden; max-width: 100%; }
.gradio-container label, .gradio-container .head { word-break: keep-all; }
.gradio-container, .gradio-container .main, .gradio-container .wrap { min-width: 0 !important; }
.gradio-container main.contain, .gradio-container .tabs { min-width: 0 !important; }
@media (max-width: 700px) {
  .gradio-container { width: 100vw !important; overflow-x: hidden; }
  .gradio-container .main > .wrap { padding-left: 8px !important; padding-right: 8px !important; }
  .gradio-container main.contain, .gradio-container .tabs { max-width: calc(100vw - 16px) !important; overflow-x: clip; }
}
"""


def words() -> gr.I18n:
    """Return the words of the page in the browser's language; the settings at the foot of the page switch it."""
    chinese = translations(CHINESE)
    return gr.I18n(**{"en": translations(ENGLISH), "zh": chinese, "zh-CN": chinese, "zh-TW": chinese})


def keyed(texts: gr.I18n) -> Word:
    """Return what the views call with a key of `words`."""
    return lambda key: texts(f"{PREFIX}{key}")


def theme() -> Any:
    """Return a theme without fonts from elsewhere: those of the visitor's system."""
    return gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=("ui-monospace", "Consolas", "monospace"))


def page(models: Sequence[Loaded], word: Word) -> gr.Blocks:
    """Return the page of some models."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown(f"### {TITLE} · " + " · ".join(one.name for one in models))
        with gr.Tabs():
            if len(models) == 1:
                _views(models[0], models, word, "", blocks.load)
                return blocks
            for k, one in enumerate(models):
                with gr.Tab(one.name) as tab, gr.Tabs():
                    _views(one, models, word, f"{k}_", blocks.load if k == 0 else tab.select)
            texts, others = ([one for one in models if (one.kind == "texts") == of] for of in (True, False))
            if len(others) > 1:
                with gr.Tab(word("compare")) as tab:
                    compare.build(others, word, tab.select)
            if len(texts) > 1:
                with gr.Tab(word("compare_prompts")):
                    compare_prompts.build(texts, word)
    return blocks


def _views(loaded: Loaded, models: Sequence[Loaded], word: Word, prefix: str, start: Any) -> None:
    """Add a tab for each view that suits a model."""
    if loaded.kind == "texts":
        with gr.Tab(word("prompt")):
            prompt.build(loaded, word, prefix)
        if len(models) == 1:
            with gr.Tab(word("compare_prompts")):
                compare_prompts.build(models, word)
        return
    with gr.Tab(word("sample")):
        sample.build(loaded, word, prefix, start)
    if len(names_of(loaded)) > 1:
        with gr.Tab(word("evaluations")):
            evaluations.build(loaded, word, prefix)
    if loaded.kind == "plane":
        with gr.Tab(word("plane")) as tab:
            plane.build(loaded, word, prefix, tab.select)
    if loaded.kind == "table":
        with gr.Tab(word("table")):
            table.build(loaded, word, prefix)
    if loaded.kind == "images" and isinstance(loaded.model.levels, int):
        if loaded.encodes:
            with gr.Tab(word("interpolate")):
                images.build_interpolate(loaded, word, prefix)
        if loaded.has_density:
            with gr.Tab(word("likelihood")):
                images.build_likelihood(loaded, word, prefix)
        if loaded.paints:
            with gr.Tab(word("paint")):
                images.build_paint(loaded, word, prefix)
    if len(models) == 1:
        with gr.Tab(word("compare")) as tab:
            compare.build(models, word, tab.select)
