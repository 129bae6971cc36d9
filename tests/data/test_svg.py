"""SVG files are drawn as they mean, and hostile ones read no files, reach no network and take little time and memory."""

import errno
import os
import socket
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from pushforward.data import svg
from pushforward.data.load import load
from pushforward.data.stamps import DEBIAN
from pushforward.errors import DataError, UserError

pytest.importorskip("resvg_py")
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RED = '<rect width="100%" height="100%" fill="red"/>'


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Return a function from texts to their images or reasons, drawn with little time and memory."""
    monkeypatch.setattr(svg, "SECONDS", 1)
    monkeypatch.setattr(svg, "MEGABYTES", 400)

    def of(*texts, size=16):
        paths = [tmp_path / f"{k}.svg" for k in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
        return list(svg.drawn(paths, size))

    return of


def colour(image):
    return image.getpixel((image.width // 2, image.height // 2))


def test_the_longer_side_has_the_size(draw):
    wide, tall, points, endless = draw(
        f'{HEAD} width="40" height="20">{RED}</svg>',
        f'{HEAD} viewBox="0 0 10 40">{RED}</svg>',
        f'{HEAD} width="160pt" height="80pt">{RED}</svg>',
        f'{HEAD} width="1e9" height="1e9">{RED}</svg>',
    )
    assert (wide.size, tall.size, endless.size) == ((16, 8), (4, 16), (16, 16))
    assert points.size[0] == 16, "a point has a size too"
    assert {colour(one) for one in (wide, tall, points, endless)} == {(255, 0, 0)}


def test_shapes_gradients_and_parts_used_again_are_drawn_on_white(draw):
    (image,) = draw(
        f'{HEAD} viewBox="0 0 2 2"><defs><linearGradient id="g"><stop stop-color="blue"/></linearGradient>'
        '<rect id="r" width="1" height="1"/></defs><use xlink:href="#r" fill="url(#g)"/><use href="#r" x="1" y="1" fill="lime"/></svg>'
    )
    assert [image.getpixel(at) for at in ((4, 4), (12, 12), (12, 4))] == [(0, 0, 255), (0, 255, 0), (255, 255, 255)]


def test_text_is_drawn_with_a_font_that_is_always_there(draw):
    letter = '<text y="18" font-family="No Such">W</text>'
    empty, letters = draw(*(f'{HEAD} viewBox="0 0 20 20">{one}</svg>' for one in ("", letter)), size=32)
    assert numpy.asarray(empty).min() == 255
    assert numpy.asarray(letters).min() < 64


def test_entities_of_the_file_itself_are_read(draw):
    (image,) = draw(f'<!DOCTYPE svg [<!ENTITY c "lime">]>{HEAD} viewBox="0 0 1 1"><rect width="1" height="1" fill="&c;"/></svg>')
    assert colour(image) == (0, 255, 0)


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    "element",
    [
        '<image width="9" height="9" xlink:href="{}"/>',
        '<image width="9" height="9" href="{}"/>',
        '<filter id="f"><feImage href="{}"/></filter><rect width="9" height="9" filter="url(#f)"/>',
        '<use href="{}#a"/>',
        '<linearGradient id="g" href="{}#g"/>',
    ],
)
def test_other_files_are_not_read(draw, tmp_path, scheme, element):
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "secret.png")
    text = element.format(f"{scheme}{tmp_path}/secret.png")
    hidden = f"<!DOCTYPE svg [<!ENTITY e '{text}'>]>{HEAD} viewBox=\"0 0 9 9\">&e;</svg>"
    plain = f'{HEAD} viewBox="0 0 9 9">{text}</svg>'
    for found in draw(plain, hidden, plain.replace("secret", "sec&#114;et")):
        assert "it holds an image" in found or "but only parts of the file itself are used" in found


def test_external_entities_are_not_read(draw, tmp_path):
    (tmp_path / "secret.txt").write_text("lime")
    for kind in (f'SYSTEM "{tmp_path}/secret.txt"', f'SYSTEM "file://{tmp_path}/secret.txt"', 'PUBLIC "a" "secret.txt"'):
        for inside in ("<text>&e;</text>", '<rect width="1" height="1" fill="&e;"/>'):
            (found,) = draw(f'<!DOCTYPE svg [<!ENTITY e {kind}>]>{HEAD} viewBox="0 0 1 1">{inside}</svg>')
            assert isinstance(found, str)
    (found,) = draw(f'<!DOCTYPE svg [<!ENTITY % p SYSTEM "{tmp_path}/secret.txt"> %p;]>{HEAD} viewBox="0 0 1 1">{RED}</svg>')
    assert colour(found) == (255, 0, 0), "a list of declarations elsewhere is not asked for"


def test_the_network_is_not_reached(draw):
    """A server that would see any request. Style sheets, scripts and colours by address are not followed, images refused."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
        found = draw(
            f'<?xml-stylesheet href="{url}.css"?><!DOCTYPE svg SYSTEM "{url}.dtd">{HEAD} viewBox="0 0 9 9">{RED}</svg>',
            f'{HEAD} viewBox="0 0 9 9"><style>@import url("{url}.css"); @font-face {{src: url("{url}.ttf")}}</style>{RED}</svg>',
            f'{HEAD} viewBox="0 0 9 9" onload="x()"><script href="#a">x()</script><script>location="{url}"</script>{RED}</svg>',
            f'{HEAD} viewBox="0 0 9 9"><a href="{url}">{RED}</a></svg>',
            f'{HEAD} viewBox="0 0 9 9"><rect width="9" height="9" fill="url({url}#g)"/></svg>',
            f'{HEAD} viewBox="0 0 9 9"><image width="9" height="9" href="{url}.png"/></svg>',
            f'{HEAD} viewBox="0 0 9 9"><script href="{url}.js"/></svg>',
        )
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):  # who connected would wait here
            server.accept()
    assert [colour(one) for one in found[:4]] == [(255, 0, 0)] * 4
    assert isinstance(found[4], Image.Image)
    assert "it holds an image" in found[5]
    assert "only parts of the file itself" in found[6]


