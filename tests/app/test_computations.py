"""What the views compute, without a browser: densities, grids, images, repainting, tables, pictures, words."""

import math

import numpy
import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.app.asked import asked
from pushforward.app.likelihood import bits_of, bits_of_tests, placed
from pushforward.app.loaded import load_all
from pushforward.app.painted import repainted
from pushforward.app.pictures import columns_of, picture_of
from pushforward.app.pixels import event_of, from_test, interpolated
from pushforward.app.plane import LINES, densities, grids
from pushforward.app.prompts import _stepped
from pushforward.app.quality import measured
from pushforward.app.rows import example, filled, frame_of
from pushforward.app.shown import side_by_side, stepwise
from pushforward.app.states import drawn
from pushforward.app.words import CHINESE, ENGLISH, WORDS, translations
from pushforward.evaluation.quantise import quantise


def test_a_density_is_that_of_log_prob_and_integrates_to_one(models):
    *_, (density, window, share) = densities(models["nsf"])
    (left, right), (low, high) = window
    corner = torch.tensor([[left, low]])
    assert float(density[0, 0]) == pytest.approx(float(models["nsf"].model.log_prob(corner).detach().exp()), rel=1e-4)
    area = (right - left) * (high - low) / (density.shape[0] - 1) ** 2
    assert 0.8 < float(density.sum()) * area < 1.02  # the window leaves out the outermost points
    assert share == 1


def test_a_grid_starts_square_and_ends_where_decode_leads(models):
    one = models["moons"]
    frames = list(grids(one, asked(one, 1, sampler="Heun", evaluations=8)))
    first, last = frames[0][0], frames[-1][0]
    assert first.shape == (LINES, LINES, 2)
    steps = first[1:, 0, 0] - first[:-1, 0, 0]
    assert torch.allclose(steps, steps[:1].expand_as(steps), atol=1e-5)
    decoded = one.model.decode(first.flatten(0, 1), sampler=pf.samplers.Heun(4))
    torch.testing.assert_close(last.flatten(0, 1), decoded)


def test_a_test_image_comes_back_from_its_enlarged_picture(models):
    one = models["digits"]
    for k in range(4):
        assert torch.equal(event_of(one, from_test(one, k))[0], one.tested.x[k])


def test_black_and_white_are_exchanged(models, image):
    one = models["digits"]
    total = event_of(one, image) + event_of(one, image, inverted=True)
    assert float((total - 16).abs().max()) <= 1  # a value between two levels is rounded twice


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode_are_read(mode, models, tmp_path):
    path = tmp_path / "image.tiff"
    grey = PIL.Image.fromarray(numpy.full((9, 5), 65535, dtype=numpy.uint16)) if mode == "I;16" else PIL.Image.new("L", (9, 5), 255)
    (grey if mode == "I;16" else grey.convert(mode)).save(path)
    assert torch.equal(event_of(models["digits"], path), torch.full((1, 1, 4, 4), 16.0))


def test_an_interpolation_ends_at_its_images(models):
    one = models["digits"]
    *_, picture = interpolated(one, from_test(one, 0), from_test(one, 1), 5)
    sheet = numpy.asarray(picture.convert("L"))
    side = sheet.shape[1] / (5 * 5 - 1)  # five images of 4 pixels with a gap of one
    for k, place in ((0, 0), (1, 20)):
        values = [sheet[int((row + 0.5) * side), int((place + column + 0.5) * side)] for row in range(4) for column in range(4)]
        levels = (torch.tensor(values).float() / 255 * 16).round().view(4, 4)
        assert float((levels - one.tested.x[k, 0]).abs().max()) <= 1  # Heun's method with 20 steps there and back


def test_bits_of_a_test_image_are_placed_among_the_others(models):
    one = models["digits"]
    bits, tests = bits_of(one, from_test(one, 0)), bits_of_tests(one, "none")
    assert len(tests) == len(one.tested)
    assert placed(bits, tests).less_likely == sum(value > bits.value for value in tests) / len(tests)
    assert bits_of_tests(one, "none") is tests  # kept
    assert math.isfinite(bits.value)


