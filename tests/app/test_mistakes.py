"""Whatever a visitor can type or upload wrongly is one sentence of the library, before anything is computed."""

import math

import numpy
import pandas
import PIL.Image
import pytest
import torch

from pushforward.app.answers import answered
from pushforward.app.asked import asked
from pushforward.app.likelihood import bits_of
from pushforward.app.loaded import load_all
from pushforward.app.painted import repainted
from pushforward.app.pixels import MOST_PIXELS, event_of, from_test, interpolated
from pushforward.app.plane import densities
from pushforward.app.prompts import check_prompt, generated
from pushforward.app.rows import filled
from pushforward.app.shown import side_by_side
from pushforward.errors import PushforwardError

SETTINGS = {
    "no number": ({"n": None}, "the number of samples is empty; enter a number from 1 to 64."),
    "words": ({"n": "many"}, "the number of samples is 'many', but it is a number from 1 to 64."),
    "none": ({"n": 0}, "the number of samples is 0, but it is a number from 1 to 64."),
    "too many": ({"n": 1e9}, "the number of samples is 1000000000.0, but it is a number from 1 to 64."),
    "half": ({"n": 2.5}, "the number of samples is 2.5, but it is an integer from 1 to 64."),
    "true": ({"n": True}, "the number of samples is True, but it is a number from 1 to 64."),
    "a list": ({"n": [1]}, "the number of samples is"),
    "negative seed": ({"seed": -1}, "the seed is -1, but"),
    "large seed": ({"seed": 2**40}, "the seed is"),
    "no seed": ({"seed": ""}, "the seed is empty"),
    "nan": ({"guidance": math.nan}, "guidance is nan, but it is a number from 0 to 50."),
    "inf": ({"guidance": math.inf}, "guidance is inf, but"),
    "cold": ({"temperature": 0}, "the temperature is 0, but"),
    "unknown class": ({"label": "seven"}, "the class is 'seven', but digits has the classes 0, 1, 2; choose one of them."),
    "a class of another type": ({"label": 1.5}, "the class is 1.5, but"),
    "unknown sampler": ({"sampler": "Eulr"}, "'Eulr' is not a known sampler of this model; did you mean 'Euler'?"),
    "no sampler": ({"sampler": 3}, "'3' is not a known sampler of this model; known are"),
    "no evaluations": ({"sampler": "Euler", "evaluations": None}, "the number of evaluations is None, but it is an integer from 1 to 200."),
    "0 evaluations": ({"sampler": "Euler", "evaluations": 0}, "the number of evaluations is 0, but"),
    "half an evaluation": ({"sampler": "Euler", "evaluations": 0.5}, "the number of evaluations is 0.5, but"),
    "infinite evaluations": ({"sampler": "Euler", "evaluations": math.inf}, "the number of evaluations is inf, but"),
    "a slide": ({"slides": (9,)}, "a latent slider is 9, but it is a number from -3 to 3."),
    "guidance without a class": ({"guidance": 2, "label": "none"}, "guidance is 2, but no class is chosen"),
}


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith((".", "?")), text
    return text


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(case, models):
    options, expected = SETTINGS[case]
    with pytest.raises(PushforwardError) as error:
        asked(models["digits"], **{"n": 4, **options})
    assert sentence(error).startswith(expected)


def test_guidance_of_a_model_without_dropped_conditions(models):
    with pytest.raises(PushforwardError, match="guidance is 3, but ddpm was trained without dropped conditions; set it to 1"):
        asked(models["ddpm"], 4, guidance=3)


