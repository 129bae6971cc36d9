"""The page in a real browser: clicks, a brush, a phone, both languages, and no request to another machine."""

import json
import time

import pytest
from chromium import BINARY, Browser

pytest.importorskip("websocket")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="there is no Chromium")]
TAB = "button[role=tab]"
PICTURES = "[...document.querySelectorAll('img')].filter(e => e.offsetParent && e.src.includes('/file='))"
VALUES = "[...document.querySelectorAll('textarea, input')].filter(e => e.offsetParent).map(e => e.value)"
DONE = f"{VALUES}.some(e => e.endsWith('✓'))"


@pytest.fixture
def browser(address):
    with Browser() as one:
        one.open(address)
        one.wait(f"{PICTURES}.length > 0")
        one.wait(DONE)
        yield one
        assert not one.complaints()


def test_the_first_picture_comes_without_a_click_and_before_the_last_step(browser, address):
    """The page asks for it itself, and each step is an event of the same request, so that the noise is there when one step is computed."""
    with Browser() as one:
        one.open(address)
        one.wait(f"{PICTURES}.length > 0")
        one.wait(DONE)
        shown = {url for url in one.requests() if "/file=" in url and url.endswith(".png")}
        assert len(shown) > 2  # the noise and states before the samples


def test_nothing_leaves_this_machine(browser, address):
    for tab in ("Evaluations", "Between two images", "Likelihood", "Repaint", "moons", "iris", "Side by side"):
        browser.click(TAB, tab)
        time.sleep(0.5)
    asked = {url for url in browser.requests() if not url.startswith(("data:", "blob:", "about:"))}
    assert len(asked) > 10
    assert {url for url in asked if not url.startswith(address)} == set()


@pytest.mark.parametrize(("path", "count"), [(["moons"], 1), (["moons", "Density and grid"], 2), (["iris"], 1), (["Side by side"], 2)])
def test_a_tab_draws_when_it_is_first_opened_and_keeps_its_pictures(browser, path, count):
    for tab in path:
        browser.click(TAB, tab)
    browser.wait(f"{PICTURES}.length > 0")
    steps = f"{VALUES}.filter(e => /^[0-9]+ (%|.*[…✓])$/.test(e))"
    browser.wait(f"{steps}.length === {count} && {steps}.every(e => e.endsWith('✓') || e === '100 %')")
    time.sleep(1)
    before = browser.evaluate(f"{PICTURES}.map(e => e.src)")
    browser.click(TAB, "digits")
    browser.click(TAB, path[0])
    time.sleep(2)
    assert browser.evaluate(f"{PICTURES}.map(e => e.src)") == before
    assert browser.evaluate("document.querySelector('.gradio-container').offsetWidth") == 1180


def test_an_error_is_shown_and_the_next_click_is_answered(browser):
    browser.click(TAB, "Likelihood")
    browser.click("button", "Measure")
    browser.wait("document.body.innerText.includes('the image is missing; upload one, or take one of the test set.')")
    browser.click("button", "From the test set")
    browser.wait(f"{PICTURES}.length > 0")
    browser.click("button", "Measure")
    browser.wait(f"{VALUES}.some(e => e.includes('%'))")


def test_an_error_is_chinese_where_the_browser_is(address):
    with Browser(language="zh-CN") as one:
        one.open(address)
        one.wait(DONE)
        one.click(TAB, "似然")
        one.click("button", "计算")
        one.wait("document.body.innerText.includes('缺少图像；请上传，或从测试集中取一张。')")
        assert not one.complaints()


def test_a_painted_part_is_sampled(browser):
    browser.click(TAB, "Repaint")
    browser.click("button", "From the test set")
    time.sleep(3)
    browser.evaluate("window.scrollTo(0, 0)")
    time.sleep(0.5)
    canvas = "[...document.querySelectorAll('canvas')].filter(e => e.offsetParent)[0].getBoundingClientRect()"
    x, y = browser.evaluate(f"[{canvas}.x + {canvas}.width / 2, {canvas}.y + {canvas}.height / 2]")
    for dy in (-30, 0, 30):
        browser.press(x, y + dy, (x + 60, y + dy))
        time.sleep(0.2)
    browser.click("button", "Sample the painted part")
    browser.wait(DONE)
    browser.wait(f"{PICTURES}.length > 1")


