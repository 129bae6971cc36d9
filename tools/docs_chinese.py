"""The Chinese words of what the site states once for both languages: cells of tables and texts of plots, names of buttons.

docs/code prints tables and draws plots in English. On Chinese pages the cells and texts are those of chinese.yaml; the build fails where
one is missing there, so that no English sentence stands on a Chinese page unnoticed. Identifiers, units and names stay as they are. A plot
is an SVG file, whose texts are replaced; frames of moving pictures are drawn twice (docs_moving); other files of pixels are listed as
pictures without words in chinese.yaml, or have a Chinese one, zh_name, in the same folder.
"""

import functools
import html
import itertools
import re
from pathlib import Path
from typing import Any

import yaml

WORDS = Path(__file__).resolve().parent / "chinese.yaml"
CELL = re.compile(r"(<t[hd]\b[^>]*>)(.*?)(</t[hd]>)", re.DOTALL)
# What is the same in every language: code, formulas, links (titles of works, names of files), and tags themselves.
SAME = re.compile(r'<code\b.*?</code>|<a\b.*?</a>|<(span|div) class="arithmatex".*?</\1>|<[^>]+>', re.DOTALL)
HAN = re.compile(r"[\u4e00-\u9fff]")
WORD = re.compile(r"(?<![\w.(/'$\\-])[a-z]{2,}(?![\w=(./'-])")  # no part of an identifier, a call or a path
PRE = re.compile(r"(<pre\b.*?</pre>)", re.DOTALL)
SIGNS = "，。、；：！？（）“”《》…"
JOINED = re.compile(rf"(?<=[{SIGNS}])\n|\n(?=[{SIGNS}])|(?<=[\u4e00-\u9fff])\n(?=[\u4e00-\u9fff])")
LABEL = re.compile(
    r'<!-- (?P<text>[^\n]*?) -->\s*<g(?P<style> style="[^"]*")? transform="translate\((?P<place>[-\d. ]+)\)'
    r'(?P<turn> rotate\([-\d.]+\))? scale\((?P<size>[\d.]+) -[\d.]+\)">(?P<glyphs>.*?)</g>',
    re.DOTALL,
)
FONTS = "PingFang SC, Hiragino Sans GB, Microsoft YaHei, Noto Sans CJK SC, Source Han Sans SC, WenQuanYi Zen Hei, sans-serif"
FOOTNOTE = re.compile(r"Jump back to footnote (\d+) in the text")
PICTURE = re.compile(r"assets/(?P<name>(?P<folder>code/[\w-]+|results)/(?P<file>[\w-]+\.(?:svg|png|webp)))")
GLYPH = re.compile(r"<use\b[^>]*?(?:transform=\"translate\(([-\d.]+)|/>)")
LAST_GLYPH = 0.6  # the width of a letter, in units of the font's size


class ChineseError(Exception):
    """A text that chinese.yaml does not have."""


def chrome(output: str) -> str:
    """Return a page with the names of its buttons and anchors, which mkdocs.yml and extensions state in English, in Chinese."""
    names = words()["buttons"]
    named = re.compile(rf'\b(title|aria-label)="({"|".join(map(re.escape, names))})"')
    return named.sub(lambda match: f'{match[1]}="{names[match[2]]}"', FOOTNOTE.sub(r"回到正文中的脚注 \1", output))


def pictures(content: str, assets: Path) -> str:
    """Return the HTML of a page that shows the pictures with Chinese texts, where there are any.

    Raises:
        ChineseError: a picture may have English words: it has no Chinese one, and chinese.yaml does not list it.
    """
    return PICTURE.sub(lambda picture: f"assets/{_picture(picture, assets)}", content)


def _picture(found: re.Match[str], assets: Path) -> str:
    name, file = found["name"], found["file"]
    for chinese in (f"chinese/{name}", f"{found['folder']}/zh_{file}"):
        if (assets / chinese).exists():
            return chinese
    # The texts of a plot are outlines, and in Chinese or words that stay: write_plots refuses others. A missing file is refused by mkdocs.
    plain = not (assets / name).exists() or (file.endswith(".svg") and "<text" not in (assets / name).read_text(encoding="utf-8"))
    if not plain and name not in words()["pictures"]:
        raise ChineseError(
            f"{name} may have English words: draw plots by matplotlib as .svg and moving pictures by tools/docs_moving.py, "
            f"or add it to the pictures without words of tools/{WORDS.name}."
        )
    return str(name)