def bomb(levels, attributes=""):
    """Groups that each use the one before ten times."""
    parts = "".join(f'<g id="a{k + 1}">{f"""<use href="#a{k}" {attributes}/>""" * 10}</g>' for k in range(levels))
    return f'{HEAD} viewBox="0 0 9 9"><g id="a0"><rect width="9" height="9"/></g>{parts}</svg>'


LOL = "".join(f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(9))
HOSTILE = {
    "uses of uses": bomb(9),
    "entities of entities": f'<!DOCTYPE svg [<!ENTITY a0 "lol">{LOL}]>{HEAD} viewBox="0 0 9 9"><text>&a9;</text></svg>',
    "deep nesting": f'{HEAD} viewBox="0 0 9 9">{"<g>" * 50_000}{"</g>" * 50_000}</svg>',
    "noise without end": f'{HEAD} viewBox="0 0 9 9"><filter id="f"><feTurbulence numOctaves="2000000000" baseFrequency="1"/></filter>'
    '<rect width="9" height="9" filter="url(#f)"/></svg>',
    "no size": f'{HEAD} width="0" height="0">{RED}</svg>',
    "no XML": "<svg",
    "nothing": "",
}


def test_hostile_files_end_and_the_others_are_drawn(draw):
    good = f'{HEAD} viewBox="0 0 9 9">{RED}</svg>'
    found = draw(*(text for one in HOSTILE.values() for text in (one, good)))
    assert {name: one for name, one in zip(HOSTILE, found[::2], strict=True) if not isinstance(one, str)} == {}
    assert [colour(one) for one in found[1::2]] == [(255, 0, 0)] * len(HOSTILE)


