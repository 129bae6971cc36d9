"""What the build of the site refuses and shows: articles' facts, formulas, pictures; search and accessibility in Chromium."""

import datetime
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urljoin

import pytest
from chromium import BINARY, Browser
from tools_folder import tool

from pushforward import registry

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
no_chromium = pytest.mark.skipif(BINARY is None, reason="there is no Chromium")


def package(name):
    """Files of a package of npm, or a skipped test."""
    packages = tool("npm_packages")
    try:
        return packages.files(name)
    except packages.PackageError as error:
        pytest.skip(f"{name} is not here: {error}")


articles, formulas = tool("docs_articles"), tool("docs_formulas")
FRONT = {"date": datetime.date(2026, 11, 29), "tags": ["a", "b"], "summary": "One sentence."}


def test_every_article_has_date_tags_and_summary_in_both_languages():
    articles.check(ROOT / "docs")
    assert len(list((ROOT / "docs/en/articles").glob("*.md"))) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("date", None),
        ("date", "yesterday"),
        ("tags", None),
        ("tags", []),
        ("tags", "one"),
        ("tags", [1]),
        ("summary", None),
        ("summary", " "),
    ],
)
def test_an_article_without_its_facts_is_refused_with_its_page(name, value):
    with pytest.raises(articles.ArticleError, match=rf"^page\.md: {name} (is|are) .*, but the front matter"):
        articles.facts_of({**FRONT, name: value}, "page.md")


def written(folder, name, language="en", **changed):
    path = folder / "docs" / language / "articles" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    front = {**FRONT, **changed}
    path.write_text(f"---\n{yaml.safe_dump(front)}---\n\n# Title of {name} {{ #anchor }}\n\nText.\n")


def test_a_missing_or_different_translation_is_refused(tmp_path):
    written(tmp_path, "one")
    with pytest.raises(articles.ArticleError, match=r"there is no docs/zh/articles/one\.md; translate it"):
        articles.check(tmp_path / "docs")
    written(tmp_path, "one", "zh", tags=["a"])
    with pytest.raises(articles.ArticleError, match="date and number of tags must be those of"):
        articles.check(tmp_path / "docs")
    written(tmp_path, "one", "zh")
    articles.check(tmp_path / "docs")


@pytest.mark.parametrize(("language", "other"), [("en", "zh"), ("zh", "en")])
def test_a_page_of_one_language_is_refused(tmp_path, language, other):
    for one in ("en", "zh"):
        written(tmp_path, "one", one)
    page = tmp_path / "docs" / language / "extend" / "two.md"
    page.parent.mkdir()
    page.write_text("# Two\n")
    with pytest.raises(
        articles.ArticleError, match=rf"^docs/{language}/extend/two\.md: there is no docs/{other}/extend/two\.md; translate"
    ):
        articles.check(tmp_path / "docs")
    (tmp_path / "docs" / "en" / "reference").mkdir()
    (tmp_path / "docs" / "en" / "reference" / "nn.md").write_text("# Generated\n")
    page.rename(tmp_path / "docs" / "en" / "reference" / "two.md")
    articles.check(tmp_path / "docs")


def test_the_build_stops_at_a_page_of_one_language(monkeypatch, tmp_path):
    pytest.importorskip("mkdocs")
    docs = tool("docs")
    written(tmp_path, "one")
    monkeypatch.setattr(docs, "DOCS", tmp_path / "docs")
    with pytest.raises(docs.PluginError, match="translate it"):
        docs.on_pre_build(None)


TABLE = """# Others

As of May.

| | ours | a |
|---|---|---|
| one, two | Y | - |
| three | Y | Y |
| four | - | Y |

## More
"""


def test_the_front_page_shows_rows_of_the_comparison_with_its_date(tmp_path):
    libraries = tool("docs_libraries")
    (tmp_path / "libraries.md").write_text(TABLE.replace("| | ours", '<div class="peers" markdown>\n\n| | ours'))
    shown = libraries.compact("before\n<!-- libraries: four; one, two -->\nafter", tmp_path / "libraries.md")
    assert "| | ours | a |\n|---|---|---|\n| four | - | Y |\n| one, two | Y | - |\n" in shown
    assert "three" not in shown
    assert shown.count("As of May.") == 1
    assert shown.count("<div") == shown.count("</div>") == 2
    assert libraries.compact("no mark", tmp_path / "missing.md") == "no mark"
    with pytest.raises(libraries.LibrariesError, match=r"^libraries\.md has no row 'five'; its rows are 'one, two', 'three', 'four'"):
        libraries.compact("<!-- libraries: one, two; five -->", tmp_path / "libraries.md")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_rows_of_the_front_page_are_those_of_the_comparison(language):
    docs = ROOT / "docs" / language
    shown = tool("docs_libraries").compact((docs / "index.md").read_text(), docs / "libraries.md")
    assert shown.count("| Y |") > 10
    assert "| – | – |" in shown  # also what this library lacks


