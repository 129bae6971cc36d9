"""Texts of tables and plots on Chinese pages: translated, kept, or refused."""

import re
import xml.etree.ElementTree
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import pytest
from tools_folder import tool

pytest.importorskip("yaml")


def test_cells_of_chinese_pages_are_translated_and_names_stay():
    chinese = tool("docs_chinese")
    kept = ["DPM-Solver++ 2M", "<code>any words here</code>", "iris, 150 × 4", "测试 loss"]
    cells = ["training data", "94 to 100 %", "<code>meanflow</code>, teacher", *kept]
    shown = re.findall("<td>(.*?)</td>", chinese.page("".join(f"<td>{cell}</td>" for cell in cells)))
    assert shown == ["训练数据", "94–100 %", "<code>meanflow</code>，用教师", *kept]
    with pytest.raises(chinese.ChineseError, match=r"^the cell 'some <b>new</b> words' is in English; add it to .*chinese\.yaml"):
        chinese.page("<p>some words</p><td>some <b>new</b> words</td>")


def test_lines_of_chinese_paragraphs_are_joined_without_a_space():
    text = "<p>训练，\n采样\n评估\n<code>x</code>，\n<code>y</code>\nODE</p><pre>训练\n采样</pre>"
    assert tool("docs_chinese").page(text) == "<p>训练，采样评估\n<code>x</code>，<code>y</code>\nODE</p><pre>训练\n采样</pre>"


@pytest.fixture
def assets(tmp_path):
    for folder in ("code/one", "results", "chinese/code/old"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def plot(**texts):
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], label="network evaluations")
    axes.set(**texts)
    return figure, axes


def test_plots_of_chinese_pages_have_chinese_texts(assets):
    figure, axes = plot(xlabel="evaluations", ylabel="recognised", title="DDIM")
    axes.set_yticks([0, 1], ["stored", "$x^2$"])
    axes.legend()
    chinese, folder = tool("docs_chinese"), assets / "chinese"
    (folder / "code" / "old" / "gone.svg").write_text("<svg/>")
    figure.savefig(assets / "code" / "one" / "a.svg")
    (assets / "code" / "one" / "plain.svg").write_text("<svg/>")
    with pytest.raises(chinese.ChineseError, match=r"^code/one/a\.svg: the text 'stored' of a plot is in English"):
        chinese.write_plots(assets)
    axes.set_yticks([0, 1], ["first round", "$x^2$"])
    figure.savefig(assets / "code" / "one" / "a.svg")
    axes.set_title("after 2 of 10")
    figure.savefig(assets / "results" / "b.svg")
    chinese.write_plots(assets)
    svg = (folder / "code" / "one" / "a.svg").read_text()
    found = {text.text: text for text in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {text: found[text].get("text-anchor") for text in found} == {
        "求值次数": "middle",
        "识别率": "middle",
        "第一轮训练": "end",
        "网络求值次数": "start",
    }
    drawn = set(re.findall(r'xlink:href="#([^"]+)"', svg))
    assert drawn <= set(re.findall(r' id="([^"]+)"', svg))  # outlines of letters that are still used are still there
    assert ">第 2 层后，共 10 层</text>" in (folder / "results" / "b.svg").read_text()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.svg")) == ["code/one/a.svg", "results/b.svg"]
    page = '<img src="../assets/code/one/a.svg"><img src="../assets/code/one/plain.svg">'
    assert chinese.pictures(page, assets) == '<img src="../assets/chinese/code/one/a.svg"><img src="../assets/code/one/plain.svg">'


@pytest.mark.parametrize("name", ["code/one/new.png", "code/one/new.webp", "results/new.png", "code/one/texts.svg"])
def test_a_picture_that_may_have_english_words_is_refused_on_a_chinese_page(assets, monkeypatch, name):
    chinese, image = tool("docs_chinese"), f'<img src="../../assets/{name}">'
    (assets / name).write_text("<svg><text>words</text></svg>")
    with pytest.raises(chinese.ChineseError, match=rf"^{re.escape(name)} may have English words: draw plots by matplotlib as \.svg"):
        chinese.pictures(image, assets)
    monkeypatch.setitem(chinese.words(), "pictures", [name])
    assert chinese.pictures(image, assets) == image
    folder, _, file = name.rpartition("/")
    (assets / folder / f"zh_{file}").touch()
    assert chinese.pictures(image, assets) == f'<img src="../../assets/{folder}/zh_{file}">'


def test_pictures_without_words_exist_or_are_made():
    docs = Path(__file__).parents[1] / "docs"
    for name in tool("docs_chinese").words()["pictures"]:
        kind, *rest = name.split("/")
        assert (docs / "assets" / name).exists() if kind == "results" else (docs / "code" / f"{rest[0]}.py").exists(), name


class TestMovingPictures:
    @pytest.fixture
    def moving(self, monkeypatch, tmp_path):
        pytest.importorskip("matplotlib")
        monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
        monkeypatch.chdir(tmp_path)
        module = tool("docs_moving")
        try:
            module._font()
        except module.docs_chinese.ChineseError as error:
            pytest.skip(str(error))
        return module

    def test_frames_are_drawn_in_both_languages(self, moving, tmp_path):
        figures = [plot(title=f"rectified flow: {k} steps")[0] for k in (1, 2)]
        moving.save("a", figures, duration=100, quality=40)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.webp", "zh_a.png", "zh_a.webp"]
        english, chinese = (PIL.Image.open(tmp_path / f"{name}.webp") for name in ("a", "zh_a"))
        assert english.n_frames == chinese.n_frames == 2
        below = (0, 30, *english.size)  # the title is above
        difference = PIL.ImageChops.difference(*(one.convert("RGB") for one in (english, chinese)))
        assert difference.getbbox() is not None
        assert max(high for _, high in difference.crop(below).getextrema()) < 60
        assert figures[0].axes[0].get_title() == "整流流：1 步"

    def test_frames_without_words_are_drawn_once(self, moving, tmp_path):
        moving.save("a", [plot(title=f"t = {k}")[0] for k in (0, 1)], duration=100, quality=40)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.webp"]

    def test_english_that_cannot_be_translated_is_refused(self, moving, tmp_path, monkeypatch):
        figure, axes = plot(title="some new words")
        with pytest.raises(moving.docs_chinese.ChineseError, match="^the text 'some new words' of a plot is in English"):
            moving.save("a", [figure], duration=100, quality=40)
        axes.set_title("DDIM")
        axes.bar(["noise", "data"], [1, 2])
        with pytest.raises(moving.docs_chinese.ChineseError, match="^the text 'noise' is still in English; draw it as a title or label"):
            moving.save("a", [figure], duration=100, quality=40)
        monkeypatch.setattr(moving, "findSystemFonts", list)
        with pytest.raises(moving.docs_chinese.ChineseError, match="^there is no Chinese font, .* install one"):
            moving.in_chinese(plot(title="noise")[0])
        assert not list(tmp_path.iterdir())
