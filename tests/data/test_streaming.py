"""Hugging Face sets that are streamed from parquet files: the set that is downloaded, by row group, in the order of shards."""

import io

import fsspec
import pyarrow
import pytest
import torch
from packages import package
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader

from pushforward.data.dataset import keep_batch
from pushforward.data.load import load
from pushforward.data.splits import SPLITS
from pushforward.errors import DamagedDataError, DataError, PushforwardError, ShardError, UserError
from pushforward.training.buckets import order_of

datasets = package("datasets")
COUNTS = (17, 23)


def png(grey):
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": f"{grey}.png"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "text": datasets.Value("string"),
            "point": datasets.Sequence(datasets.Value("float32")),
        }
    )
    datasets.disable_progress_bars()
    first = 0
    (tmp_path / "set").mkdir()
    for number, count in enumerate(COUNTS):
        rows = range(first, first + count)
        columns = {
            "image": [png(k) for k in rows],
            "label": [k % 2 for k in rows],
            "text": [f"grey {k}" for k in rows],
            "point": [[float(k), 2.0] for k in rows],
        }
        path = tmp_path / "set" / f"train-{number:05d}-of-00002.parquet"
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path), batch_size=5)
        first += count
    return tmp_path / "set"


@pytest.fixture
def in_memory(folder):
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    yield "hf:memory://set/*.parquet"
    memory.rm("/set", recursive=True)


def greys(data):
    return data[:][0].flatten(1).amax(dim=1).long().tolist()


def test_a_stream_is_the_set_that_is_downloaded(folder, in_memory):
    whole = [load(f"hf:{folder}", split, size=8, channels=1) for split in SPLITS]
    for name in (f"hf:{folder}", f"hf:{folder}/*.parquet", f"hf:{folder}/train-{{00000,00001}}-of-00002.parquet", in_memory):
        for split, one in zip(SPLITS, whole, strict=True):
            data = load(name, split, size=8, channels=1, streaming=True)
            assert sorted(data.rows.tolist()) == sorted(one.rows.tolist()), name
            assert torch.equal(data.cond, torch.tensor(greys(data)) % 2)
            assert data.captions == tuple(f"grey {grey}" for grey in greys(data))
            assert sorted(greys(data)) == sorted(greys(one))
            assert (data.shape, data.class_names, data.levels) == (one.shape, one.class_names, one.levels)
    assert sorted(grey for part in whole for grey in greys(part)) == list(range(sum(COUNTS)))


def test_row_groups_are_the_shards_of_its_order(folder):
    data = load(f"hf:{folder}", size=8, channels=1, streaming=True, window=2)
    assert data.shards.unique().tolist() == list(range(9))  # 4 groups of up to 5 rows, and 5
    assert data.window == 2
    order = list(order_of(data, 4, 0, 0, 16))
    drawn = [index for batch in order for index in batch]
    assert sorted(drawn[: len(data)]) == list(range(len(data)))
    assert list(order_of(data, 4, 0, 5, 16)) == order[5:]
    reads = []
    true = data.source.table._read
    data.source.table._read = lambda *arguments: reads.append(1) or true(*arguments)
    for batch in order[: len(data) // 4]:
        data.batch(batch)
    assert len(reads) <= 9 + 2  # each group once, and those at the end that are also at the beginning


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_reads_every_row_once(in_memory, workers, cache):
    data = load(in_memory, size=8, channels=1, streaming=True)
    loader = DataLoader(data, batch_size=4, num_workers=workers, collate_fn=keep_batch)
    assert sorted(int(one.max()) for x, _ in loader for one in x) == sorted(greys(data))
    assert len([path for path in (cache / "copies").iterdir() if not path.suffix]) == 9


def test_columns_of_numbers_are_streamed(folder):
    data = load(f"hf:{folder}", columns="point", label="label", streaming=True)
    x, cond = data[:]
    assert torch.equal(x[:, 0].long() % 2, cond)
    assert len(data.shards) == len(data)
    whole = load(f"hf:{folder}", columns="point", label="label")[:][0]
    assert torch.equal(x[x[:, 0].argsort()], whole[whole[:, 0].argsort()])


def test_what_cannot_be_streamed_is_refused(folder, tmp_path, in_memory):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"train\.csv, but only parquet files are streamed; leave streaming out"):
        load(f"hf:{tmp_path}/table", columns="a", streaming=True)
    with pytest.raises(DataError, match=r"there is no shard .*none\.parquet"):
        load(f"hf:{folder}/none.parquet", size=8, streaming=True)
    with pytest.raises(UserError, match="window is 0"):
        load(f"hf:{folder}", size=8, streaming=True, window=0)
    (folder / "train-00001-of-00002.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(DamagedDataError, match=r"train-00001-of-00002\.parquet cannot be read as a parquet file"):
        load(f"hf:{folder}/*.parquet", size=8, streaming=True)
    datasets.Dataset.from_dict({"other": [1, 2]}).to_parquet(str(folder / "train-00001-of-00002.parquet"))
    with pytest.raises(DataError, match="has other columns than"):
        load(f"hf:{folder}/*.parquet", size=8, streaming=True)


def test_images_that_a_table_names_by_path_are_not_read_from_elsewhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(7)["bytes"])
    (tmp_path / "set").mkdir()
    schema = datasets.Features({"image": datasets.Image()}).arrow_schema
    rows = [{"image": {"bytes": None, "path": str(tmp_path / "secret.png")}}]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), tmp_path / "set" / "a.parquet")
    data = load(f"hf:{tmp_path}/set/*.parquet", size=8, streaming=True)
    with pytest.warns(UserWarning, match="which is not in it"), pytest.raises(DamagedDataError, match="none of its 1 images"):
        data[:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "'tset' is not a known split; did you mean 'test'"),
        ({"image": "imag"}, "image: 'imag' is not a known column; did you mean 'image'"),
        ({"image": "label"}, "image is 'label', a column of type ClassLabel that holds no encoded images"),
        ({"image": "point"}, "that holds no encoded images; give another one, or columns of numbers with columns="),
        ({"image": ["image"]}, "is not a known column"),
        ({"label": 3}, "label: '3' is not a known column"),
        ({"label": "image"}, "the labels have dtype object, but classes must be integers"),
        ({"columns": 3}, "columns is 3, but it is the name of a column of numbers, or a list of them"),
        ({"columns": []}, "columns is .*, but it is the name"),
        ({"columns": ["text"]}, "the columns text are not numeric arrays of one shape"),
        ({"columns": ["image"]}, "the columns image are not numeric arrays of one shape"),
        ({"caption": "txt"}, "caption: 'txt' is not a known column"),
        ({"config": "nope"}, "cannot be streamed .*'nope' not found"),
        ({"size": None}, "holds images, which must be resized to one size: give size=32"),
        ({"size": 0}, "size is 0"),
        ({"channels": 2}, "channels is 2"),
        ({"window": "a"}, "window is 'a', but it must be an integer"),
        ({"cache": "a\0b"}, "cache is .*, but it is the path of a folder"),
        ({"cache_gb": -1}, "cache_gb is -1"),
    ],
)
def test_options_that_a_stream_cannot_have_are_refused(folder, options, message):
    with pytest.raises(PushforwardError, match=message) as error:
        load(f"hf:{folder}", **{"split": "train", "size": 8, "streaming": True} | options)[:2]
    assert "\n" not in str(error.value)