def test_what_moves_has_a_still_picture_and_a_narrow_one_where_there_is_one(tmp_path):
    pictures = tool("docs_pictures")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "b_narrow.webp").touch()
    page = '<img alt="a" src="../assets/code/a.webp"><img alt="b" src="assets/code/b.webp"><img alt="c" src="c.png">'
    a, b = re.findall("<picture>.*?</picture>", pictures.checked(page, tmp_path))
    reduced = '<source media="(prefers-reduced-motion: reduce)" srcset="'
    assert a == f'<picture>{reduced}../assets/code/a.png"><img alt="a" src="../assets/code/a.webp"></picture>'
    assert re.findall('srcset="assets/code/([^"]+)"', b) == ["b_narrow.png", "b_narrow.webp", "b.png"]
    assert pictures.checked(page, tmp_path).endswith('<img alt="c" src="c.png">')


def test_wide_plots_may_scroll(tmp_path):
    pictures = tool("docs_pictures")
    for name, size in {"wide": "648 216", "high": "648 400", "small": "500 100"}.items():
        (tmp_path / f"{name}.svg").write_text(f'<svg viewBox="0 0 {size}" />')
    page = "".join(f'<img alt="a" src="../assets/{name}.svg">' for name in ("wide", "high", "small", "missing"))
    assert pictures.checked(page, tmp_path) == page.replace(
        '<img alt="a" src="../assets/wide.svg">', '<span class="wide-plot"><img alt="a" src="../assets/wide.svg"></span>'
    )


def test_the_latest_articles_are_those_of_the_latest_days(tmp_path):
    for day in range(1, 9):
        written(tmp_path, f"day{day}", date=datetime.date(2026, 1, day))
    lines = articles.latest(tmp_path / "docs/en/articles").splitlines()
    assert [re.search(r"articles/(\w+)\.md", line)[1] for line in lines] == ["day8", "day7", "day6", "day5", "day4"]
    assert "[Title of day8](" in lines[0]
    assert "One sentence." in lines[0]
    assert '<time datetime="2026-01-08">' in lines[0]
    assert lines[0].count('class="tag"') == 2


def test_facts_stand_below_the_title_and_nowhere_else():
    shown = articles.below_title("# One\n\n## Two\n\n```sh\n# Three\n```\n", articles.facts_of(FRONT, "page.md"))
    assert shown.startswith('# One\n\n<p class="facts"><time datetime="2026-11-29">')
    assert shown.count("facts") == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
class TestFormulas:
    def rendered(self, *marked):
        return formulas.rendered("".join(marked), package("katex")["katex.min.js"])

    def test_inline_and_displayed_formulas_have_html_and_mathml(self):
        html = self.rendered(
            '<p><span class="arithmatex">\\(\\hat x_0\'\\)</span>', '<div class="arithmatex">\\[a &lt; \\frac{1}{2}\\]</div>text'
        )
        assert html.count("<math") == html.count('class="katex-html"') == html.count('class="katex-html" data-search-exclude') == 2
        assert html.count('<div class="formula"><span class="katex-display">') == 1
        assert "annotation" not in html
        assert html.endswith("</div>text")

    @pytest.mark.parametrize("formula", [r"\frac{x", r"\unknown x", r"a_b_c"])
    def test_what_is_no_formula_is_refused_with_its_source(self, formula):
        with pytest.raises(formulas.FormulaError, match=rf"^{re.escape(formula)} is not a formula: KaTeX parse error"):
            self.rendered(f'<span class="arithmatex">\\({formula}\\)</span>')

    def test_the_fonts_of_the_style_are_files_of_the_package(self):
        files = package("katex")
        style = formulas.stylesheet(files["katex.min.css"].read_text())
        fonts = re.findall(r"url\(([^)]+)\)", style)
        assert len(fonts) > 15
        assert set(fonts) <= set(files)
        assert style.count("@font-face") == len(fonts)