def write_plots(assets: Path) -> None:
    """Write the plots of code/ and results/ that have words into chinese/, in Chinese; what is the same is not written.

    Raises:
        ChineseError: with the plot and its first text that is in English.
    """
    folder, wanted = assets / "chinese", {}
    for path in sorted([*assets.glob("code/*/*.svg"), *assets.glob("results/*.svg")]):
        svg = path.read_text(encoding="utf-8")
        try:
            translated_svg = plot(svg)
        except ChineseError as error:
            raise ChineseError(f"{path.relative_to(assets)}: {error}") from error
        if translated_svg != svg:
            wanted[folder / path.relative_to(assets)] = translated_svg
    for path in folder.rglob("*.svg"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


@functools.cache
def words() -> Any:
    """Return chinese.yaml: exact texts and patterns of cells, texts of plots, pictures without words, and the names that stay."""
    found = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    found["patterns"] = [(re.compile(pattern), chinese) for pattern, chinese in found["patterns"].items()]
    return found


def english(text: str) -> str | None:
    """Return the first English word of a text in HTML that is no name, or None; Chinese sentences may use single ones."""
    plain = html.unescape(SAME.sub(" ", text))
    if HAN.search(plain):
        return None
    return next((word for word in WORD.findall(plain) if word not in words()["names"]), None)


def cell(text: str) -> str:
    """Return a cell in Chinese.

    Raises:
        ChineseError: it is in English, and chinese.yaml has neither the text nor a pattern of it.
    """
    stripped = text.strip()
    known = words()["cells"].get(html.unescape(stripped))
    if known is not None:
        return str(known)
    for pattern, chinese in words()["patterns"]:
        if match := pattern.fullmatch(stripped):
            return str(match.expand(chinese))
    if english(stripped):
        raise ChineseError(f"the cell {stripped!r} is in English; add it to cells or names of tools/{WORDS.name}.")
    return text


def translated(text: str) -> str | None:
    """Return a text of a plot in Chinese, or None where it stays.

    Raises:
        ChineseError: it is in English, and chinese.yaml has neither the text nor a pattern of it.
    """
    known = words()["labels"].get(text)
    if known is not None:
        return str(known)
    for pattern, chinese in words()["patterns"]:
        if match := pattern.fullmatch(text):
            return str(match.expand(chinese))
    if english(html.escape(text, quote=False)):
        raise ChineseError(f"the text {text!r} of a plot is in English; add it to labels or names of tools/{WORDS.name}.")
    return None


def page(content: str) -> str:
    """Return the HTML of a Chinese page with the cells of its tables in Chinese, and lines joined without the space of a line's end."""
    translated = CELL.sub(lambda match: match[1] + cell(match[2]) + match[3], content)
    return "".join(part if part.startswith("<pre") else JOINED.sub("", part) for part in PRE.split(translated))


def plot(svg: str) -> str:
    """Return a plot of matplotlib with its texts, which it draws as outlines, in Chinese; the same where nothing is to be translated.

    Raises:
        ChineseError: a text is in English and chinese.yaml does not have it.
    """
    return LABEL.sub(lambda match: label(match, anchor(svg, match.start())), svg)


def anchor(svg: str, place: int) -> str:
    """Return where a text is held: texts of legends begin at one line, those of the vertical axis end at one."""
    for kind, held in (("legend", "start"), ("ytick", "end")):
        opened = svg.rfind(f'<g id="{kind}_', 0, place)
        steps = (1 if tag[1] == "g" else -1 for tag in re.findall("<g[ >]|</g>", svg[max(opened, 0) : place]))
        if opened >= 0 and min(itertools.accumulate(steps)) > 0:  # not closed in between
            return held
    return "middle"


def label(match: re.Match[str], held: str) -> str:
    """Return one text of a plot in Chinese, held at the start, the middle or the end of the English one."""
    text = html.unescape(match["text"].strip())
    chinese = translated(text)
    if chinese is None:
        return match[0]
    size = 100 * float(match["size"])
    offsets = [float(offset or 0) / 100 for offset in GLYPH.findall(match["glyphs"])]
    width = size * (offsets[-1] + LAST_GLYPH) if offsets else 0
    x = {"start": 0, "middle": width / 2, "end": width}[held]
    defined = "".join(re.findall(r"<defs>.*?</defs>", match["glyphs"], re.DOTALL))  # outlines that later texts use
    drawn = f'<text x="{x:.2f}" text-anchor="{held}" font-size="{size:g}" font-family="{FONTS}">{html.escape(chinese, quote=False)}</text>'
    return f'{defined}<g{match["style"] or ""} transform="translate({match["place"]}){match["turn"] or ""}">{drawn}</g>'
