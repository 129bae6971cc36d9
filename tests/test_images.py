"""Images of every mode of PIL, against the grey or colour that they were made to show."""

import io
import itertools
import struct
import zlib

import numpy
import pytest
import torch
from PIL import Image

from pushforward._images import BLACK, in_8_bits, opened
from pushforward.data.images import decoded
from pushforward.errors import UserError
from pushforward.sd3.images import to_mask, to_tensor

GREYS = numpy.array([[0, 1, 64, 128], [200, 254, 255, 3]], numpy.uint8)
DEEP = GREYS.astype(numpy.uint16) * 257
COLOURS = numpy.stack([GREYS, GREYS[::-1], 255 - GREYS], axis=2)
grey, colour = Image.fromarray(GREYS), Image.fromarray(COLOURS)


def of_bytes(mode, array):
    return Image.frombytes(mode, (4, 2), array.tobytes())


def palette():
    image = Image.fromarray(numpy.arange(8, dtype=numpy.uint8).reshape(2, 4)).convert("P")
    image.putpalette(COLOURS.reshape(-1).tolist())
    return image


# mode -> (image, the greys or colours that it shows, by how much they may differ: conversions between colour spaces round)
MODES = {
    "1": (Image.fromarray(GREYS > 100), numpy.where(GREYS > 100, 255, 0), 0),
    "L": (grey, GREYS, 0),
    "P": (palette(), COLOURS, 0),
    "RGB": (colour, COLOURS, 0),
    "RGBX": (colour.convert("RGBX"), COLOURS, 0),
    "RGBA": (colour.convert("RGBA"), COLOURS, 0),
    "RGBa": (colour.convert("RGBA").convert("RGBa"), COLOURS, 0),
    "LA": (grey.convert("LA"), GREYS, 0),
    "La": (grey.convert("LA").convert("La"), GREYS, 0),
    "PA": (palette().convert("PA"), COLOURS, 0),
    "CMYK": (colour.convert("CMYK"), COLOURS, 0),
    "YCbCr": (colour.convert("YCbCr"), COLOURS, 3),
    "HSV": (colour.convert("HSV"), COLOURS, 6),
    "LAB": (grey.convert("RGB").convert("LAB"), GREYS, 6),
    "I": (Image.fromarray(DEEP.astype(numpy.int32)), GREYS, 0),
    "F": (Image.fromarray(GREYS.astype(numpy.float32) / 255), GREYS, 0),
    "I;16": (Image.fromarray(DEEP), GREYS, 0),
    "I;16L": (of_bytes("I;16L", DEEP.astype("<u2")), GREYS, 0),
    "I;16B": (of_bytes("I;16B", DEEP.astype(">u2")), GREYS, 0),
    "I;16N": (of_bytes("I;16N", DEEP), GREYS, 0),
}


def as_rgb(shown):
    return shown if shown.ndim == 3 else numpy.repeat(shown[..., None], 3, axis=2)


def test_every_mode_of_pil_has_a_case():
    assert set(MODES) == set(Image.MODES)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_every_mode_is_read_as_what_it_shows(mode):
    image, shown, off = MODES[mode]
    assert image.mode == mode
    expected = as_rgb(shown).astype(int)
    assert abs(numpy.asarray(in_8_bits(image, "RGB")).astype(int) - expected).max() <= off
    luma = expected @ [0.299, 0.587, 0.114]
    assert abs(numpy.asarray(in_8_bits(image, "L")) - luma).max() <= off + 1
    tensor = to_tensor(image)[0].permute(1, 2, 0).numpy()
    assert abs((tensor + 1) * 127.5 - expected).max() <= off + 1e-4