def test_what_is_no_file_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.svg")
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "again.svg").symlink_to("again.svg")
    names = ("pipe", "folder", "again", "none")
    found = [one.lower() for one in svg.drawn([tmp_path / f"{name}.svg" for name in names], 8)]
    assert found == ["it is no regular file"] * 2 + [os.strerror(errno.ELOOP).lower(), "no such file or directory"]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_files_of_any_name_are_drawn(tmp_path, monkeypatch, locale):
    """Names that cannot be printed are names: line breaks, joiners of emoji, an ideographic space, bytes that are no UTF-8."""
    monkeypatch.setenv("LC_ALL", locale)
    names = ["a\nb", "a\u200db", "日本\u3000語", os.fsdecode(b"\xff\xfe"), " ", "-x", "a\r"]
    for name in names:
        (tmp_path / f"{name}.svg").write_text(f'{HEAD} viewBox="0 0 9 9">{RED}</svg>')
    assert [colour(one) for one in svg.drawn([tmp_path / f"{name}.svg" for name in names], 8)] == [(255, 0, 0)] * len(names)
    monkeypatch.chdir(tmp_path)
    assert [colour(one) for one in svg.drawn([Path(f"{name}.svg") for name in names], 8)] == [(255, 0, 0)] * len(names)


def test_a_full_temporary_folder_is_no_damaged_image(tmp_path, monkeypatch):
    """/dev/full takes no byte, as a disk without room."""
    child = tmp_path / "child.py"
    child.write_text(svg.CHILD.read_text().replace('(folder / "part")', 'Path("/dev/full")'))
    monkeypatch.setattr(svg, "CHILD", child)
    (tmp_path / "a.svg").write_text(f'{HEAD} viewBox="0 0 9 9">{RED}</svg>')
    with pytest.raises(DataError, match="has no room for the images that are drawn from SVG; free some, or set TMPDIR to another folder"):
        list(svg.drawn([tmp_path / "a.svg"], 8))


def test_stamps_draw_what_is_svg_only(tmp_path):
    for k in range(20):
        (tmp_path / f"{k}.txt").write_text(f"Number {k}.")
        if k < 10:
            Image.new("RGB", (4, 4), "blue").save(tmp_path / f"{k}.png")
        if k > 8:
            (tmp_path / f"{k}.svg").write_text(f'{HEAD} viewBox="0 0 4 2">{RED if k < 19 else "<image/>"}</svg>')
    with pytest.warns(UserWarning, match="10 of 20 images are left out: 10 as SVG, for which svg=True is needed .10.svg, "):
        plain = [load("stamps", split, folder=tmp_path, size=8) for split in ("train", "validation", "test")]
    with pytest.warns(UserWarning, match="stamps: 1 of 20 images are left out: 1 that cannot be read .19.svg: it holds an image, "):
        both = [load("stamps", split, folder=tmp_path, size=8, svg=True) for split in ("train", "validation", "test")]
    assert (sum(map(len, plain)), sum(map(len, both))) == (10, 19)
    for part in both:
        for x, caption in zip(part.x, part.captions, strict=True):
            blue = int(caption.removeprefix("Number ")[:-1]) < 10
            assert x[:, 4, 4].tolist() == ([0, 0, 255] if blue else [255, 0, 0]), "PNG comes first"
            assert x[:, 0, 4].tolist() == ([0, 0, 255] if blue else [255, 255, 255])


def test_a_missing_package_and_folders_of_svg_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.svg").write_text(f"{HEAD}/>")
    with pytest.raises(DataError, match=r"holds no stamps, which are NAME.png with NAME.txt \(svg=True reads NAME.svg too\); give another"):
        load("stamps", folder=tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="SVG images need the package resvg-py, which is not installed; run: pip install 'push"):
        load("stamps", folder=tmp_path, svg=True)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="tuxpaint-stamps-default is not installed")
@pytest.mark.filterwarnings("ignore:.*are left out")
def test_the_svg_stamps_of_debian_are_drawn():
    plain, both = (sum(len(load("stamps", split, size=32, svg=one)) for split in ("train", "validation", "test")) for one in (False, True))
    assert both - plain > 140
    assert len({torch.unique(x).numel() for x in load("stamps", "test", size=32, svg=True).x}) > 1
