"""Texts of tables and plots on Chinese pages: translated, kept, or refused."""

import re
import xml.etree.ElementTree

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


def test_plots_of_chinese_pages_have_chinese_texts(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], label="network evaluations")
    axes.set(xlabel="evaluations", ylabel="recognised", title="DDIM")
    axes.set_yticks([0, 1], ["stored", "$x^2$"])
    axes.legend()
    chinese, results, folder = tool("docs_chinese"), tmp_path / "code", tmp_path / "chinese"
    (results / "one").mkdir(parents=True)
    (folder / "old").mkdir(parents=True)
    (folder / "old" / "gone.svg").write_text("<svg/>")
    figure.savefig(results / "one" / "a.svg")
    (results / "one" / "plain.svg").write_text("<svg/>")
    with pytest.raises(chinese.ChineseError, match=r"^docs/code/one\.py, a\.svg: the text 'stored' of a plot is in English"):
        chinese.write_plots(results, folder)
    axes.set_yticks([0, 1], ["first round", "$x^2$"])
    figure.savefig(results / "one" / "a.svg")
    chinese.write_plots(results, folder)
    svg = (folder / "one" / "a.svg").read_text()
    found = {text.text: text for text in xml.etree.ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {text: found[text].get("text-anchor") for text in found} == {
        "求值次数": "middle",
        "识别率": "middle",
        "第一轮训练": "end",
        "网络求值次数": "start",
    }
    drawn = set(re.findall(r'xlink:href="#([^"]+)"', svg))
    assert drawn <= set(re.findall(r' id="([^"]+)"', svg))  # outlines of letters that are still used are still there
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.svg")] == ["one/a.svg"]
    page = "![a](../assets/code/one/a.svg) ![b](../assets/code/one/plain.svg)"
    assert chinese.pictures(page, folder) == "![a](../assets/chinese/one/a.svg) ![b](../assets/code/one/plain.svg)"