FILES = [(mode, ".tif") for mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F")]
FILES += [(mode, ".png") for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")] + [("I", ".pgm"), ("F", ".pfm")]


@pytest.mark.parametrize(("mode", "suffix"), FILES)
def test_a_file_is_read_like_the_image_in_it(tmp_path, mode, suffix):
    image, shown, _ = MODES[mode]
    path = tmp_path / f"x{suffix}"
    image.save(path)
    assert numpy.array_equal(in_8_bits(Image.open(path), "RGB"), as_rgb(shown))
    square = image.crop((0, 0, 2, 2))
    square.save(path)
    assert numpy.array_equal(decoded(path, (2, 2), 3).permute(1, 2, 0), as_rgb(shown)[:2, :2])


def transparent(mode, transparency):
    """An image of `mode` with a number that is transparent."""
    image = MODES[mode][0].copy()
    image.info["transparency"] = transparency
    return image


HALF = numpy.full_like(GREYS, 255)
HALF[:, ::2] = 0  # every other column is transparent
SEE_THROUGH = {
    "RGBA": (Image.fromarray(numpy.dstack([COLOURS, HALF])), HALF == 0),
    "LA": (Image.merge("LA", (grey, Image.fromarray(HALF))), HALF == 0),
    "La": (Image.merge("LA", (grey, Image.fromarray(HALF))).convert("La"), HALF == 0),
    "PA": (Image.merge("PA", (Image.fromarray(numpy.arange(8, dtype=numpy.uint8).reshape(2, 4)), Image.fromarray(HALF))), HALF == 0),
    "L": (transparent("L", 64), GREYS == 64),
    "I;16": (transparent("I;16", 64 * 257), GREYS == 64),
    "I": (transparent("I", 64 * 257), GREYS == 64),
    "RGB": (transparent("RGB", tuple(COLOURS[1, 1].tolist())), numpy.equal(COLOURS, COLOURS[1, 1]).all(axis=2)),
    "1": (transparent("1", 0), GREYS <= 100),
    "P": (transparent("P", 5), numpy.arange(8).reshape(2, 4) == 5),
}


@pytest.mark.parametrize(("mode", "background"), list(itertools.product(SEE_THROUGH, (0, 90, 255))))
def test_transparent_pixels_show_the_background(mode, background):
    image, hidden = SEE_THROUGH[mode]
    assert image.mode == mode
    assert 0 < hidden.sum() < 8
    made = numpy.asarray(in_8_bits(image, "RGB", background))
    opaque = image.convert("LA").convert("RGB") if mode == "La" else None
    shown = as_rgb(MODES[mode][1]) if mode not in ("La", "PA") else numpy.asarray(opaque or image.convert("RGB"))
    assert (made[hidden] == background).all()
    assert numpy.array_equal(made[~hidden], shown[~hidden])


def test_half_transparent_pixels_mix():
    image = Image.new("RGBA", (1, 1), (100, 0, 200, 51))  # 51 / 255 is a fifth
    assert numpy.asarray(in_8_bits(image, "RGB"))[0, 0].tolist() == [round(0.2 * c + 0.8 * 255) for c in (100, 0, 200)]
    assert numpy.asarray(in_8_bits(image, "RGB", BLACK))[0, 0].tolist() == [20, 0, 40]


def test_a_mask_painted_on_a_transparent_layer_repaints_what_is_painted():
    layer = numpy.zeros((2, 4, 4), numpy.uint8)
    layer[:, :2] = 255
    assert to_mask(Image.fromarray(layer), (2, 4))[0, 0].tolist() == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "I", "F"])
def test_a_turned_photograph_is_read_upright(tmp_path, orientation, mode):
    """Orientation k states how the stored image is to be turned: what is stored is the inverse of that."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image, shown, _ = MODES[mode]
    stored = image if orientation == 1 else image.transpose(turn[orientation])
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored.save(tmp_path / "x.tif", exif=tags)
    with opened(tmp_path / "x.tif") as read:
        assert numpy.array_equal(in_8_bits(read, "RGB"), as_rgb(shown))
    stored.info["exif"] = tags.tobytes()  # as a PNG or JPEG has it, which PIL does not turn
    assert numpy.array_equal(in_8_bits(stored, "RGB"), as_rgb(shown))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), (level, level, level)) for level in (40, 200, 90)]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:], **options)
    assert decoded(tmp_path / f"x{suffix}", (4, 4), 1).unique().tolist() == [40]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (numpy.array([[0, 255]], numpy.float32), "mode F has numbers from 0 to 255, but they must be from 0 .black. to 1"),
        (numpy.array([[-1, 1]], numpy.float32), "from -1 to 1"),
        (numpy.array([[0, numpy.nan]], numpy.float32), "nan"),
        (numpy.array([[0, numpy.inf]], numpy.float32), "from 0 to inf"),
        (numpy.array([[0, 65536]], numpy.int32), "mode I has numbers from 0 to 65536, but they must be from 0 .black. to 65535"),
        (numpy.array([[-5, 7]], numpy.int32), "from -5 to 7"),
    ],
)
def test_numbers_of_which_none_is_known_to_be_white_are_refused(numbers, said):
    with pytest.raises(UserError, match=said):
        to_tensor(Image.fromarray(numbers))


def png_of_16_bits(colour_type, numbers):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(f">{len(numbers)}H", *numbers))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("colour_type", "numbers", "shown"),
    [
        (0, [200 * 257], [200, 200, 200]),
        (2, [200 * 257, 0, 9 * 257], [200, 0, 9]),
        (4, [200 * 257, 65535], [200, 200, 200]),
        (4, [200 * 257, 0], [255, 255, 255]),
        (6, [200 * 257, 0, 9 * 257, 65535], [200, 0, 9]),
    ],
)
def test_png_of_16_bits_a_channel(colour_type, numbers, shown):
    assert numpy.asarray(in_8_bits(Image.open(png_of_16_bits(colour_type, numbers)), "RGB"))[0, 0].tolist() == shown


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_reading_leaves_the_image_as_it_was(mode):
    image = SEE_THROUGH["RGBA"][0]
    before = image.tobytes()
    in_8_bits(image, mode)
    assert (image.mode, image.tobytes()) == ("RGBA", before)
    assert torch.equal(to_tensor(image), to_tensor(image))