def test_what_is_not_painted_over_is_kept_exactly(models):
    one = models["digits"]
    layer = PIL.Image.new("RGBA", (160, 160))
    layer.paste((255, 0, 0, 255), (0, 0, 80, 160))
    edited = {"background": from_test(one, 2), "layers": [layer]}
    frames = list(repainted(one, edited, asked(one, 3)))
    kept = quantise(frames[-1][0].x, 17)[..., 2:]
    assert torch.equal(kept, one.tested.x[2:3, ..., 2:].expand(3, -1, -1, -1))
    assert bool(frames[0][1].isnan()[..., :2].all())
    assert float(frames[-1][0].x[..., :2].std(0).max()) > 0  # three samples differ


def test_distance_falls_with_evaluations(models):
    distances = [[*measured(models["moons"], 50, 0, "each", "Heun", count, 1)][-1].distance for count in (2, 8, 50)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] == pytest.approx(0, abs=1e-6)  # 25 steps, the reference itself


def test_rows_have_the_names_and_words_of_the_table(models):
    one = models["table"]
    *_, frame = drawn(one.model, asked(one, 6))
    table = frame_of(one, frame.x, None)
    assert list(table.columns)[:2] == ["height", "colour"]
    assert set(table["colour"]) <= {"blue", "red"}


def test_only_empty_cells_are_filled_in(models):
    rows = example(models["table"], 4)
    made = filled(models["table"], rows)
    assert not made[["height", "colour"]].isna().any().any()
    assert (made["colour"][rows["colour"].notna()] == rows["colour"].dropna()).all()


@pytest.mark.parametrize("name", ["digits", *(pytest.param(one, marks=pytest.mark.slow) for one in ("moons", "maf", "nsf", "meanflow"))])
def test_each_step_has_a_picture(name, models):
    settings = (4, 0, "each", "own" if name in ("maf", "nsf", "meanflow") else "Euler", 3, 1, 1)
    shown = list(stepwise(models[name], *settings, "expected", 0, 0, 0))
    assert all(isinstance(picture, PIL.Image.Image) for picture, _ in shown)
    assert shown[-1][1].endswith("✓")


def test_side_by_side_shows_both_at_each_step(models):
    shown = list(side_by_side([models["digits"], models["ddpm"]], "digits", "Euler", 2, "ddpm", "DDIM", 4, 6, 0, "each"))
    assert [one[1] for one in shown] == ["0 …", "1 / 2 …", "2 / 2 …", *["2 / 2 ✓"] * 3]
    assert shown[-1][3] == "4 / 4 ✓"


def test_pictures_of_every_kind():
    model = pf.models.rectified_flow(pf.nn.MLP.Config((4,)), shape=(2,))

    class Any:  # what a picture needs of a model
        kind = "series"

    Any.model = model
    for shape in ((3, 1, 8, 8), (2, 3, 8, 8), (4, 1, 12), (9, 5), (9, 1)):
        assert picture_of(Any, torch.randn(shape)).mode == "RGB"
    assert [columns_of(n) for n in (1, 5, 9, 20, 50)] == [1, 5, 3, 10, 8]


def test_a_closed_request_stops_its_thread():
    class Report:
        done, total, stopped = 0, 100, False

        def images(self):
            return []

        def stop(self):
            self.stopped = True

    report, ended = Report(), []

    def sample(callback):
        while not report.stopped and report.done < 10**6:
            report.done += 1
            callback(report)
        ended.append(report.stopped)
        return []

    previews = _stepped(sample)
    assert next(previews).step >= 1
    previews.close()
    for _ in range(500):
        if ended:
            break
        torch.randn(10_000).sort()
    assert ended == [True]


def test_errors_of_the_thread_reach_the_visitor():
    with pytest.raises(ZeroDivisionError):
        list(_stepped(lambda callback: 1 / 0))


def test_every_word_is_in_both_languages():
    assert translations(ENGLISH).keys() == translations(CHINESE).keys()
    for key, (english, chinese) in WORDS.items():
        assert english.isascii() or set(english) <= set(english.encode("ascii", "ignore").decode()) | set("·×Δσ"), key
        assert any("\u4e00" <= one <= "\u9fff" for one in chinese), key


def test_names_of_runs_differ(tmp_path):
    for folder in ("a/run", "b/run"):
        pf.save(pf.models.rectified_flow(pf.nn.MLP.Config((4,)), shape=(2,)), tmp_path / folder)
    assert [one.name for one in load_all([tmp_path / "a/run", tmp_path / "b/run"])] == ["a/run", "b/run"]
    assert load_all([tmp_path / "a/run"])[0].tested is None
