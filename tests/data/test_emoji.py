"""Emoji of a colour font: pictures, captions, splits, and what is left out. The font is built here."""

import json
import unicodedata

import matplotlib
import numpy
import pytest
import torch
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import features

from pushforward.data.emoji import DEBIAN, emoji
from pushforward.data.load import load
from pushforward.data.splits import SPLITS
from pushforward.errors import DataError, UserError

CODES = [0x2600 + k for k in range(30)]  # signs of weather and more, all with names
LIGHT, DARK, JOINER = 0x1F3FB, 0x1F3FF, 0x200D
RED, GREEN = (1, 0, 0, 1), (0, 1, 0, 1)


def rectangle(width, height):
    pen = TTGlyphPen(None)
    for k, point in enumerate(((100, 0), (100, height), (100 + width, height), (100 + width, 0))):
        (pen.lineTo if k else pen.moveTo)(point)
    pen.closePath()
    return pen.glyph()


@pytest.fixture(scope="session")
def font(tmp_path_factory):
    """Rectangles of other sizes, each red; two code points share a glyph; two colours of skin of the first are green."""
    sizes = {f"g{k}": (300 + 20 * k, 900 - 20 * k) for k in range(len(CODES))}
    sizes |= {"light": (300, 880), "dark": (300, 840), "swatch1": (200, 200), "swatch2": (200, 220), "pair": (700, 300)}
    empty = TTGlyphPen(None).glyph()
    names = [".notdef", "joiner", *sizes]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    cmap = {code: f"g{k}" for k, code in enumerate(CODES)} | {CODES[3]: "g2"}
    builder.setupCharacterMap(cmap | {JOINER: "joiner", LIGHT: "swatch1", DARK: "swatch2", 0x1FBFF: "g5"})
    builder.setupGlyf({".notdef": empty, "joiner": empty} | {name: rectangle(*size) for name, size in sizes.items()})
    builder.setupHorizontalMetrics({name: (0 if name == "joiner" else 1000, 100) for name in names})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupOS2()
    builder.setupPost()
    builder.setupNameTable({"familyName": "Rectangles", "styleName": "Regular"})
    builder.setupCOLR({name: [(name, 1 if name in ("light", "dark") else 0)] for name in sizes}, version=0)
    builder.setupCPAL([[RED, GREEN]])
    rules = "sub g0 swatch1 by light; sub g0 swatch2 by dark; sub g4 joiner g5 by pair;"
    addOpenTypeFeaturesFromString(builder.font, f"languagesystem DFLT dflt; feature ccmp {{ {rules} }} ccmp;")
    path = tmp_path_factory.mktemp("font") / "rectangles.ttf"
    builder.save(path)
    return path


def all_splits(**options):
    return [load("emoji", split, **options) for split in SPLITS]


pytestmark = pytest.mark.filterwarnings("ignore:.*are left out")


def test_glyphs_are_captioned_by_unicode_and_each_is_in_one_split(font):
    parts = all_splits(font=str(font), size=20)
    captions = [caption for part in parts for caption in part.captions]
    shared, swatches = unicodedata.name(chr(CODES[3])).lower(), [unicodedata.name(chr(code)).lower() for code in (LIGHT, DARK)]
    expected = [unicodedata.name(chr(code)).lower() for code in CODES]
    assert sorted(captions) == sorted({*expected, *swatches} - {shared})
    assert [len(part) for part in parts] == [25, 3, 3]
    names = dict(zip(captions, [some for part in parts for some in part.names], strict=True))
    assert names[expected[2]] == (expected[2], shared), "one picture, two names"
    assert (
        load("emoji", font=font, size=20).fingerprint() == parts[0].fingerprint() != load("emoji", font=font, size=20, seed=1).fingerprint()
    )


def test_a_glyph_is_centred_on_the_background_in_its_colour(font):
    """The first is 300 of 1000 wide and 900 high, in a square of an em: of 100 pixels, 30 by 90, red, in the middle."""
    parts = all_splits(font=font, size=100, background="#0000ff")
    x = next(part.x[part.captions.index("black sun with rays")] for part in parts if "black sun with rays" in part.captions)
    red = x[0] > 127
    rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
    assert (len(rows), len(columns)) == (90, 30)
    assert (int(rows[0] + rows[-1]), int(columns[0] + columns[-1])) == (99, 99), "as far from both sides"
    assert x[:, 50, 50].tolist() == [255, 0, 0]
    assert x[:, 0, 0].tolist() == [0, 0, 255]


