"""What the page states where something was typed or uploaded wrongly, in Chinese."""

import ast
import re
import types
from pathlib import Path

import pytest

import pushforward.app
from pushforward.app.answers import answered
from pushforward.app.chinese import SENTENCES, WHAT, in_chinese, wanted
from pushforward.errors import UserError

FOLDER = Path(pushforward.app.__file__).parent
AT_START = ("loaded.py", "serve.py")  # what the command line states before there is a page
CHINESE = re.compile("[\u4e00-\u9fff]")


def stated():
    """The sentences in the page's sources, with {} for each value."""
    found = set()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.name not in AT_START else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("UserError", "NotInvertibleError", "_shown")
            ):
                (text,) = node.args
                if isinstance(text, ast.Constant):
                    found.add(text.value)
                elif isinstance(text, ast.JoinedStr):
                    found.add("".join(one.value if isinstance(one, ast.Constant) else "{}" for one in text.values))
    return found


def bare(template):
    return re.sub(r"{\w+}", "{}", template)


def test_every_sentence_of_the_page_is_there_in_chinese_and_no_other():
    covered = {bare(one): re.compile(re.sub(r"\\{\\}", ".+", re.escape(bare(one)))) for one in SENTENCES}
    found = stated()
    assert len(found) > 30
    assert [one for one in found if not any(pattern.fullmatch(one) for pattern in covered.values())] == []
    reasons = {"this failed ({}); try other settings. The app continues."}  # two values there are one here
    assert {one for one in covered if one not in found} == reasons


@pytest.mark.parametrize("english", SENTENCES)
def test_values_are_those_of_the_english_sentence(english):
    names = re.findall(r"{(\w+)}", english)
    assert sorted(names) == sorted(re.findall(r"{(\w+)}", SENTENCES[english]))
    values = {name: "the image" if name == "what" else f"<{name}>" for name in names}
    chinese = in_chinese(english.format_map(values))
    assert CHINESE.search(chinese)
    assert chinese.endswith("。")
    assert all((WHAT[value] if name == "what" else value) in chinese for name, value in values.items())


def test_sentences_of_a_model_or_a_file_stay_as_they_are():
    assert in_chinese("frame has no column 'colour'; give it.") == "frame has no column 'colour'; give it."


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}, True),
        ({"accept-language": "ZH-TW"}, True),
        ({"accept-language": "en-US,zh;q=0.9"}, False),
        ({}, False),
    ],
)
def test_the_first_language_of_a_browser_decides(headers, expected):
    assert wanted(headers) is expected


@pytest.mark.slow  # importing gradio takes seconds
@pytest.mark.parametrize(("language", "sentence"), [("zh-CN", "图像无法读取"), ("en", "the image cannot be read")])
def test_an_error_is_shown_in_the_language_of_the_browser(language, sentence):
    gradio = pytest.importorskip("gradio")
    from gradio.context import LocalContext

    def fails():
        raise UserError("the image cannot be read as an image; upload a PNG, JPEG or WebP.")

    token = LocalContext.request.set(types.SimpleNamespace(headers={"accept-language": language}))
    try:
        with pytest.raises(gradio.Error, match=sentence):
            answered(fails)()
    finally:
        LocalContext.request.reset(token)
