"""Folders of images: classes, splits, captions, and images that cannot be read."""

import csv
import json

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pushforward.data.dataset import keep_batch
from pushforward.data.images import decoded
from pushforward.data.load import load
from pushforward.data.splits import SPLITS
from pushforward.errors import DataError, OutOfMemoryError, UserError


def paint(path, grey, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


@pytest.fixture
def flat(tmp_path):
    """Twenty images, each all of the grey value that is its number."""
    for k in range(20):
        paint(tmp_path / "flat" / f"{k:02}.png", k)
    return tmp_path / "flat"


@pytest.fixture
def classes(tmp_path):
    for k in range(30):
        paint(tmp_path / "photos" / ("cat", "dog", "owl")[k % 3] / f"{k:02}.png", k)
    return tmp_path / "photos"


def greys(data):
    return data[:][0].flatten(1).amax(dim=1).long().tolist()


def test_a_flat_folder_has_no_labels_and_splits_that_are_the_whole(flat):
    parts = [load(flat, split, size=8, channels=1) for split in SPLITS]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert sorted(grey for part in parts for grey in greys(part)) == list(range(20))
    assert (parts[0].shape, parts[0].levels, parts[0].cond, parts[0].captions) == ((1, 8, 8), 256, None, None)


def test_sizes_that_do_not_fit_into_memory_are_refused(flat):
    with pytest.raises(OutOfMemoryError, match="a batch of 1 images of shape .* needs .*; give a smaller size"):
        load(flat, size=10**7)[:1]


def test_sub_folders_are_classes_in_the_order_of_their_names(classes):
    data = load(classes, size=4)
    assert (data.shape, data.classes, data.class_names) == ((3, 4, 4), 3, ("cat", "dog", "owl"))
    assert torch.equal(data[:][1], torch.tensor(greys(data)) % 3)
    assert load(classes, "test", size=4).cond.sort().values.tolist() == [0, 1, 2]


def test_folders_of_splits_are_respected_and_what_lacks_comes_from_train(tmp_path):
    for k in range(40):
        paint(tmp_path / "train" / "ab"[k % 2] / f"{k}.png", k)
    for k in range(6):
        paint(tmp_path / "test" / "abc"[k % 3] / f"{k}.png", 100 + k)
    parts = {split: load(tmp_path, split, size=8, channels=1) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 36, "validation": 4, "test": 6}
    assert sorted(greys(parts["train"]) + greys(parts["validation"])) == list(range(40))
    assert all(part.class_names == ("a", "b", "c") for part in parts.values())
    assert torch.equal(parts["test"].cond, torch.tensor(greys(parts["test"])).sub(100) % 3)


def test_val_is_validation(tmp_path):
    for part, count in (("train", 10), ("val", 3), ("test", 2)):
        for k in range(count):
            paint(tmp_path / part / f"{k}.png", k)
    assert [len(load(tmp_path, split, size=8)) for split in SPLITS] == [10, 3, 2]


def test_the_middle_is_cut_out_of_the_resized_image(tmp_path):
    """Red, green and blue thirds of 24 by 8 pixels: the middle square is all green."""
    image = numpy.zeros((8, 24, 3), numpy.uint8)
    for third in range(3):
        image[:, 8 * third : 8 * third + 8, third] = 200
    Image.fromarray(image).save(tmp_path / "wide.png")
    x = decoded(tmp_path / "wide.png", (8, 8), 3)
    assert torch.equal(x, torch.tensor([0, 200, 0], dtype=torch.uint8)[:, None, None].expand(3, 8, 8))


def test_an_image_of_the_size_asked_for_is_not_touched(tmp_path):
    pixels = numpy.random.RandomState(0).randint(256, size=(9, 9, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert numpy.array_equal(decoded(tmp_path / "x.png", (9, 9), 3).permute(1, 2, 0), pixels)


def test_sixteen_bits_become_eight_and_a_photo_is_turned_upright(tmp_path):
    Image.fromarray(numpy.full((4, 4), 0x80FF, numpy.uint16)).save(tmp_path / "deep.png")
    assert decoded(tmp_path / "deep.png", (4, 4), 1).unique().tolist() == [0x80]
    lying = numpy.zeros((4, 4), numpy.uint8)
    lying[:, :2] = 255  # bright on the left, and on top once it is turned
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(lying).save(tmp_path / "lying.png", exif=tags)
    assert decoded(tmp_path / "lying.png", (4, 4), 1)[0, :2].unique().tolist() == [255]


def test_captions_from_a_table_belong_to_their_images(flat):
    with open(flat / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], *[[f"{k:02}.png", f"grey {k}, flat"] for k in range(20)]])
    data = load(flat, size=8, channels=1)
    assert data.captions == tuple(f"grey {grey}, flat" for grey in greys(data))
    assert data.subset([3, 1]).captions == (data.captions[3], data.captions[1])


def test_captions_from_json_lines_and_from_text_beside(flat):
    (flat / "metadata.jsonl").write_text("".join(json.dumps({"file_name": f"{k:02}.png", "text": f"grey {k}"}) + "\n" for k in range(20)))
    from_lines = load(flat, size=8)
    (flat / "metadata.jsonl").unlink()
    for k in range(20):
        (flat / f"{k:02}.txt").write_text(f"grey {k}\n", encoding="utf-8-sig" if k % 2 else "utf-8")  # with a byte order mark
    assert load(flat, size=8).captions == from_lines.captions == tuple(f"grey {grey}" for grey in greys(from_lines))


def test_encoded_captions_are_conditions_in_their_order(flat):
    data = load(flat, size=8, channels=1)
    encoded = torch.tensor(greys(data)).float()[:, None].expand(-1, 3)
    x, cond = data.with_cond(encoded).batch([4, 7])
    assert torch.equal(cond, x.flatten(1)[:, :3])


@pytest.fixture
def damaged(classes):
    """Photos of which three of the training split cannot be read: empty, cut off, no image."""
    data = load(classes, size=4)
    names = [data.source.files[row] for row in data.rows[[2, 3, 10]].tolist()]
    (classes / names[0]).write_bytes(b"")
    (classes / names[1]).write_bytes((classes / names[1]).read_bytes()[:40])
    (classes / names[2]).write_text("no image")
    return classes, sorted(str(classes / name) for name in names)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_an_image_that_cannot_be_read_is_named_and_the_next_takes_its_place(damaged):
    folder, names = damaged
    data = load(folder, size=4)
    assert data.unreadable == ()
    x, cond = data[:]
    assert sorted(data.unreadable) == names
    for gone, next_one in ((2, 4), (3, 4), (10, 11)):
        assert torch.equal(x[gone], x[next_one])
        assert cond[gone] == cond[next_one]
    assert torch.equal(load(folder, size=4)[2:4][0], x[2:4]), "whatever was read before"
    assert torch.equal(data.in_memory().cond, cond)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_what_workers_could_not_read_is_known_to_all(damaged, context):
    folder, names = damaged
    data = load(folder, size=4)
    loader = DataLoader(data, batch_size=8, collate_fn=keep_batch, num_workers=2, multiprocessing_context=context)
    x = torch.cat([x for x, _ in loader])
    assert sorted(data.unreadable) == names
    assert torch.equal(x, data[:][0])


def test_a_warning_names_the_image_and_why(damaged):
    with pytest.warns(UserWarning, match=r"photos/.*png cannot be read \(cannot identify image file"):
        load(damaged[0], size=4)[10]


def test_the_fingerprint_knows_files_names_and_size(classes):
    known = load(classes, size=4).fingerprint()
    assert load(classes, size=4).fingerprint() == known != load(classes, size=5).fingerprint()
    data = load(classes, size=4)
    file = data.source.open(int(data.rows[0]))
    paint(file, 99)
    changed = load(classes, size=4).fingerprint()
    file.rename(file.with_name("zz.png"))
    assert len({known, changed, load(classes, size=4).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give size=32"),
        ({"size": 0}, "size is 0"),
        ({"size": "32"}, "size is '32'"),
        ({"size": 8, "channels": 2}, r"channels is 2, but images have 1 \(greyscale\) or 3"),
        ({"size": 8, "chanels": 1}, "'chanels' is not a known option of a folder of images; did you mean 'channels'"),
    ],
)
def test_options_that_do_not_fit_are_refused(flat, options, message):
    with pytest.raises(UserError, match=message):
        load(flat, **options)


def test_images_beside_folders_are_refused(classes):
    paint(classes / "stray.png", 0)
    with pytest.raises(DataError, match="holds 1 images next to its class folders, such as stray.png"):
        load(classes, size=8)


def test_too_few_images_are_all_train_and_folders_without_any_are_refused(tmp_path):
    for k in range(9):
        paint(tmp_path / "few" / f"{k}.png", 0)
    assert sorted(load(tmp_path / "few", size=8).rows.tolist()) == list(range(9))
    for split in ("validation", "test"):
        with pytest.raises(DataError, match="there are 9 examples, but a split"):
            load(tmp_path / "few", split, size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is a folder without data; a folder holds x.npy"):
        load(tmp_path / "empty")


def test_captions_that_lack_are_refused_by_name(flat):
    (flat / "metadata.csv").write_text("file_name,text\n00.png,grey\n")
    with pytest.raises(DataError, match=r"01.png has no caption in .*metadata.csv, nor have 18 more of 20 images"):
        load(flat, size=8)
    (flat / "metadata.csv").write_text("file,text\n00.png,grey\n")
    with pytest.raises(DataError, match="record 1 has no file_name"):
        load(flat, size=8)
    (flat / "metadata.csv").unlink()
    (flat / "metadata.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"metadata.jsonl cannot be read"):
        load(flat, size=8)


def test_images_without_a_caption_and_small_ones_are_left_out_if_wanted(flat):
    for k in range(18):
        (flat / f"{k:02}.txt").write_text(f"grey {k}" if k else " \n")  # two have no file, and one an empty one
    paint(flat / "19.png", 19, size=(40, 3))
    (flat / "19.txt").write_text("wide")
    (flat / "05.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"00.png has no caption in a .txt file next to it, nor have 1 more of 20 .* with missing='drop'"):
        load(flat, size=8)
    words = r"flat: 4 of 20 images are left out: 2 without a caption \(00.png, 18.png\); 1 smaller than 4 pixels \(19.png\); "
    with pytest.warns(UserWarning, match=words + r"1 that cannot be opened \(05.png\)"):
        parts = [load(flat, split, size=8, channels=1, missing="drop", smallest=4) for split in SPLITS]
    assert [len(part) for part in parts] == [14, 1, 1]
    for part in parts:
        assert part.captions == tuple(f"grey {grey}" for grey in greys(part))
    with pytest.raises(DataError, match="none of its 20 images is left: 2 have no caption, 17 are too small"):
        load(flat, size=8, missing="drop", smallest=41)
    with pytest.raises(UserError, match="missing is 'skip', but of captions it is 'refuse' or 'drop'"):
        load(flat, size=8, missing="skip")


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_what_can_be_read_of_a_batch_is_not_replaced(damaged):
    folder, names = damaged
    data = load(folder, size=4)
    x, kept = data.readable([1, 2, 3, 4])
    assert kept == [1, 4]
    assert torch.equal(x, torch.stack([data[1][0], data[4][0]]))
    assert data.readable([2, 3])[0].shape == (0, 3, 4, 4)
    assert set(data.unreadable) < set(names)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_a_folder_of_nothing_readable_is_refused_when_it_is_read(flat):
    for file in flat.iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 16 images can be read, such as"):
        load(flat, size=8)[0]
