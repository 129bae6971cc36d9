"""Reports as people use them: in a browser they sort, enlarge, print, fit and load at once; numbers have their uncertainty."""

import json
import math
import re

import matplotlib.figure
import numpy
import pytest
import torch
from chromium import BINARY, Browser

import pushforward as pf
from pushforward.evaluation.judgement import Judgement, Likelihood, Quality
from pushforward.evaluation.pages import ratio_error, share_error
from pushforward.evaluation.plane import density, grid_of
from pushforward.evaluation.plane_pictures import has_density, picture_density
from pushforward.evaluation.report import write_report
from pushforward.evaluation.units import fixed

in_a_browser = pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with all its parts."""
    folder = tmp_path_factory.mktemp("report")
    pictures = {}
    for name in ("samples", "marginals", "density", "quality", "loss"):
        figure = matplotlib.figure.Figure((12, 6))
        figure.subplots().plot([0, 1])
        figure.savefig(folder / f"{name}.png")
        pictures[name] = (folder / f"{name}.png", f"The picture of {name}.")
    judged = Judgement(
        "test", 400, recognised=0.9, recognised_of=100, classifier_accuracy=0.97, distance=0.2, distance_std=0.02, distance_train=0.1,
        distance_train_std=0.01, distance_size=100, neighbours={"samples": 1.5, "test_data": 1.25}, closer_to_train=0.52,
        closer_to_train_error=0.02, sampler="Heun(20)", scored=400,
        likelihood=[Likelihood("model", 2.0, 0.01), Likelihood("a Gaussian", 3.5, 0.02), Likelihood("none"), Likelihood("b", -0.5, 0.1)],
        quality=[Quality(count, 0.9, 1 / count, 0.01) for count in (1, 2, 16, 128)], verdict=["It is worse than a mixture."],
    )  # fmt: skip
    path = folder / "report.html"
    settings = "preset: ddpm\n" + "\n".join(f"setting_{k}: {'x' * 120}" for k in range(60))
    words = {"title": "a_long_name" * 9, "command": "pushforward " * 30, "facts": {"training time": "3 s"}}
    write_report(path, judgement=judged, pictures=pictures, settings=settings, **words)
    return path


def test_every_picture_has_a_text_and_can_be_enlarged_and_every_number_an_uncertainty(report):
    page = report.read_text()
    assert page.count("<figure") == page.count("<figcaption") == 5
    assert all(alt for alt in re.findall(r'<img src="data:[^>]* alt="([^"]*)"', page))
    assert page.count('aria-label="Enlarge: ') == 5
    assert "90.0 <small>± 3.0</small> %" in page  # sqrt(0.9 * 0.1 / 100)
    assert "2.00 <small>± 0.28</small> ×" in page  # 2 sqrt(0.1² + 0.1²)
    assert "52.0 ± 2.0 %" in page
    assert page.count("<th scope") == page.count('<th scope="col"><button>') > 8
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_errors_of_shares_and_ratios_are_those_of_many_draws():
    generator = numpy.random.default_rng(0)
    assert share_error(0.3, 50) == pytest.approx(generator.binomial(50, 0.3, 100_000).std() / 50, rel=0.02)
    above, below = generator.normal(2.0, 0.05, 100_000), generator.normal(1.0, 0.02, 100_000)
    assert ratio_error(2.0, 0.05, 1.0, 0.02) == pytest.approx((above / below).std(), rel=0.02)
    assert share_error(1.0, 0) == ratio_error(0.0, 1.0, 1.0, 1.0) == 0.0


@pytest.mark.parametrize("classes", [None, 2])
def test_the_density_of_the_plane_is_the_mean_over_classes_and_integrates_to_one(classes):
    torch.manual_seed(0)
    model = pf.models.realnvp(2, 2, (8,), classes=classes).double().eval()
    points, extent = grid_of(torch.tensor([-9.0, -9.0]), torch.tensor([9.0, 9.0]), 181)
    values = density(model, points)
    assert float(values.sum()) * (18 / 180) ** 2 == pytest.approx(1, abs=1e-3)
    assert extent == (-9.0, 9.0, -9.0, 9.0)
    if classes is None:
        torch.testing.assert_close(values, model.log_prob(points).exp().detach())


def test_a_density_is_drawn_of_models_of_the_plane_only(tmp_path):
    flow = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), sampler=pf.samplers.Euler(2))
    assert has_density(flow)
    assert not has_density(pf.models.realnvp(3, 2, (8,)))
    assert not has_density(pf.models.meanflow(pf.nn.MLP.Config((8,)), (2,)))
    picture_density(pf.models.realnvp(2, 2, (8,)), pf.data.moons(n=40), tmp_path / "density.png")
    assert (tmp_path / "density.png").stat().st_size > 2000


def test_the_error_of_a_signal_to_noise_ratio_is_that_of_other_images():
    torch.manual_seed(0)
    model = pf.models.autoencoder_kl((1, 8, 8), 2, (8, 16), levels=17)
    digits = pf.data.load("digits", "train")
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    parts = [pf.evaluation.reconstruction(model, digits.x[order[k::20]]) for k in range(20)]
    spread = float(torch.tensor([part.psnr for part in parts]).std())
    assert numpy.mean([part.psnr_error for part in parts]) == pytest.approx(spread, rel=0.5)
    assert math.isfinite(parts[0].psnr)


@pytest.fixture(scope="module")
def opened(report):
    with Browser(width=1280) as browser:
        browser.open(report.as_uri())
        browser.wait("document.readyState === 'complete'")
        yield browser


@in_a_browser
@pytest.mark.slow
def test_a_heading_sorts_by_number_with_missing_values_last(opened):
    column = "[...document.querySelectorAll('table.sorts')[0].tBodies[0].rows].map(row => row.cells[1].textContent.trim().split(' ')[0])"
    opened.click("table.sorts th button", text="without condition")
    assert json.loads(opened.evaluate(f"JSON.stringify({column})")) == ["-0.500", "2.000", "3.500", "–"]
    opened.click("table.sorts th button", text="without condition")
    assert json.loads(opened.evaluate(f"JSON.stringify({column})")) == ["3.500", "2.000", "-0.500", "–"]
    assert opened.evaluate("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"


@in_a_browser
@pytest.mark.slow
def test_a_picture_is_enlarged_and_closed_again(opened):
    opened.click("figure button")
    assert opened.evaluate("document.getElementById('large').open")
    assert opened.evaluate("document.querySelector('dialog img').getBoundingClientRect().width") >= 1200
    opened.click("dialog img")
    assert not opened.evaluate("document.getElementById('large').open")


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_it_fits_loads_within_a_second_and_prints(report, width, dark):
    with Browser(width=width, dark=dark) as browser:
        browser.open(report.as_uri())
        browser.wait("document.readyState === 'complete'")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        paint = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        assert 0 < browser.wait(paint) < 1000  # milliseconds
        printed = browser.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"]
        assert len(printed) > 10_000


ATTACK = '"><img src=x onerror="window.attacked=1"><script>window.attacked=1</script>'
HOSTILE = [ATTACK, "'" * 3 + "{{ 7 * 7 }} {% raw %}", "名字" * 60, "🦊" * 80, "x" * 300, "</td></table></body>"]


def hostile_page(folder):
    """A report whose every text is hostile, and whose numbers are none, infinite or huge."""
    figure, numbers = matplotlib.figure.Figure((2, 2)), (2.0, math.nan, math.inf, -math.inf, 1e12, 0)
    figure.savefig(folder / "a.png")
    judged = Judgement(
        "test", 400, recognised=math.nan, recognised_of=100, classifier_accuracy=0.97, distance=math.inf, distance_std=math.nan,
        distance_train=0.1, distance_train_std=0.01, distance_size=100, neighbours={"samples": 1e300, "test_data": math.inf},
        closer_to_train=math.nan, closer_to_train_error=0.02, sampler=ATTACK, scored=400,
        likelihood=[Likelihood(one, value, math.nan) for one, value in zip(HOSTILE, numbers, strict=True)],
        quality=[Quality(1, math.nan, math.inf, 1e9)], verdict=HOSTILE,
    )  # fmt: skip
    words = {"title": ATTACK, "command": f"pushforward evaluate {ATTACK}", "facts": dict.fromkeys(HOSTILE, ATTACK)}
    pictures = {name: (folder / "a.png", text) for name, text in zip(("samples", "marginals", "density", "loss"), HOSTILE, strict=False)}
    write_report(folder / "report.html", judgement=judged, pictures=pictures, settings=ATTACK * 50, **words)
    return folder / "report.html"


def test_hostile_names_and_numbers_that_are_none_are_text(tmp_path):
    page = hostile_page(tmp_path).read_text()
    assert 'onerror="' not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    text = re.sub(r"<[^>]*>", " ", page.split("<body>")[-1])
    assert not re.findall(r"(?<![a-z])(?:nan|inf)(?![a-z])", text)
    assert "1.00e+300" in text
    assert "∞" in text
    assert [fixed(value, ".1f") for value in (2.25, math.nan, -math.inf, 5.7e17)] == ["2.2", "–", "-∞", "5.70e+17"]


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_names_run_no_script_and_leave_the_page_its_width(tmp_path, width):
    with Browser(width, 900, touch=width < 500) as browser:
        browser.open(hostile_page(tmp_path).as_uri())
        browser.wait("document.readyState === 'complete' && document.body && document.body.innerText.length > 100")
        assert browser.evaluate("window.attacked || 0") == 0
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert not browser.complaints()