def changed(folder, rows=None, **columns):
    """Write a set of one shard, all of it or its first rows, with other columns in place of some of its own."""
    datasets.disable_progress_bars()
    held = {"image": [png(k) for k in range(20)], "label": [k % 2 for k in range(20)], "a": [float(k) for k in range(20)]} | columns
    types = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "a": datasets.Value("float64")}
    folder.mkdir()
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(held, features=datasets.Features(types)).to_parquet(str(path))
    if rows is not None:
        parquet.write_table(parquet.read_table(path).slice(0, rows), path)
    return path


@pytest.mark.filterwarnings("ignore:.*cannot be read")
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"image": [None] * 20}, {}, "none of its 16 images can be read"),
        ({"image": [{"bytes": b"no image", "path": None}] * 20}, {}, "none of its 16 images can be read"),
        ({"rows": 0}, {}, "has no rows; leave it out"),
        ({"label": [None] * 20}, {}, "the labels have dtype object"),
        ({"label": [-1] * 20}, {}, "row 0 has label -1, but labels must be 0 to 1"),
        ({"a": [None] * 20}, {"columns": "a"}, "holds NaN"),
        ({"a": [float("inf")] * 20}, {"columns": "a"}, "NaN or infinity"),
    ],
)
def test_rows_that_a_stream_cannot_have_are_refused(tmp_path, columns, options, message):
    path = changed(tmp_path / "set", **columns)
    with pytest.raises(DataError, match=message):
        load(f"hf:{path}", size=8, streaming=True, **options)[:16]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read as a parquet file"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read as a parquet file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" * 340 + path.read_bytes()[400:]),
            "cannot be read as a parquet file",
        ),
        (lambda path: path.unlink(), "there is no|no longer there|matches no file|cannot be streamed"),
    ],
)
def test_damaged_shards_are_refused(tmp_path, damage, message):
    damage(path := changed(tmp_path / "set"))
    with pytest.raises(DataError, match=message):
        load(f"hf:{path}", size=8, streaming=True)[:16]


def test_shards_that_disappear_or_lose_columns_after_they_were_opened_are_named(tmp_path):
    path = changed(tmp_path / "set")
    data = load(f"hf:{path}", size=8, streaming=True)
    table = parquet.read_table(path).drop_columns(["image"])
    path.unlink()
    with pytest.raises(ShardError, match="is no longer there; put it back"):
        data[:2]
    parquet.write_table(table, path)
    with pytest.raises(ShardError, match="was written again after it was loaded"):
        data[:2]


@pytest.mark.parametrize("held", [b"no json", b'{"info": {"features": {"image": {"_type": "Nope"}}}}', b'{"info": {"features": 3}}'])
def test_types_of_columns_that_are_none_are_refused(tmp_path, held):
    path = changed(tmp_path / "set")
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({b"huggingface": held}), path)
    with pytest.raises(DataError, match="states types of columns that cannot be read"):
        load(f"hf:{path}", size=8, streaming=True)