def test_a_request_can_be_stopped(browser):
    browser.evaluate(
        "(() => { const e = [...document.querySelectorAll('input[type=number]')].filter(e => e.offsetParent && e.value === '20')[1];"
        " Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(e, 200);"
        " for (const name of ['input', 'change', 'blur']) e.dispatchEvent(new Event(name, {bubbles: true})); })()"
    )
    browser.click("button", "Draw")
    browser.wait(f"{VALUES}.some(e => /^[0-9]+ .*…$/.test(e))")
    browser.click("button", "Stop")
    time.sleep(1)
    before = browser.evaluate(VALUES)
    time.sleep(1.5)
    assert browser.evaluate(VALUES) == before
    assert not browser.evaluate(DONE)


@pytest.mark.parametrize(("language", "words"), [("en-US", "Evaluations"), ("zh-CN", "求值次数")])
def test_a_phone_in_both_languages_and_the_dark(language, words, address):
    with Browser(390, 844, language, dark=language == "zh-CN", touch=True) as one:
        one.open(address)
        one.wait(f"{PICTURES}.length > 0")
        one.wait(f"document.body.innerText.includes('{words}')")
        assert "pushforward_" not in one.evaluate("document.body.innerText")  # a key without translation
        one.wait("document.documentElement.scrollWidth <= 390")
        assert one.evaluate(f"{PICTURES}[0].getBoundingClientRect().top") < 844
        dark = one.evaluate("document.body.classList.contains('dark')")
        assert dark == (language == "zh-CN")


def typed(browser, label, text):
    """Type into the visible field with a label."""
    browser.evaluate(
        f"(() => {{ const e = [...document.querySelectorAll('label')].filter(e => e.offsetParent && e.textContent.trim() === "
        f"{json.dumps(label)})[0].querySelector('textarea, input');"
        f" Object.getOwnPropertyDescriptor(Object.getPrototypeOf(e), 'value').set.call(e, {json.dumps(text)});"
        " for (const name of ['input', 'change', 'blur']) e.dispatchEvent(new Event(name, {bubbles: true})); })()"
    )


@pytest.mark.parametrize(
    ("language", "tab", "prompt", "draw", "empty", "phone"),
    [
        ("en-US", "Prompts side by side", "Prompt", "Draw", "the prompt is empty; describe the image in a few words.", False),
        ("zh-CN", "文生图对比", "提示词", "生成", "提示词为空；请用几个词描述图像。", True),
    ],
)
def test_a_prompt_is_drawn_by_two_models_side_by_side(address_of_texts, language, tab, prompt, draw, empty, phone):
    """A Stable Diffusion 3 beside a run of `train sd3`, which is the last of them; digits are in no list of either side."""
    with Browser(*((390, 844) if phone else (1280, 1000)), language, touch=phone) as one:
        one.open(address_of_texts)
        one.wait(f"document.body && document.body.innerText.includes('{draw}')")
        time.sleep(3)
        if phone:
            one.click(".overflow-menu > button")
            one.click(".overflow-dropdown button", tab)
        else:
            one.click(TAB, tab)
        one.wait(f"{VALUES}.includes('sd3') && {VALUES}.includes('own')")
        one.click("button", draw)
        one.wait(f"document.body.innerText.includes('{empty}')")
        typed(one, prompt, "red square")
        one.click("button", draw)
        one.wait(f"{PICTURES}.length === 2 && {VALUES}.filter(e => e.endsWith('✓')).length === 2")
        one.wait(f"document.documentElement.scrollWidth <= {390 if phone else 1280}")
        assert not [text for text in one.complaints() if "manifest" not in text]


def test_the_prompt_of_a_run_of_images_and_captions_is_drawn(address_of_texts):
    with Browser() as one:
        one.open(address_of_texts)
        one.wait("document.body && document.body.innerText.includes('Draw')")
        time.sleep(3)
        one.click(TAB, "own")
        time.sleep(0.5)
        typed(one, "Prompt", "blue star")
        one.click("button", "Draw")
        one.wait(DONE)
        one.wait(f"{PICTURES}.length === 1")
