"""Moving pictures of docs/code, drawn frame by frame with matplotlib: name.webp and a still name.png, and both in Chinese.

The Chinese ones, zh_name.webp and zh_name.png, have the same frames with the texts of chinese.yaml; where no text differs there are none.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import docs_chinese
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findSystemFonts
from matplotlib.text import Text
from PIL import Image

FONTS = ("NotoSansCJK-Regular", "NotoSansCJKsc-Regular", "SourceHanSansSC-Regular", "wqy-zenhei", "wqy-microhei", "PingFang", "msyh")


def save(name: str, figures: Iterable[Figure], *, duration: int, quality: int) -> None:
    """Write the frames as name.webp, the last one as name.png, and zh_name.webp and zh_name.png where texts are to be translated.

    Args:
        name: of the files, without an ending.
        figures: a frame each; their texts are in Chinese afterwards.
        duration: of a frame, in milliseconds.
        quality: of the compression, from 0 to 100.

    Raises:
        ChineseError: a text is in English and chinese.yaml does not have it, or there is no Chinese font.
    """
    frames: dict[str, list[Image.Image]] = {name: [], f"zh_{name}": []}
    differ = False
    for figure in figures:
        frames[name].append(_pixels(figure))
        differ |= in_chinese(figure)
        frames[f"zh_{name}"].append(_pixels(figure))
        _check(figure)
    for file, (first, *rest) in list(frames.items())[: 2 if differ else 1]:
        first.save(f"{file}.webp", save_all=True, append_images=rest, duration=duration, loop=0, quality=quality, method=4)
        rest[-1].save(f"{file}.png", optimize=True)


def in_chinese(figure: Figure) -> bool:
    """Replace the texts of a figure by those of chinese.yaml, and return whether any differs."""
    differ = False
    for text in figure.findobj(Text):
        chinese = docs_chinese.translated(text.get_text())
        if chinese is not None and chinese != text.get_text():
            text.set_text(chinese)
            text.set_fontproperties(FontProperties(fname=_font(), size=text.get_fontsize()))
            differ = True
    return differ


def _check(figure: Figure) -> None:
    """Refuse English labels of ticks: each drawing makes new ones, so that they cannot be translated here."""
    for text in figure.findobj(Text):
        if docs_chinese.english(text.get_text()):
            raise docs_chinese.ChineseError(f"the text {text.get_text()!r} is still in English; draw it as a title or label, not a tick.")


def _font() -> str:
    """Return the file of a Chinese font."""
    found = {Path(path).stem: path for path in findSystemFonts()}
    known = next((found[name] for name in FONTS if name in found), None)
    if known is None:
        raise docs_chinese.ChineseError(
            "there is no Chinese font, with which moving pictures of Chinese pages are drawn; "
            "install one (Debian and Ubuntu: apt install fonts-wqy-zenhei)."
        )
    return known


def _pixels(figure: Figure) -> Image.Image:
    held = io.BytesIO()
    figure.savefig(held, format="png", facecolor=figure.get_facecolor())
    return Image.open(held).convert("RGB")
