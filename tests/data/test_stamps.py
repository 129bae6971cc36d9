"""Stamps of Tux Paint: pictures with captions in several languages, in folders made here."""

import pytest
import torch
from PIL import Image

from pushforward.data.load import load
from pushforward.data.splits import SPLITS
from pushforward.data.stamps import DEBIAN
from pushforward.errors import DataError, UserError


def stamp(path, colour, size=(10, 20), caption=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Twenty stamps, of which ten have a Chinese caption, and one of each kind that is left out."""
    for k in range(20):
        chinese = f"zh_CN.utf8=第{k}只。\n" if k % 2 else "zh_CN.utf8=\n"
        caption = f"Number {k}.\nfr.utf8=Le numéro {k} = {k}.\n{chinese}"
        stamp(tmp_path / ("animals/birds" if k < 10 else "food") / f"{k:02}.png", (k, 0, 0, 255), caption=caption)
    stamp(tmp_path / "food" / "bare.png", "red")
    stamp(tmp_path / "food" / "broken.png", "red", caption="Broken.")
    (tmp_path / "food" / "broken.png").write_bytes(b"no image")
    (tmp_path / "food" / "drawn.svg").write_text("<svg/>")
    (tmp_path / "food" / "drawn.txt").write_text("Drawn.")
    (tmp_path / "food" / "00_desc.ogg").write_text("sound")
    return tmp_path


def test_stamps_have_classes_and_captions_and_the_others_are_named(folder):
    with pytest.warns(
        UserWarning, match="stamps: 3 of 23 images are left out: 1 as SVG, for which svg=True is needed .food/drawn.svg.; 1 with"
    ) as seen:
        parts = [load("stamps", split, folder=str(folder), size=20) for split in SPLITS]
    assert "out a caption in en (food/bare.png); 1 that cannot be read (food/broken.png)." in str(seen[0].message)
    assert [len(part) for part in parts] == [16, 2, 2]
    assert parts[0].class_names == ("animals", "food")
    assert parts[2].cond.sort().values.tolist() == [0, 1], "stratified"
    for part in parts:
        for x, caption, names, label in zip(part.x, part.captions, part.names, part.cond.tolist(), strict=True):
            k = int(caption.removeprefix("Number ").removesuffix("."))
            assert names == (caption,)
            assert label == (k >= 10)
            assert x[:, 10, 10].tolist() == [k, 0, 0]
            assert x[:, 10, 2].tolist() == [255, 255, 255], "10 of 20 pixels wide, on white"


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_captions_are_in_a_language(folder):
    french = load("stamps", folder=folder, size=8, language="fr")
    assert all(caption == f"Le numéro {caption.split()[2]} = {caption.split()[2]}." for caption in french.captions)
    with pytest.raises(UserError, match="'zh' is not a known language of these stamps; known are en, fr, zh_CN"):
        load("stamps", folder=folder, size=8, language="zh")
    with pytest.warns(UserWarning, match="12 without a caption in zh_CN"):
        chinese = load("stamps", folder=folder, size=8, language="zh_CN")
    assert all(caption.startswith("第") for caption in chinese.captions)
    assert len(chinese) == 8


def test_folders_without_stamps_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*none: run apt-get install tuxpaint-stamps-default, or give folder=FOLDER"):
        load("stamps", folder=tmp_path / "none")
    with pytest.raises(DataError, match="holds no stamps, which are NAME.png with NAME.txt"):
        load("stamps", folder=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="tuxpaint-stamps-default is not installed")
@pytest.mark.filterwarnings("ignore:.*are left out")
def test_the_stamps_of_debian_have_captions():
    data = load("stamps", size=16)
    assert len(data) > 600
    assert all(data.captions)
    assert not torch.equal(data.x[0], data.x[1])