def test_a_picture_without_alternative_text_is_refused(monkeypatch):
    pytest.importorskip("mkdocs")
    docs = tool("docs")
    monkeypatch.setattr(docs, "_package", lambda name: {"katex.min.js": Path("katex.min.js")})
    page = type("Page", (), {"file": type("File", (), {"src_uri": "en/page.md"})})
    assert docs.on_page_content('<img alt="noise" src="a.png">', page, None, None)
    for image in ('<img src="a.png">', '<img alt="" src="a.png">'):
        with pytest.raises(docs.PluginError, match=r"^docs/en/page\.md: <img .* has no alternative text"):
            docs.on_page_content(f"<p>{image}</p>", page, None, None)


def test_chrome_of_chinese_pages_is_in_chinese():
    pytest.importorskip("mkdocs")
    docs = tool("docs")
    page = '<label title="Dark"></label><a title="Permanent link">Dark</a><a title="Jump back to footnote 2 in the text">'
    english, chinese = (docs.on_post_page(page, type("Page", (), {"url": url}), None) for url in ("data/", "zh/data/"))
    assert english == page
    assert re.findall('"([^"]+)">', chinese) == ["深色", "永久链接", "回到正文中的脚注 2"]
    assert ">Dark<" in chinese


def test_pages_lead_to_the_other_language_from_any_folder_and_name_no_sitemap(tmp_path):
    pytest.importorskip("mkdocs")
    docs, link = tool("docs"), '<a href="{}" hreflang="{}">'
    head = '<title>a</title>\n<link rel="alternate" href="/" hreflang="en">\n<link rel="alternate" href="/zh/" hreflang="zh"><p>'
    absolute = head + link.format("/", "en") + link.format("/zh/", "zh")
    for url in ("", "zh/", "zh/data/"):
        shown = docs.on_post_page(absolute, type("Page", (), {"url": url}), None)
        assert shown.startswith("<title>a</title><p>")
        led = [urljoin(f"https://a.example/folder/{url}", target) for target in re.findall('href="([^"]+)"', shown)]
        assert led == ["https://a.example/folder/", "https://a.example/folder/zh/"]
    missing = docs.on_post_template(link.format("/nn/", "en") + link.format("/zh/nn/", "zh"), "404.html", None)
    assert missing == link.format("/", "en") + link.format("/zh/", "zh")
    for address, kept in (("https://a.example/", True), (None, False), ("", False)):
        (tmp_path / "sitemap.xml").touch()
        docs.on_post_build(type("Config", (), {"site_url": address, "site_dir": str(tmp_path)}))
        assert (tmp_path / "sitemap.xml").exists() == kept


def test_names_of_other_libraries_lead_to_public_names():
    peers = yaml.safe_load((ROOT / "tools/peers.yaml").read_text())
    assert {ours for names in peers.values() for ours in names.values()} <= set(registry.names())


@pytest.mark.slow
def test_papers_and_peers_have_a_page_of_the_reference():
    page = tool("docs_papers").page()
    assert "| `zuko.flows.NSF` | [`pf.models.nsf`](models.md#models.nsf) |" in page
    ddim = page.partition("## Song, Meng and Ermon 2021 ")[2].partition("\n## ")[0]
    assert "Denoising diffusion implicit models (DDIM)" in ddim
    assert "(samplers.md#samplers.DDIM)" in ddim


