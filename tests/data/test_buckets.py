"""Images in buckets of several aspect ratios: which sides there are, which images are in which, and batches of one size each."""

import collections

import numpy
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.data.bucketed import Bucketed, bucket_sides, nearest_bucket
from pushforward.errors import DataError, UserError
from pushforward.training.buckets import GroupedOrder, batches_in_turn

SIZES = {"square": (40, 40), "wide": (80, 41), "tall": (30, 70), "banner": (400, 20)}  # width, height


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of four shapes, ten of each, with captions; red grows to the right and green downwards."""
    place = tmp_path_factory.mktemp("images")
    for name, (width, height) in SIZES.items():
        for k in range(10):
            pixels = numpy.zeros((height, width, 3), numpy.uint8)
            pixels[..., 0], pixels[..., 1] = numpy.linspace(0, 255, width), numpy.linspace(0, 255, height)[:, None]
            Image.fromarray(pixels).save(place / f"{name}-{k}.png")
            (place / f"{name}-{k}.txt").write_text(f"{name} {k}")
    return place


@pytest.fixture(scope="module")
def images(folder):
    return pf.data.load(folder, size=32, buckets=8)


@pytest.mark.parametrize(("size", "multiple"), [(32, 8), (64, 16), (1024, 64), (512, 8), (8, 8)])
def test_buckets_have_the_area_of_the_square_and_sides_that_are_multiples(size, multiple):
    sides = bucket_sides(size, multiple)
    assert (size, size) in sides
    assert {(width, height) for height, width in sides} == set(sides)
    for height, width in sides:
        assert height % multiple == width % multiple == 0
        longer = min(height, width) + multiple
        assert height * width <= size**2 < longer * max(height, width)  # none is larger
        assert 1 / 4.5 <= height / width <= 4.5 or multiple * 2 > size / 2


def test_an_image_is_in_the_bucket_of_the_nearest_ratio():
    sides = bucket_sides(1024, 64)
    for height, width in [(1080, 1920), (3, 4), (1, 1), (1, 9), (7, 2)]:
        found = sides[nearest_bucket((height, width), sides)]
        error = abs(numpy.log(found[0] / found[1] * width / height))
        assert all(error <= abs(numpy.log(h / w * width / height)) for h, w in sides)


def test_images_keep_their_ratio_and_captions(images):
    assert isinstance(images, Bucketed)
    assert images.shape == (3, 32, 32)
    by_shape = collections.defaultdict(set)
    for index in range(len(images)):
        by_shape[tuple(images[index][0].shape[1:])].add(images.captions[index].split()[0])
    assert by_shape == {(32, 32): {"square"}, (24, 40): {"wide"}, (48, 16): {"tall"}, (16, 64): {"banner"}}
    for index in range(len(images)):
        x, kind = images[index][0], images.captions[index].split()[0]
        width, height = SIZES[kind]
        ratio = x.shape[1] / x.shape[2]
        assert (ratio > 1) == (height > width)
        assert (ratio < 1) == (height < width)
        assert x[0, 0, -1] - x[0, 0, 0] > 40  # red grows to the right: less where the ends were cropped
        assert x[1, -1, 0] - x[1, 0, 0] > 80


def test_a_photograph_on_its_side_is_in_the_bucket_of_the_upright_one(tmp_path):
    for k in range(10):
        image, exif = Image.new("RGB", (64, 32)), Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / f"{k}.jpg", exif=exif)
    found = pf.data.load(tmp_path, size=32, buckets=8)
    assert found[0][0].shape[1] > found[0][0].shape[2]


def test_a_subset_and_its_parts_have_the_same_examples(images):
    part = images.subset([len(images) - 1, 0, 5])
    assert part.captions == tuple(images.captions[k] for k in (len(images) - 1, 0, 5))
    assert torch.equal(part[0][0], images[len(images) - 1][0])
    seen = []
    for one, indices in part.by_part():
        for k, index in enumerate(indices):
            assert torch.equal(one[k][0], part[index][0])
            assert one.captions[k] == part.captions[index]
            seen.append(index)
    assert sorted(seen) == [0, 1, 2]
    assert part.fingerprint() != images.fingerprint()
    x, kept = images.readable([3, 1])
    assert kept == [3, 1]
    assert torch.equal(x, images.batch([3, 1])[0])


GROUPS = torch.tensor([0] * 30 + [1] * 9 + [2] * 61)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def grouped(*arguments):
    return GroupedOrder(len(GROUPS), *arguments, groups=GROUPS)


def test_batches_have_one_group_and_every_example_is_drawn_equally_often():
    drawn, steps = collections.Counter(), 700  # 56 epochs
    for batch in grouped(8, 3, 0, steps):
        assert len(GROUPS[batch].unique()) == 1
        drawn.update(batch)
    assert set(drawn) == set(range(100))
    assert min(drawn.values()) >= 53
    assert max(drawn.values()) <= 59


@pytest.mark.parametrize("start", [1, 5, 33])
def test_an_order_of_groups_that_starts_later_is_the_rest_of_the_same(start):
    assert list(grouped(8, 3, start, 40)) == list(grouped(8, 3, 0, 40))[start:]


def test_processes_share_the_batches_of_one():
    shares = [list(grouped(8, 3, 0, 20, rank, 2)) for rank in range(2)]
    assert [one + other for one, other in zip(*shares, strict=True)] == list(grouped(8, 3, 0, 20))


def test_batches_in_turn_have_each_example_once(images):
    found = batches_in_turn(images, 7)
    assert sorted(index for batch in found for index in batch) == list(range(len(images)))
    assert all(len(images.groups[list(batch)].unique()) == 1 and len(batch) <= 7 for batch in found)
    assert batches_in_turn(torch.zeros(5, 2), 2) == [range(2), range(2, 4), range(4, 5)]


@pytest.mark.slow
def test_an_autoencoder_is_trained_on_buckets_and_resumed_bit_by_bit(images, folder, tmp_path):
    validation = pf.data.load(folder, "validation", size=32, buckets=8)
    settings = {"batch_size": 4, "ema": 0.9, "seed": 0}

    def trained(steps, **options):
        torch.manual_seed(0)
        net = pf.nn.AutoencoderKL(3, 2, (4, 8), groups=2, blocks=1)
        model = pf.families.Autoencoder(net, (3, 32, 32), levels=256)
        return pf.Trainer(model, images, validation=validation, steps=steps, **settings, **options).fit()

    whole = trained(12)
    trained(7, out=tmp_path / "run")
    rest = trained(12, out=tmp_path / "run", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name


def test_what_cannot_be_done_with_several_shapes_is_refused(images, folder):
    with pytest.raises(UserError, match=r"asked for examples of 4 shapes together .* load the data without buckets"):
        images.in_memory()
    with pytest.raises(UserError, match="buckets is 7, which does not divide the size, 32"):
        pf.data.load(folder, size=32, buckets=7)
    with pytest.raises(UserError, match="buckets"):
        pf.data.load(folder, size=32, buckets=0)
    model = pf.models.rectified_flow(pf.nn.UNet.Config(channels=8, depth=1), (3, 32, 32))
    with pytest.raises(UserError, match="examples of several shapes, but this model's are all"):
        pf.Trainer(model, images, steps=1)
    with pytest.raises(DataError, match="a batch mixes both"):
        pf.data.PriorPreservation(images, images)
    with pytest.raises(DataError, match="only some of its parts have captions"):
        Bucketed("two", [images.parts[0], pf.data.Dataset("bare", torch.zeros(3, 3, 8, 8))])
