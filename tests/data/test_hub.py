"""Sets of the library datasets, made here and saved to disk: the Hub itself is not reached by a test."""

import io

import numpy
import pytest
import torch
from packages import package
from PIL import Image
from torch.utils.data import DataLoader

from pushforward.data.dataset import keep_batch
from pushforward.data.load import load
from pushforward.data.splits import SPLITS
from pushforward.errors import DataError, UserError

datasets = package("datasets")


def png(grey):
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": f"{grey}.png"}


def photos(count, broken=(), bare=()):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "text": datasets.Value("string")}
    )
    images = [png(k) | ({"bytes": b"no image"} if k in broken else {}) for k in range(count)]
    columns = {"image": images, "label": [k % 2 for k in range(count)], "text": [None if k in bare else f"grey {k}" for k in range(count)]}
    return datasets.Dataset.from_dict(columns, features=features)


def greys(data):
    return data[:][0].flatten(1).amax(dim=1).long().tolist()


def test_a_saved_set_of_images_has_labels_captions_and_splits(tmp_path):
    photos(30).save_to_disk(tmp_path / "saved")
    parts = [load(tmp_path / "saved", split, size=8, channels=1) for split in SPLITS]
    assert [len(part) for part in parts] == [24, 3, 3]
    assert sorted(grey for part in parts for grey in greys(part)) == list(range(30))
    data = parts[0]
    assert (data.shape, data.levels, data.class_names) == ((1, 8, 8), 256, ("cat", "dog"))
    assert torch.equal(data.cond, torch.tensor(greys(data)) % 2)
    assert data.captions == tuple(f"grey {grey}" for grey in greys(data))


def test_captions_that_lack_are_refused_or_their_images_left_out(tmp_path):
    photos(30, bare=(3, 4)).save_to_disk(tmp_path / "saved")
    photos(30).save_to_disk(tmp_path / "whole")
    part = next(split for split in SPLITS if 3 in load(tmp_path / "whole", split, size=8).rows)
    with pytest.raises(DataError, match=r"row \d has no caption in the column 'text', nor have \d more of \d+ images; .* missing='drop'"):
        load(tmp_path / "saved", part, size=8)
    with pytest.warns(UserWarning, match=r"saved: \d of \d+ images are left out: \d without a caption \(row"):
        parts = [load(tmp_path / "saved", split, size=8, channels=1, missing="drop") for split in SPLITS]
    assert sorted(grey for part in parts for grey in greys(part)) == sorted({*range(30)} - {3, 4})
    for part in parts:
        assert part.captions == tuple(f"grey {grey}" for grey in greys(part))
        assert torch.equal(part.cond, torch.tensor(greys(part)) % 2)
    photos(30, bare=range(30)).save_to_disk(tmp_path / "bare")
    assert load(tmp_path / "bare", size=8).captions is None


def test_a_set_with_parts_keeps_them(tmp_path):
    parts = datasets.DatasetDict(train=photos(20), test=photos(4))
    parts.save_to_disk(tmp_path / "saved")
    found = {split: load(tmp_path / "saved", split, size=8) for split in SPLITS}
    assert {split: len(part) for split, part in found.items()} == {"train": 18, "validation": 2, "test": 4}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_an_image_that_cannot_be_read_is_named_by_its_row_from_a_worker(tmp_path):
    photos(20, broken=[7]).save_to_disk(tmp_path / "saved")
    parts = [load(tmp_path / "saved", split, size=8) for split in SPLITS]
    data = next(part for part in parts if 7 in part.rows)
    for _ in DataLoader(data, batch_size=4, collate_fn=keep_batch, num_workers=1, multiprocessing_context="spawn"):
        pass
    assert data.unreadable == ("7.png (row 7, column 'image')",)


@pytest.fixture
def numbers(tmp_path):
    random = numpy.random.RandomState(0)
    columns = {"a": random.rand(40), "b": numpy.arange(40), "v": random.rand(40, 3).tolist(), "word": ["x", "y"] * 20}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "table")
    return tmp_path / "table"


def test_columns_of_numbers_are_a_table(numbers):
    data = load(numbers, columns=["b", "a"], label="word")
    assert (data.shape, data.columns, data.class_names) == ((2,), ("b", "a"), ("x", "y"))
    assert torch.equal(data[:][0][:, 0].long(), data.rows)
    assert torch.equal(data.cond, data.rows % 2)
    assert data.in_memory(5).columns == ("b", "a")


def test_one_column_of_arrays_is_the_example(numbers):
    assert load(numbers, columns="v").shape == (3,)


def test_the_fingerprint_is_that_of_the_content(numbers, tmp_path):
    photos(20).save_to_disk(tmp_path / "one")
    photos(20, broken=range(20)).save_to_disk(tmp_path / "two")
    one, again, two = (load(tmp_path / name, size=8).fingerprint() for name in ("one", "one", "two"))
    assert one == again != two
    assert load(numbers, columns="a").fingerprint() != load(numbers, columns="b").fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has the columns a, b, v, word; select the image column with image=, or numeric columns with columns="),
        ({"columns": "c"}, "columns: 'c' is not a known column"),
        ({"columns": "a", "label": "wrd"}, "label: 'wrd' is not a known column; did you mean 'word'"),
        ({"columns": ["a", "word"]}, "the columns a, word are not numeric arrays"),
        ({"imge": "a"}, "'imge' is not a known option of a folder of datasets; did you mean 'image'"),
    ],
)
def test_what_does_not_fit_is_refused(numbers, options, message):
    with pytest.raises(UserError, match=message):
        load(numbers, **options)


def test_a_damaged_folder_is_refused(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read by datasets"):
        load(tmp_path, size=8)


def test_parts_without_train_are_refused(tmp_path):
    datasets.DatasetDict(alpha=photos(4), beta=photos(4)).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has the parts alpha, beta, but one must be train"):
        load(tmp_path / "saved", size=8)


def test_without_the_network_the_name_is_refused_in_a_sentence(monkeypatch):
    def load_dataset(name, config):
        raise ConnectionError(f"Couldn't reach {name}\nand more")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"hf:someone/photos cannot be loaded \(Couldn't reach someone/photos\); check its name"):
        load("hf:someone/photos", size=8)


def test_a_set_of_the_hub_is_read_as_a_saved_one(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", lambda name, config: datasets.DatasetDict(train=photos(20), validation=photos(3)))
    assert [len(load("hf:someone/photos", split, size=8)) for split in SPLITS] == [18, 3, 2]


def test_without_the_package_the_way_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets; run pip install 'pushforward\[data\]'"):
        load("hf:someone/photos", size=8)
