"""The figures of the site in a real browser: their samplers against ours, sliders, drags and keys, and what is loaded when."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from chromium import BINARY, Browser
from tools_folder import tool

import pushforward as pf

ROOT = Path(__file__).parents[1]
FIGURES = sorted(path.stem for path in (ROOT / "docs/assets/live/figures").glob("*.js"))
FIGURE = re.compile(
    r'<figure class="live" data-figure="(\w+)" markdown>\n!\[(.+)\]\((.+)\)\n<figcaption markdown>(.+)</figcaption>\n</figure>'
)


def figures_of(language):
    pages = sorted((ROOT / "docs" / language).rglob("*.md"))
    return [(path.relative_to(ROOT / "docs" / language), *found) for path in pages for found in FIGURE.findall(path.read_text())]


def test_both_languages_have_the_same_figures_each_with_a_picture_for_readers_without_scripts():
    english, chinese = figures_of("en"), figures_of("zh")
    assert [(page, name, picture) for page, name, _, picture, _ in english] == [
        (page, name, picture) for page, name, _, picture, _ in chinese
    ]
    assert sorted(name for _, name, *_ in english) == FIGURES
    marked = sum(path.read_text().count('class="live"') for path in (ROOT / "docs/en").rglob("*.md"))
    assert marked == len(english)  # the pattern missed none


def test_every_text_of_the_figures_is_in_both_languages():
    source = (ROOT / "docs/assets/live/words.js").read_text()
    texts = dict(re.findall(r"^  (\w+): \[(.+)\],$", source, re.MULTILINE))
    assert all(len(json.loads(f"[{pair}]")) == 2 for pair in texts.values())
    code = "".join(path.read_text() for path in (ROOT / "docs/assets/live").rglob("*.js"))
    used = set(re.findall(r'words\("(\w+)"', code)) | set(re.findall(r'(?:slider|choice|button)\(made, "(\w+)"', code))
    assert len(used) > 20
    assert used <= set(texts)


def exported(folder):
    """Untrained models under the names that the figures load; return those that are compared with ours."""
    torch.manual_seed(0)
    (folder / "live").mkdir(parents=True)
    (folder / "live_digits").mkdir()
    net = pf.nn.MLP.Config((16, 16))
    flow = pf.models.rectified_flow(net, (2,)).eval()
    diffusion = pf.models.ddim(net, (2,), path=pf.paths.VariancePreserving()).eval()
    couplings = pf.models.realnvp(2, layers=2, hidden=(8,)).eval()
    for model in (flow, diffusion, couplings):  # networks start near zero
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    for name, model in {"flow": flow, "diffusion": diffusion}.items():
        pf.formats.export_onnx(model, folder / "live" / f"{name}.onnx", "network")
    shutil.copyfile(folder / "live/flow.onnx", folder / "live/reflowed.onnx")
    for k, layer in enumerate(couplings.bijection.steps):
        with pytest.warns(UserWarning, match="pass through"):  # one layer transforms one half
            part = pf.families.NormalizingFlow(pf.bijections.Chain([layer]), shape=(2,)).eval()
        pf.formats.export_onnx(part, folder / "live" / f"coupling_{k}.onnx", "decode")
    pf.formats.export_onnx(pf.models.rectified_flow(net, (64,), classes=10), folder / "live_digits/digit_flow.onnx", "network")
    for jumps in (1, 2, 4):
        sampler = pf.samplers.Jumps(jumps)
        pf.formats.export_onnx(
            pf.models.meanflow(net, (64,), classes=10), folder / f"live_digits/one_step_{jumps}.onnx", "sample", sampler=sampler
        )
    points = torch.randn(20, 2).tolist()
    intervals = {"interval": flow.interval, "diffusion_interval": diffusion.interval}
    facts = {
        "moons": points,
        "eight": points,
        "couplings": 2,
        "moves": [int(not one.swap) for one in couplings.bijection.steps],
        **intervals,
    }
    (folder / "live/live.json").write_text(json.dumps(facts))
    return {"flow": flow, "diffusion": diffusion, "couplings": couplings}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a server with the figures, one a page, and the models that they run."""
    pytest.importorskip("websocket")
    pytest.importorskip("onnxscript")
    packages = tool("npm_packages")
    folder = tmp_path_factory.mktemp("site")
    try:
        files = packages.files("onnxruntime-web")
    except packages.PackageError as error:
        pytest.skip(f"onnxruntime-web is not here: {error}")
    (folder / "assets/runtime").mkdir(parents=True)
    for name, path in files.items():
        shutil.copyfile(path, folder / "assets/runtime" / name)
    shutil.copytree(ROOT / "docs/assets/live", folder / "assets/live")
    shutil.copyfile(ROOT / "docs/assets/site.css", folder / "assets/site.css")
    models = exported(folder / "assets/code")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>figure</title><link rel="icon" href="data:,">'
    head += '<link rel="stylesheet" href="assets/site.css"><script type="module" src="assets/live/live.js"></script>'
    for name in FIGURES:
        figure = f'<figure class="live" data-figure="{name}"><p><img src="data:," alt="{name}"></p></figure>'
        (folder / f"{name}.html").write_text(f"{head}<body>{figure}")
    (folder / "far.html").write_text(f'{head}<body><div style="height: 5000px"></div>{figure}')
    (folder / "empty.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    server = tool("check_accessibility").served(folder)
    yield f"http://127.0.0.1:{server.server_port}", models
    server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    with Browser() as one:
        yield one


def in_browser(browser, address, code):
    browser.open(f"{address}/empty.html")
    browser.wait("document.readyState === 'complete' && location.pathname === '/empty.html'")
    imports = "const S = await import('/assets/live/samplers.js'); const R = await import('/assets/live/runtime.js');"
    return browser.evaluate(f"(async () => {{ {imports} {code} }})()")


@pytest.mark.slow
@pytest.mark.skipif(BINARY is None, reason="there is no Chromium")
class TestInChromium:
    @pytest.mark.parametrize(
        ("method", "sampler"),
        [("euler", pf.samplers.Euler), ("midpoint", pf.samplers.Midpoint), ("heun", pf.samplers.Heun), ("rk4", pf.samplers.RK4)],
    )
    def test_solvers_end_where_ours_do(self, site, browser, method, sampler):
        address, models = site
        noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
        found = in_browser(
            browser,
            address,
            f"const s = await S.solve(await R.network('live/flow', 2), {noise.flatten().tolist()}, 1, 0, 7, '{method}'); return [...s[7]];",
        )
        expected = models["flow"].decode(noise, sampler=sampler(7)).detach()
        assert float((expected - noise).abs().max()) > 0.1
        torch.testing.assert_close(torch.tensor(found).reshape(6, 2), expected, rtol=0, atol=1e-4)

    def test_ddim_ends_where_ours_does(self, site, browser):
        address, models = site
        noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
        code = f"const s = await S.ddim(await R.network('live/diffusion', 2), {noise.flatten().tolist()}, 1, 1e-4, 9, 0, () => NaN);"
        found = torch.tensor(in_browser(browser, address, f"{code} return [...s[9]];")).reshape(6, 2)
        expected = models["diffusion"].decode(noise, sampler=pf.samplers.DDIM(9)).detach()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    def test_ddim_with_eta_1_has_the_variance_that_our_plan_has(self, site, browser):
        """For data N(0, 1) the expected data is alpha x and the expected noise sigma x: a step of the plan scales x and adds noise."""
        path, times = pf.paths.VariancePreserving(), torch.linspace(1, 1e-4, 51).tolist()
        variance = 1.0
        for step in pf.samplers.DDIM(50, eta=1).plan(path, times):
            t = torch.tensor(step.t)
            variance = float(step.data * path.alpha(t) + step.noise * path.sigma(t)) ** 2 * variance + step.random**2
        code = "const exact = (x, t) => x.map((v) => v * S.variancePreserving(t).sigma);"
        code += "const s = await S.ddim(exact, S.draws(1, 20000), 1, 1e-4, 50, 1, S.normal(2));"
        found = in_browser(browser, site[0], f"{code} return s[50].reduce((a, v) => a + v * v, 0) / 20000")
        assert abs(found - variance) < 4 * variance * (2 / 20000) ** 0.5  # the deviation of a mean square, and fixed seeds
        assert variance < 0.9  # 50 steps of DDPM lose some; with eta = 0 it is 0.999

    def test_layers_end_where_the_flow_does(self, site, browser):
        address, models = site
        noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(3))
        code = f"let x = {noise.flatten().tolist()};"
        code += (
            "for (const k of [1, 0]) x = await (await R.model(`live/coupling_${k}`))({noise: {values: x, shape: [6, 2]}}); return [...x];"
        )
        found = torch.tensor(in_browser(browser, address, code)).reshape(6, 2)
        torch.testing.assert_close(found, models["couplings"].decode(noise).detach(), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("name", FIGURES)
    def test_sliders_drags_and_keys_change_a_figure(self, site, name):
        address, _ = site
        with Browser(width=390, height=900) as browser:
            browser.open(f"{address}/{name}.html")
            browser.wait("document.querySelector('figure')?.dataset.state === 'ready'")
            browser.wait("document.querySelector('canvas').width > 0")
            assert browser.evaluate("document.querySelectorAll('img').length") == 0
            picture = "document.querySelector('canvas').toDataURL()"

            def changes(act):
                before = browser.evaluate(picture)
                act()
                browser.wait(f"{picture} !== {json.dumps(before)}", 20)

            sliders = browser.evaluate("[...document.querySelectorAll('input')].map((e) => e.id)")
            assert sliders
            for one in sliders:  # by the keyboard
                browser.evaluate(f"document.getElementById('{one}').focus()")
                key = "ArrowRight" if browser.evaluate(f"{one_less(one)}") else "ArrowLeft"
                changes(lambda key=key: press_key(browser, key))
            if browser.evaluate("document.querySelector('canvas').tabIndex") == 0:
                box = "document.querySelector('canvas').getBoundingClientRect()"
                x, y, width, height = browser.evaluate(f"[{box}.x, {box}.y, {box}.width, {box}.height]")
                changes(lambda: browser.press(x + width / 3, y + height / 3, (x + width / 2.2, y + height / 1.6)))
                browser.evaluate("document.querySelector('canvas').focus()")
                changes(lambda: press_key(browser, "ArrowUp"))
            assert browser.evaluate("document.documentElement.scrollWidth") <= 390
            assert browser.evaluate("document.querySelector('output').textContent")
            assert {url for url in browser.requests() if not url.startswith((address, "data:", "blob:", "about:"))} == set()
            assert not browser.complaints()

    def test_nothing_is_loaded_before_a_figure_comes_into_view(self, site):
        with Browser() as browser:
            browser.open(f"{site[0]}/far.html")
            browser.wait("document.readyState === 'complete'")
            assert not [url for url in browser.requests() if "/figures/" in url or "/runtime/" in url]
            browser.evaluate("window.scrollTo(0, 5000)")
            browser.wait("document.querySelector('figure').dataset.state === 'ready'")
            assert [url for url in browser.requests() if "/figures/" in url]


def one_less(identity):
    """JavaScript: whether a slider is below its highest value."""
    return f"Number(document.getElementById('{identity}').value) < Number(document.getElementById('{identity}').max)"


def press_key(browser, key):
    code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}[key]
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
