"""Tensors and arrays given as images and masks: stated dtypes and ranges, and one sentence for all others."""

import numpy
import pytest
import torch
from PIL import Image

from pushforward.errors import DtypeError, ShapeError, UserError
from pushforward.sd3.images import checked_size, finished, to_mask, to_pil, to_tensor

BYTES = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5) * 2
MASK = torch.zeros(4, 5, dtype=torch.bool)
MASK[:, :2] = True


def rows(x):
    return x.movedim(1, 3).numpy()


FORMS = {
    "uint8": BYTES,
    "float32": BYTES / 255,
    "float64": BYTES.double() / 255,
    "uint8 array": rows(BYTES),
    "float32 array": rows(BYTES / 255),
    "float64 array": rows(BYTES.double() / 255),
    "big-endian array": rows(BYTES / 255).astype(">f4"),
    "read-only array": numpy.broadcast_to(rows(BYTES), (2, 4, 5, 3)),
    "PIL images": [Image.fromarray(one) for one in rows(BYTES)],
    "tuple of PIL images": tuple(Image.fromarray(one) for one in rows(BYTES)),
    "with a gradient": (BYTES / 255).requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_is_the_same_tensor(form):
    made = to_tensor(FORMS[form])
    assert (made.dtype, made.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(made, BYTES / 127.5 - 1, rtol=0, atol=1e-6)
    again = to_tensor(FORMS[form][0])
    assert torch.equal(again, made[:1]), "one image alone"
    assert [numpy.array_equal(one, wanted) for one, wanted in zip(to_pil(finished(made)), rows(BYTES), strict=True)] == [True, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_are_images_too(dtype):
    torch.testing.assert_close(to_tensor((BYTES / 255).to(dtype)), BYTES / 127.5 - 1, rtol=0, atol=1e-2)


def test_the_remedies_for_zeros_and_ones_do_what_they_state_and_dark_images_are_images():
    ones = MASK.byte().expand(3, 4, 5)
    for image in (ones, ones.permute(1, 2, 0).numpy()):
        assert torch.equal(to_tensor(image * 1.0), 2 * ones[None].float() - 1)
        torch.testing.assert_close(to_tensor(image / 255), ones[None] / 127.5 - 1, rtol=0, atol=1e-6)
    assert torch.equal(to_tensor(0 * ones), -torch.ones(1, 3, 4, 5))
    torch.testing.assert_close(to_tensor(2 * ones), 2 * ones[None] / 127.5 - 1, rtol=0, atol=1e-6)


MASKS = {
    "bool": MASK,
    "uint8": MASK.byte() * 255,
    "float": MASK.float(),
    "with rows": MASK[None],
    "with rows and a channel": MASK[None, None].float(),
    "bool array": MASK.numpy(),
    "uint8 array": (MASK.byte() * 255).numpy(),
    "PIL 1": Image.fromarray(MASK.numpy()),
    "PIL L": Image.fromarray((MASK.byte() * 255).numpy()),
    "PIL I;16": Image.fromarray(MASK.numpy().astype(numpy.uint16) * 65535),
    "PIL F": Image.fromarray(MASK.numpy().astype(numpy.float32)),
    "PIL list": [Image.fromarray(MASK.numpy())],
}


@pytest.mark.parametrize("form", MASKS)
def test_every_form_of_a_mask_is_the_same_tensor(form):
    made = to_mask(MASKS[form], (4, 5))
    assert made.dtype == torch.float32
    assert torch.equal(made, MASK[None, None].float())


def test_a_mask_for_each_image_keeps_their_order():
    both = torch.stack((MASK, ~MASK))
    assert torch.equal(to_mask(both, (4, 5)), both[:, None].float())
    assert torch.equal(to_mask([Image.fromarray(one.numpy()) for one in both], (4, 5)), both[:, None].float())


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (BYTES.int(), DtypeError, "is torch.int32, but it must be float in"),
        (rows(BYTES).astype(numpy.uint16), DtypeError, "is uint16, but"),
        (rows(BYTES).astype(numpy.complex64), DtypeError, "is complex64"),
        (rows(BYTES).astype(object), DtypeError, "is object"),
        (BYTES.bool(), DtypeError, "the image is bool"),
        (BYTES % 2 + MASK.byte(), UserError, "is uint8 with numbers 0 and 1, but uint8 is from 0 .black. to 255 .white.; give floats"),
        (rows(BYTES % 2 + MASK.byte()), UserError, r"image \* 1.0 if 1 is white, or image / 255 if the image is nearly black"),
        (BYTES.float(), UserError, "from 0 to 238, but they must be from 0 .black. to 1"),
        (BYTES / 127.5 - 1, UserError, "from -1 to 0.86"),
        (torch.full((3, 4, 5), float("nan")), UserError, "from nan to nan"),
        (torch.full((3, 4, 5), float("inf")), UserError, "from inf to inf"),
        (BYTES[:, :1] / 255, ShapeError, r"shape \(2, 1, 4, 5\), but a tensor must be \(n, 3, height, width\)"),
        (BYTES.numpy(), ShapeError, r"but an array must be \(n, height, width, 3\)"),
        (BYTES[0, 0], ShapeError, r"shape \(4, 5\)"),
        (BYTES[:0], ShapeError, r"shape \(0, 3, 4, 5\)"),
        ([], UserError, "is neither a PIL image"),
        ([BYTES[0]], UserError, "is neither a PIL image"),
        (None, UserError, "is neither a PIL image"),
        (3, UserError, "is neither a PIL image"),
        ("fox.png", UserError, "is neither a PIL image"),
        ([Image.new("RGB", (4, 5)), Image.new("RGB", (5, 4))], UserError, r"sizes \(height, width\) \[\(4, 5\), \(5, 4\)\]"),
    ],
)
def test_other_images_are_refused(image, error, said):
    with pytest.raises(error, match=said):
        to_tensor(image)


@pytest.mark.parametrize(
    ("mask", "error", "said"),
    [
        (MASK.int(), DtypeError, "is torch.int32"),
        (MASK.byte(), UserError, "uint8 with numbers 0 and 1, but uint8 is from 0 .keep. to 255"),
        (MASK.byte().numpy(), UserError, "uint8 with numbers 0 and 1"),
        (MASK.float() * 255, UserError, "from 0 to 255, but they must be from 0 .black. to 1"),
        (MASK.float() * 2 - 1, UserError, "from -1 to 1"),
        (MASK.float() / 0, UserError, "nan"),
        (MASK.float().expand(1, 3, 4, 5), ShapeError, r"shape \(1, 3, 4, 5\), but it must be \(height, width\)"),
        (MASK[0], ShapeError, r"shape \(5,\)"),
        (MASK.T, ShapeError, "the mask is 5x4, but the image is 4x5"),
        (Image.new("L", (4, 5)), ShapeError, "the mask is 5x4"),
        ([], UserError, "is neither a PIL image"),
        (True, UserError, "is neither a PIL image"),
    ],
)
def test_other_masks_are_refused(mask, error, said):
    with pytest.raises(error, match=said):
        to_mask(mask, (4, 5))


@pytest.mark.parametrize("size", [0, (0, 0), (16,), (16, 16, 16), (16.0, 16.0), True, "16", None, (-16, 16), (16, True), {16, 32}])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(UserError, match="it must be .height, width. in pixels"):
        checked_size(size, 16)