def labels_file(path, words):
    def record(code, label, **more):
        return {"hexcode": code, "label": label, **more}

    path.parent.mkdir(parents=True, exist_ok=True)
    records = [record(f"{code:X}", f"{words[0]} {code:X}", tags=[words[1]]) for code in CODES[1:]]
    skins = [record(f"2600-{tone:X}", f"{words[0]} 2600: {tone:X}") for tone in (LIGHT, DARK)]
    records += [record("2600", f"{words[0]} 2600", skins=skins), record("2604-200D-2605", "pair"), record("2604-200D-2606", "no pair")]
    path.write_text(json.dumps([*records, record("1F600", "no glyph")]))
    return path


@pytest.mark.skipif(not features.check("raqm"), reason="sequences need libraqm")
def test_labels_give_captions_and_sequences_and_skins_stay_together(font, tmp_path):
    file = labels_file(tmp_path / "en" / "data.json", ("sign", "thing"))
    with pytest.warns(UserWarning, match=r"emoji: 2 of 35 images are left out: 2 that the font does not draw \(no pair, no glyph\)"):
        parts = all_splits(font=font, size=20, labels=str(file))
    captions = [set(part.captions) for part in parts]
    assert {"sign 2601, thing", "sign 2600", "sign 2600: 1F3FB", "pair"} <= set().union(*captions)
    assert any({"sign 2600", "sign 2600: 1F3FB", "sign 2600: 1F3FF"} <= some for some in captions), "in the same split"
    light = next(part.x[part.captions.index("sign 2600: 1F3FB")] for part in parts if "sign 2600: 1F3FB" in part.captions)
    assert (light[:, 10, 10] - torch.tensor([0, 255, 0])).abs().max() < 5, "green, up to the resizing"
    plain = all_splits(font=font, size=20, labels=file, tags=False, skins=False)
    assert sum(map(len, plain)) == sum(map(len, parts)) - 2
    assert "sign 2601" in {caption for part in plain for caption in part.captions}


def test_a_folder_has_labels_in_several_languages(font, tmp_path):
    labels_file(tmp_path / "en" / "data.json", ("sign", "thing"))
    labels_file(tmp_path / "zh" / "data.json", ("符号", "东西"))
    assert load("emoji", font=font, size=8, labels=tmp_path, language="zh").captions[0].startswith("符号")
    with pytest.raises(UserError, match="language is 'fr', but .* has en, zh"):
        load("emoji", font=font, size=8, labels=tmp_path, language="fr")


def test_a_part_keeps_captions_and_names(font):
    data = load("emoji", font=font, size=8)
    part = data.subset([3, 1])
    assert part.captions == (data.captions[3], data.captions[1])
    assert part.names == (data.names[3], data.names[1])
    assert torch.equal(part.x[1], data.x[1])
    assert data.take(2).captions == data.captions[:2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"font": "/none.ttf"}, DataError, "there is no font /none.ttf: run apt-get install fonts-noto-color-emoji"),
        ({"language": "zh"}, UserError, "Unicode's names are English; give labels=FOLDER"),
        ({"background": "whitish"}, UserError, "background is 'whitish'"),
        ({"size": 0}, UserError, "size is 0"),
        ({"labels": "/none"}, DataError, "labels is /none, but there is no such file; .* npm pack emojibase-data"),
    ],
)
def test_options_that_do_not_fit_are_refused(font, options, error, message):
    with pytest.raises(error, match=message):
        emoji(**{"font": font, **options})


def test_other_files_are_refused(font, tmp_path):
    text = tmp_path / "x.ttf"
    text.write_text("no font")
    with pytest.raises(DataError, match="x.ttf cannot be read as a font"):
        emoji(font=text)
    with pytest.raises(DataError, match="DejaVuSans.ttf has no coloured glyphs"):
        emoji(font=f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    text.write_text('[{"hexcode": "2600"}]')
    with pytest.raises(DataError, match="x.ttf cannot be read as labels of emoji .KeyError: 'label'.; it must be a list"):
        emoji(font=font, labels=text)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_file(), reason="fonts-noto-color-emoji is not installed")
def test_the_font_of_debian_has_its_pictures():
    parts = all_splits()
    captions = {caption for part in parts for caption in part.captions}
    assert {"grinning face", "slice of pizza", "rocket"} <= captions
    x = torch.cat([part.x for part in parts])
    assert len(x) > 1300
    assert float((x.flatten(1).std(dim=1) > 5).float().mean()) > 0.99, "none is blank"
    assert len(numpy.unique(x.flatten(1).numpy(), axis=0)) > 0.99 * len(x)