@pytest.fixture
def uploads(tmp_path, image):
    """Files that are no usable images, by what is wrong with them, with the sentence."""
    (tmp_path / "words.png").write_text("no picture at all")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "torn.png").write_bytes(image.read_bytes()[:100])
    side = math.isqrt(MOST_PIXELS) + 1
    PIL.Image.new("1", (side, side)).save(tmp_path / "large.png")
    PIL.Image.fromarray(numpy.full((4, 4), 1e9, dtype=numpy.float32)).save(tmp_path / "range.tiff")
    (tmp_path / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    return {
        None: "the image is missing; upload one",
        tmp_path / "absent.png": "the image",
        tmp_path / "words.png": "the image cannot be read as an image; upload a PNG, JPEG or WebP.",
        tmp_path / "empty.png": "the image cannot be read as an image",
        tmp_path / "torn.png": "the image cannot be read as an image",
        tmp_path / "large.png": f"the image has {side} x {side} pixels, more than",
        tmp_path / "range.tiff": "the image of mode F has numbers from",
        tmp_path / "program.eps": "the image: it is a PostScript program",
        tmp_path: "the image",
    }


def test_uploads(models, uploads):
    for upload, expected in uploads.items():
        with pytest.raises(PushforwardError) as error:
            event_of(models["digits"], upload)
        assert sentence(error).startswith(expected), upload


def test_views_that_do_not_suit_a_model(models, image):
    cases = {
        "has no log_prob": lambda: bits_of(models["meanflow"], image),
        "cannot draw parts of images again": lambda: next(repainted(models["nsf"], {}, asked(models["nsf"], 1))),
        "has no log_prob, so there is no density": lambda: next(densities(models["meanflow"])),
        "makes no images of texts": lambda: next(generated(models["digits"], "a fox")),
        "has no images of levels": lambda: event_of(models["moons"], image),
        "cannot fill in cells": lambda: filled(models["maf"], pandas.DataFrame({"x0": [1.0]})),
        "the test data of moons cannot be read": lambda: from_test(models["moons"], 0),
        "the number of the test image is 99": lambda: from_test(models["digits"], 99),
        "the kind is 'cubic'": lambda: next(interpolated(models["digits"], image, image, kind="cubic")),
        "the number of images is 1": lambda: next(interpolated(models["digits"], image, image, steps=1)),
        "the second image is missing": lambda: next(interpolated(models["digits"], image, None)),
        "'nonsense' is not a known model": lambda: next(side_by_side([models["nsf"]], *["nonsense", "own", 1] * 2, 4, 0, "each")),
        "compare models of the same shape": lambda: next(
            side_by_side([models["nsf"], models["maf"]], "nsf", "own", 1, "maf", "own", 1, 4, 0, "each")
        ),
    }
    for expected, call in cases.items():
        with pytest.raises(PushforwardError) as error:
            call()
        assert expected in sentence(error)


def test_painting(models, image):
    one = models["digits"]
    clear, full = PIL.Image.new("RGBA", (64, 64)), PIL.Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    cases = {
        "the image is missing": None,
        "the image is missing;": {"background": None, "layers": [full]},
        "nothing is painted over": {"background": image, "layers": [clear]},
        "nothing is painted over;": {"background": image, "layers": []},
        "the whole image is painted over": {"background": image, "layers": [clear, full]},
    }
    for expected, edited in cases.items():
        with pytest.raises(PushforwardError) as error:
            next(repainted(one, edited, asked(one, 2)))
        assert sentence(error).startswith(expected)


def test_tables(models):
    rows = {"height": [1.5, None], "colour": ["blue", None], "kind": ["a", "b"]}
    cases = {
        "the table has no rows": pandas.DataFrame(columns=list(rows)),
        "the table has no rows; enter": None,
        "the table has 300 rows, more than 200": pandas.DataFrame({"height": [1.0] * 300}),
        "row 1 of column 'height' is 'tall', but it must be a number, or empty.": pandas.DataFrame({**rows, "height": ["tall", ""]}),
        "row 2 of column 'height' is 'inf'": pandas.DataFrame({**rows, "height": ["1", "inf"]}),
        "frame has no column 'colour'": pandas.DataFrame({"height": rows["height"]}),
        "frame: ": pandas.DataFrame({**rows, "colour": ["green", None]}),
    }
    for expected, frame in cases.items():
        with pytest.raises(PushforwardError) as error:
            filled(models["table"], frame)
        assert sentence(error).startswith(expected)


@pytest.mark.parametrize("prompt", [None, "", "  \n", 7, "x" * 2001])
def test_prompts(prompt):
    with pytest.raises(PushforwardError) as error:
        check_prompt(prompt)
    assert sentence(error).startswith("the prompt ")


def test_runs_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    for paths, expected in (([], "no run is given"), ([tmp_path, tmp_path], "is given twice"), ([tmp_path / "empty"], "holds neither")):
        with pytest.raises(PushforwardError) as error:
            load_all(paths)
        assert expected in sentence(error)


@pytest.mark.slow  # importing gradio takes seconds
def test_an_unforeseen_error_is_a_sentence_too_and_the_next_request_is_answered(capsys):
    gradio = pytest.importorskip("gradio")

    def fails(x):
        yield torch.ones(2) / x
        raise ZeroDivisionError("first line\nsecond line")

    answers = answered(fails)(1)
    assert torch.equal(next(answers), torch.ones(2))
    with pytest.raises(gradio.Error, match="ZeroDivisionError: first line"):
        next(answers)
    assert "Traceback" in capsys.readouterr().err
    assert torch.equal(next(answered(fails)(1)), torch.ones(2))