WORDS = {  # query: pages or objects, one of which is among the first results
    "Song 2021": "papers/#arxiv-2010-02502",
    "score": "score",
    "zuko": "papers/#zuko",
    "DDIM": "samplers/#samplers.DDIM",
    "DPMSolverMultistepScheduler": "papers/#diffusers",
    "2006.11239": "papers/#arxiv-2006-11239",
    "MeanFlow": "models/#models.meanflow",
    "rectified flow": "rectified_flow",
    "Karras 2022": "papers/#arxiv-2206-00364",
    "torchdiffeq": "papers/#torchdiffeq",
    "Lipman": "papers/#arxiv-2210-02747",
    "neural spline": "papers/#arxiv-1906-04032",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The reference as a site with the theme and the search of mkdocs.yml, without running any code of the docs."""
    pytest.importorskip("websocket")
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("reference")
    (folder / "docs").mkdir()
    for name, text in {**tool("docs_reference").pages(), "papers.md": tool("docs_papers").page()}.items():
        (folder / "docs" / name).write_text(text)
    search = re.search(r"^  - search:\n(?:      .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0]
    extensions = "markdown_extensions: [attr_list, md_in_html, tables, pymdownx.superfences]\n"
    theme = f"theme: {{name: material, font: false, custom_dir: '{ROOT / 'docs/theme'}'}}\nsite_name: test\n"
    (folder / "mkdocs.yml").write_text(f"{theme}{extensions}plugins:\n{search}")
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet"], cwd=folder, check=True, capture_output=True)
    server = tool("check_accessibility").served(folder / "site")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@no_chromium
def test_search_finds_by_paper_formula_and_peer(reference):
    with Browser() as browser:
        for query, expected in WORDS.items():
            browser.open(f"{reference}/papers/?q={query.replace(' ', '%20')}")
            links = "[...document.querySelectorAll('.md-search-result__link')].map((e) => e.href)"
            browser.wait(f"{links}.length > 0", 90)
            found = browser.evaluate(links)
            assert any(expected in link for link in found[:12]), (query, found[:12])


@pytest.mark.slow
@no_chromium
def test_the_search_index_is_loaded_when_the_search_is_opened(reference):
    with Browser() as browser:
        browser.open(f"{reference}/404.html")
        browser.wait("document.readyState === 'complete' && document.querySelector('[role=dialog]') !== null")
        assert browser.evaluate("document.querySelector('[role=dialog]').ariaLabel") == "Search"
        browser.open(f"{reference}/papers/")
        browser.wait("document.readyState === 'complete'")
        time.sleep(1)
        asked = [one for one in browser.requests() if "search" in one]
        assert not [one for one in asked if one.endswith("search_index.json")]
        assert [one for one in asked if "/workers/search" in one]  # the bundle had started its search by then
        browser.click(".md-search__input")
        browser.call("Input.insertText", text="Karras")
        browser.wait("document.querySelectorAll('.md-search-result__link').length > 0", 90)
        assert [one for one in browser.requests() if one.endswith("/search/search_index.json")]
        assert not browser.complaints()


@pytest.mark.slow
@no_chromium
def test_the_check_of_the_first_paint_fails_on_a_heavy_page_only(tmp_path, capsys):
    pytest.importorskip("websocket")
    check = tool("check_first_paint")
    page = '<!doctype html><link rel="icon" href="data:,"><title>Page</title><link rel="stylesheet" href="style.css"><p>Text'
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "style.css").write_text("p { color: #111; }\n" * 20000)  # 380 kB, and little once compressed
    assert check.main([str(tmp_path)]) == 0
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "index.html").write_text(page)
    (tmp_path / "zh" / "style.css").write_text("".join(f"/* {hashlib.sha256(str(k).encode()).hexdigest()} */\n" for k in range(9000)))
    assert check.main([str(tmp_path)]) == 1
    assert re.search(r"\n/zh/ needs 3\d\d kB before its first paint, more than 300\n$", capsys.readouterr().out)
    assert check.main([str(tmp_path), "--limit", "400"]) == 0
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search_index.json").write_text("{}")
    (tmp_path / "index.html").write_text(page + "<script>setTimeout(() => fetch('/search/search_index.json'), 300)</script>")
    assert check.main([str(tmp_path), "--limit", "400"]) == 1
    assert capsys.readouterr().out.endswith("\n/ asks for /search/search_index.json before the search is opened\n")
    assert check.main([str(tmp_path / "missing")]) == 2


@pytest.mark.slow
@no_chromium
def test_the_accessibility_check_fails_on_a_page_with_a_finding_only(tmp_path, capsys):
    pytest.importorskip("websocket")
    package("axe-core")
    check = tool("check_accessibility")
    head = '<head><title>Page</title><link rel="icon" href="data:,"></head>'
    page = f'<!doctype html><html lang="en">{head}<body><main><h1>Page</h1>{{}}</main></body></html>'
    (tmp_path / "index.html").write_text(page.format('<label>Steps <input type="range"></label>'))
    assert check.main([str(tmp_path)]) == 0
    boxed = '<div style="overflow-x: auto" tabindex="0">{}</div>'
    wide = '<p style="width: 3000px">wide</p>'
    (tmp_path / "index.html").write_text(page.format(boxed.format(wide)))
    assert check.main([str(tmp_path)]) == 0
    (tmp_path / "bad.html").write_text(
        page.format(wide + '<input type="range"><p style="color: #ccc">pale</p><script src="none.js"></script>')
    )
    assert check.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "overflow on 1 pages" in printed
    assert "label on 1 pages" in printed
    assert "color-contrast on 1 pages" in printed
    assert "console on 1 pages" in printed
    assert json.dumps("/bad.html")[1:-1] in printed
    assert check.main([str(tmp_path / "missing")]) == 2
