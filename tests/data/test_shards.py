"""Tar shards: the same images as in a folder, wherever they are read from; each once in an epoch; bad input is one sentence."""

import io
import itertools
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fsspec
import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import pushforward as pf
from pushforward.data import shard_cache, shard_files
from pushforward.data.dataset import keep_batch
from pushforward.data.load import load
from pushforward.data.shard_cache import Cache, retried
from pushforward.data.shard_files import expanded
from pushforward.data.shuffled import shuffled
from pushforward.data.splits import SPLITS
from pushforward.errors import DamagedDataError, DataError, ShardError, UserError
from pushforward.training.buckets import order_of

COUNTS = (7, 3, 12, 9)  # samples of each shard: 31
TOTAL = sum(COUNTS)


def png(grey, size=8):
    file = io.BytesIO()
    Image.new("L", (size, size), grey).save(file, format="PNG")
    return file.getvalue()


def npy(array, **options):
    file = io.BytesIO()
    numpy.save(file, array, **options)
    return file.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def sample(k):
    return [(f"{k:03d}.png", png(k)), (f"{k:03d}.cls", str(k % 2).encode()), (f"{k:03d}.txt", f"grey {k}".encode("utf-8-sig"))]


def write_all(folder, of=sample):
    folder.mkdir(exist_ok=True)
    first = 0
    for number, count in enumerate(COUNTS):
        write(folder / f"{number:03d}.tar", [member for k in range(first, first + count) for member in of(k)])
        first += count
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shard_cache, "WAIT", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return write_all(tmp_path / "shards")


@pytest.fixture
def data(folder):
    return load(f"wds:{folder}/{{000..003}}.tar", size=8, channels=1, window=2)


@pytest.fixture
def in_memory(folder):
    """The same shards in fsspec's file system of this process's memory."""
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
    yield "wds:memory://shards/"
    memory.rm("/shards", recursive=True)


def greys(data):
    return data[:][0].flatten(1).amax(dim=1).long().tolist()


def test_shards_are_the_same_images_as_a_folder(folder, tmp_path):
    for k in range(TOTAL):
        (tmp_path / "photos" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / str(k % 2) / f"{k:03d}.png").write_bytes(png(k))
        (tmp_path / "photos" / str(k % 2) / f"{k:03d}.txt").write_text(f"grey {k}")
    seen = []
    for split in SPLITS:
        shards, photos = (load(name, split, size=8, channels=1) for name in (f"wds:{folder}", tmp_path / "photos"))
        assert (shards.shape, shards.levels, shards.classes, len(shards)) == (photos.shape, photos.levels, photos.classes, len(photos))
        assert torch.equal(shards.cond, torch.tensor(greys(shards)) % 2)
        assert shards.captions == tuple(f"grey {grey}" for grey in greys(shards))
        seen += greys(shards)
    assert sorted(seen) == list(range(TOTAL))


def test_a_pattern_a_list_a_folder_a_path_and_urls_name_the_same_shards(folder, data, in_memory):
    listed = sorted(map(str, folder.iterdir()))
    names = [f"wds:{folder}/*.tar", f"{folder}/{{000,001,002,003}}.tar", listed, f"wds:{folder}", f"wds:file://{folder}/*.tar"]
    for name in (*names, f"{in_memory}*.tar", f"{in_memory}{{000..003}}.tar"):
        other = load(name, size=8, channels=1, window=2)
        assert other.fingerprint() == data.fingerprint(), name
        assert torch.equal(other[:][0], data[:][0])
        assert other.captions == data.captions


def test_an_index_is_read_in_place_of_its_shard_until_that_is_written_again(folder, data, monkeypatch):
    monkeypatch.setattr("pushforward.data.tar_index.scanned", None)
    before = data.fingerprint()
    assert load(f"wds:{folder}", size=8, channels=1, window=2).fingerprint() == before
    monkeypatch.undo()
    write(folder / "001.tar", [member for k in (100, 101) for member in sample(k)])
    os.environ["PUSHFORWARD_CACHE"] = str(folder.parent / "cache")
    again = load(f"wds:{folder}", size=8, channels=1)
    assert len(again) + 1 == len(data)
    assert again.fingerprint() != before


def test_a_damaged_index_is_made_again_and_a_cache_that_cannot_be_written_is_not_needed(folder, data, cache):
    for path in (cache / "indices").glob("*.json"):
        path.write_text("[[1")
    assert load(f"wds:{folder}", size=8, channels=1, window=2).fingerprint() == data.fingerprint()
    (folder.parent / "file").write_text("")
    assert len(load(f"wds:{folder}", size=8, channels=1, cache=str(folder.parent / "file" / "x"))) == len(data)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("remote", [False, True])
def test_a_loader_reads_every_sample_once(folder, in_memory, workers, remote):
    data = load(f"{in_memory}*.tar" if remote else f"wds:{folder}", size=8, channels=1)
    loader = DataLoader(data, batch_size=4, num_workers=workers, collate_fn=keep_batch)
    assert sorted(int(one.max()) for x, _ in loader for one in x) == sorted(greys(data))


@pytest.mark.parametrize("window", [1, 2, 9])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_sample_is_drawn_once_per_epoch_by_any_number_of_processes(data, size, window):
    data.window = window
    count = len(data)
    shares = [[index for batch in order_of(data, 6, 0, 0, 2 * count, rank, size) for index in batch] for rank in range(size)]
    steps = [[shares[rank][k * (6 // size) : (k + 1) * (6 // size)] for rank in range(size)] for k in range(2 * count)]
    drawn = [index for step in steps for share in step for index in share]
    assert drawn == [index for batch in order_of(data, 6, 0, 0, 2 * count) for index in batch]
    assert all(sorted(drawn[k : k + count]) == list(range(count)) for k in range(0, 12 * count, count))


@pytest.mark.parametrize("start", [1, 5, 17])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_order_that_resumes_within_a_shard_is_the_rest_of_the_same_with_any_number_of_processes(data, start, size):
    whole = list(order_of(data, 6, 3, 0, 30))[start:]
    shares = [list(order_of(data, 6, 3, start, 30, rank, size)) for rank in range(size)]
    assert [[index for part in parts for index in part] for parts in zip(*shares, strict=True)] == whole


def test_a_set_is_read_shard_by_shard_also_from_its_first_example_to_its_last(tmp_path):
    folder = write_all(tmp_path / "shards")
    data = load(f"wds:{folder}", size=8, channels=1, window=1)
    changes = sum(int(one != other) for one, other in itertools.pairwise(data.shards.tolist()))
    assert changes <= 4  # the first of the 4 shards may also be the last
    mixed = load(f"wds:{folder}", size=8, channels=1, window=4)
    assert sorted(mixed.rows.tolist()) == sorted(data.rows.tolist())
    assert mixed.fingerprint() != data.fingerprint()


def test_few_shards_are_read_at_a_time_and_each_once():
    shards = torch.arange(40).repeat_interleave(torch.randint(5, 60, (40,), generator=torch.Generator().manual_seed(0)))
    drawn = shards[shuffled(len(shards), torch.Generator().manual_seed(1), shards, 4)].tolist()
    doubled = drawn + drawn  # the first shards also end the epoch
    for shard in range(40):
        places = [place for place, one in enumerate(drawn) if one == shard]
        gaps = [(later - place) % len(drawn) for place, later in zip(places, places[1:] + places[:1], strict=True)]
        assert max(gaps) > 0.8 * len(drawn)  # all but W / P = 0.1 of the epoch passes without the shard, up to its examples' distances
    assert max(len(set(doubled[k : k + 8])) for k in range(len(drawn))) <= 6  # W + 1, and one more where a batch spans a change


def test_a_window_of_all_shards_is_a_uniform_permutation():
    """Each of 4 examples in 2 shards is first with probability 1/4: of 2,000 draws 500 +- 19.4; 5 deviations are 97."""
    shards, generator = torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0)
    firsts = torch.stack([shuffled(4, generator, shards, 2) for _ in range(2000)])
    for place in range(4):
        counts = firsts[:, place].bincount(minlength=4)
        assert ((counts - 500).abs() < 97).all(), (place, counts)


def test_buckets_of_shards_are_drawn_shard_by_shard(tmp_path):
    wide, path = Image.new("L", (16, 8)), io.BytesIO()
    wide.save(path, "PNG")
    folder = write_all(tmp_path / "wide", lambda k: [(f"{k}.png", png(k) if k % 3 else path.getvalue())])
    data = load(f"wds:{folder}", size=8, buckets=4, window=1)
    assert data.groups.unique().numel() == 2
    for batch in order_of(data, 1, 0, 0, 40):
        assert data.batch(batch)[0].shape[2:] in {(8, 8), (4, 16), (8, 12)} | {part.shape[1:] for part in data.parts}
    order = list(order_of(data, 2, 0, 3, 20))
    assert order == list(order_of(data, 2, 0, 0, 20))[3:]


class Interrupting(pf.training.Callback):
    def on_every_step(self, trainer):
        if trainer.step == 5:
            raise LookupError


def test_a_run_on_shards_resumes_within_one_bit_by_bit(data, folder, tmp_path):
    def trained(steps, **options):
        torch.manual_seed(0)
        model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (1, 8, 8), classes=2, levels=256)
        return pf.Trainer(model, data, steps=steps, batch_size=4, seed=1, ema=0.9, **options)

    whole = trained(7).fit()
    part = trained(7, out=tmp_path / "run", checkpoint_every=3, callbacks=[Interrupting()])
    with pytest.raises(LookupError):
        part.fit()
    rest = trained(7, out=tmp_path / "run", resume=True)
    assert rest.step == 3
    rest.fit()
    for (name, one), other in zip(whole.model.state_dict().items(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_corrupt_images_are_replaced_counted_and_named(tmp_path):
    folder = write_all(tmp_path / "shards", lambda k: [(f"{k}.png", b"no image" if k in (2, 9) else png(k))])
    parts = [load(f"wds:{folder}", split, size=8, channels=1) for split in SPLITS]
    with pytest.warns(UserWarning, match=r"2 in .*000\.tar cannot be read .*; it is replaced by the next image"):
        seen = [grey for part in parts for grey in greys(part)]
    assert not {2, 9} & set(seen)
    named = sorted(name for part in parts for name in part.unreadable)
    assert named == [f"2 in {folder}/000.tar", f"9 in {folder}/001.tar"]


def test_arrays_are_read_as_they_are_and_never_unpickled(tmp_path):
    folder = write_all(
        tmp_path / "arrays", lambda k: [(f"{k}.npy", npy(numpy.full((2, 3), k, "f4"))), (f"{k}.cls", b"ab"[k % 2 : k % 2 + 1])]
    )
    data = load(f"wds:{folder}")
    assert (data.shape, data.class_names) == ((2, 3), ("a", "b"))
    x, cond = data[:]
    assert torch.equal(x[:, 0, 0].long() % 2, cond)
    assert torch.equal(x, x[:, :1, :1].expand_as(x))
    with pytest.raises(UserError, match="holds arrays, which are not resized; leave the options size and buckets out"):
        load(f"wds:{folder}", size=8)
    write(folder / "000.tar", [("0.npy", npy(numpy.array([{}], dtype=object), allow_pickle=True))])
    with pytest.raises(DataError, match=r"0 in .*000\.tar holds pickled objects .* pickles are never loaded"):
        load(f"wds:{folder / '000.tar'}")
    write(folder / "000.tar", [("0.npy", npy(numpy.zeros(4))[:-3])])
    with pytest.raises(DamagedDataError, match=r"cannot be read as a numpy file \(.*\); it may be truncated"):
        load(f"wds:{folder / '000.tar'}")
    write(folder / "000.tar", [(f"{k}.npy", npy(numpy.zeros(4 + k // 9))) for k in range(10)])
    with pytest.raises(DataError, match=r"has shape \(5,\), but the first array has \(4,\)"):
        [load(f"wds:{folder / '000.tar'}", split)[:] for split in SPLITS]


def test_labels_and_captions_of_json_and_own_validation_shards(tmp_path):
    def with_json(k):
        return [(f"{k}.png", png(k)), (f"{k}.json", b'{"kind": "%s", "title": "n %d"}' % ((b"cat", b"dog")[k % 2], k))]

    folder = write_all(tmp_path / "shards", with_json)
    (tmp_path / "held").mkdir()
    write(tmp_path / "held" / "0.tar", [member for k in (200, 201, 202) for member in with_json(k)])
    options = {"size": 8, "channels": 1, "label": "json.kind", "caption": "json.title", "validation": f"{tmp_path}/held/*.tar"}
    train, held, test = (load(f"wds:{folder}", split, **options) for split in SPLITS)
    assert train.class_names == held.class_names == ("cat", "dog")
    assert sorted(greys(held)) == [200, 201, 202]
    assert sorted(greys(train) + greys(test)) == list(range(TOTAL))
    assert train.captions == tuple(f"n {grey}" for grey in greys(train))
    with pytest.raises(UserError, match=r"label is 'kind', but of shards it is 'cls', or 'json.NAME'"):
        load(f"wds:{folder}", size=8, label="kind")


def test_captions_that_lack_are_refused_or_their_images_left_out(tmp_path):
    folder = write_all(tmp_path / "shards", lambda k: sample(k)[: 2 if k % 5 == 0 else 3])
    with pytest.raises(DataError, match=r"\d+ in .* has no txt, nor have \d more of \d+ images; leave them out with missing='drop'"):
        load(f"wds:{folder}", size=8)
    with pytest.warns(UserWarning, match="images are left out: .* without a caption"):
        data = load(f"wds:{folder}", size=8, channels=1, missing="drop")
    assert data.captions == tuple(f"grey {grey}" for grey in greys(data))
    assert len(data.shards) == len(data)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.txt", b"a"), ("1.png", png(1))], "the sample '0' has neither an image nor an array"),
        ([("0.png", png(0)), ("0.url", b"a")], r"holds '0.url', but the extensions that are read are jpg, .*ignore='url'"),
        ([("0.png", png(0)), ("0.pyd", b"a")], "holds '0.pyd', a pickle, which is never loaded"),
        ([("0.png", png(0)), ("0.seg.pth", b"a")], "holds '0.seg.pth', a pickle, which is never loaded"),
        ([("0.png", png(0)), ("0.jpg", png(0))], "the sample '0' has two members for its image"),
        ([("0.png", png(0)), ("1.png", png(1)), ("0.txt", b"a")], "members of '0' in two places"),
        ([("0.png", png(0)), ("0.cls", b"\xff")], r"0.cls is not UTF-8 text \(byte 0\)"),
        ([("0.png", png(0)), ("0.cls", b"1" * (2 << 20))], r"0.cls has 2097152 bytes, but at most 1048576"),
        ([("0.png", png(0)), ("1.npy", npy(numpy.zeros(3)))], r"1 in .* has no image, but others have"),
        ([("0.png", png(0)), ("0.cls", b"1"), ("1.png", png(1))], r"1 in .* has no cls, but others have"),
        ([("README", b"a")], r"holds 'README', but the extensions that are read are"),
        ([], "holds no samples"),
    ],
)
def test_members_that_cannot_be_used_are_refused_by_name(tmp_path, members, message):
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=message) as found:
        load(f"wds:{path}", size=8)
    assert "\n" not in str(found.value)


def test_what_is_ignored_is_not_read(tmp_path):
    path = write(tmp_path / "a.tar", [(f"{k}.{one}", png(k)) for k in range(3) for one in ("png", "url", "pth")])
    assert len(load(f"wds:{path}", size=8, ignore=["url", ".pth"])) == 3


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_special_files_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("0.png")
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(DataError, match="'0.png', which is a link, a pipe or another special file, but only regular files are read"):
        load(f"wds:{tmp_path}/a.tar", size=8)


def test_malformed_shards_are_refused(tmp_path, folder):
    path = tmp_path / "a.tar"
    content = (folder / "002.tar").read_bytes()
    broken = content[: 20 * 512 + 100]
    header = bytearray(content[:512])
    header[124:136] = b"\xff" * 12  # a size of -1
    sums = bytes(header[:148]) + b" " * 8 + bytes(header[156:512])
    header[148:156] = b"%06o\0 " % sum(sums)
    long_name = bytearray(tarfile.TarInfo("x").tobuf())
    long_name[156:157], long_name[124:136] = b"x", b"%011o\0" % (1 << 32)  # a name of 4 GiB
    long_name[148:156] = b"%06o\0 " % sum(bytes(long_name[:148]) + b" " * 8 + bytes(long_name[156:512]))
    for bad in (broken, b"no tar" * 200, b"", bytes(header) + content[512:], bytes(long_name) + b"\0" * 10240, content[512:1024] + content):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"a\.tar (is no intact tar file|is truncated|states a name|holds)") as found:
            load(f"wds:{path}", size=8)
        assert "\n" not in str(found.value)
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match="is a pipe, but only regular files are read"):
        load(f"wds:{tmp_path}/pipe.tar", size=8)


def test_huge_pictures_and_members_are_left_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("pushforward.data.webdataset.MOST_MEMBER", 5000)
    path = write(tmp_path / "a.tar", [("0.png", png(0, 64)), ("1.png", png(1) + b"\0" * 5000), ("2.png", png(2))])
    data = load(f"wds:{path}", size=8, channels=1)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert greys(data) == [2, 2, 2]
    assert len(data.unreadable) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wds:{folder}/{{000..004}}.tar", r"there is no shard .*004\.tar; check the path, and the numbers in its braces"),
        ("wds:{folder}/nothing*.tar", r"nothing\*\.tar matches no file"),
        ("wds:{folder}/none.tar", r"there is no shard .*none\.tar"),
        ("wds:{folder}/{{000,000}}.tar", r"000\.tar is listed twice"),
        ("wds:{folder}/{{0..9999999}}.tar", "lists 10000000 shards, but at most 1000000"),
        ("wds:memory://nowhere/*.tar", "matches no file"),
        ("wds:memory://nowhere/a.tar", "there is no shard memory://nowhere/a.tar; check the URL"),
        ("wds:nothing://a/b.tar", r"nothing://a/b\.tar cannot be read \(Protocol not known: nothing"),
        ("wds:", "wds: names no shard"),
    ],
)
def test_names_that_list_no_shards_are_refused(folder, name, message):
    with pytest.raises(UserError, match=message) as found:
        load(name.format(folder=folder), size=8)
    assert "\n" not in str(found.value)


def test_options_out_of_range_are_refused(folder):
    for options, message in (
        ({}, "give size=32"),
        ({"size": 8, "window": 0}, "window is 0"),
        ({"size": 8, "cache_gb": 0}, "cache_gb is 0"),
        ({"size": 8, "cache": "a\0b"}, "cache is 'a.x00b', but it is the path of a folder"),
        ({"size": 8, "window": 2.5}, "window is 2.5"),
        ({"size": 8, "shards": 2}, "'shards' is not a known option of shards"),
    ):
        with pytest.raises(UserError, match=message):
            load(f"wds:{folder}", **options)


def test_fsspec_is_only_needed_for_urls(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert len(load(f"wds:{folder}", size=8)) > 0
    with pytest.raises(UserError, match=r"memory://x/a.tar needs the package fsspec; run pip install 'pushforward\[shards\]'"):
        load("wds:memory://x/a.tar", size=8)
    monkeypatch.undo()
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (_ for _ in ()).throw(ImportError("Install s3fs to access S3")))
    with pytest.raises(UserError, match=r"s3://a/b.tar needs one more package \(Install s3fs to access S3\)"):
        load("wds:s3://a/b.tar", size=8)


def test_copies_of_far_shards_make_room_for_each_other(in_memory, cache):
    data = load(f"{in_memory}*.tar", size=8, channels=1, cache_gb=25e-6)  # 25 kB: the largest shard has 30
    assert sorted(greys(data)) == sorted(data.source.keys and [int(data.source.keys[row]) for row in data.rows.tolist()])
    held = [path for path in (cache / "copies").iterdir() if not path.suffix]
    assert 1 <= len(held) < len(COUNTS)


def test_readers_with_room_for_one_copy_take_turns(tmp_path):
    cache = Cache(tmp_path, most=1000)

    def read(k):
        content = f"{k % 5}".encode() * 900
        return content == retried(lambda: cache.kept(f"{k % 5}", 900, lambda path: path.write_bytes(content)).read_bytes())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(300)))


def test_copies_need_a_folder_and_what_a_killed_process_left_is_removed(in_memory, cache, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the cache .*file/x cannot be written \(Not a directory\); give another"):
        load(f"{in_memory}*.tar", size=8, cache=str(tmp_path / "file" / "x"))
    data = load(f"{in_memory}*.tar", size=8, channels=1)
    for path in list((cache / "copies").iterdir()):
        if not path.suffix:
            path.with_suffix(".99999").write_bytes(b"part")
            path.unlink()
    greys(data)
    assert not list((cache / "copies").glob("*.99999"))


def test_a_copy_that_fails_is_repeated_and_a_changed_shard_is_refused(in_memory, cache, monkeypatch):
    data = load(f"{in_memory}*.tar", size=8, channels=1)
    for path in (cache / "copies").iterdir():
        path.unlink()
    memory, calls = type(fsspec.filesystem("memory")), []
    true = memory.get_file

    def failing(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise ConnectionResetError("reset")
        return true(self, *arguments, **options)

    monkeypatch.setattr(memory, "get_file", failing)
    assert greys(data.take(1)) == greys(data)[:1]
    assert len(calls) >= 2
    for path in (cache / "copies").iterdir():
        path.unlink()
    for number in range(len(COUNTS)):
        fsspec.filesystem("memory").pipe(f"/shards/{number:03d}.tar", b"\0" * 1024)
    with pytest.raises(ShardError, match=r"had \d+ bytes when it was listed, but 1024 were copied; load it again"):
        data[:]


def test_a_shard_that_is_lost_during_training_ends_it_and_no_image_is_replaced(data, folder, in_memory, cache, monkeypatch):
    for path in folder.iterdir():
        path.rename(path.with_suffix(".away"))
    with pytest.raises(ShardError, match=r"\.tar cannot be read \(No such file or directory\); check the file and the disk"):
        data[:]
    far = load(f"{in_memory}*.tar", size=8, channels=1)
    for path in (cache / "copies").iterdir():
        path.unlink()

    def failing(*arguments, **options):
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", failing)
    with pytest.raises(ShardError, match=r"memory://.*\.tar cannot be read \(reset by peer\); check the URL, the network and the access"):
        far[:]
    assert not data.unreadable
    assert not far.unreadable


def test_a_shard_that_is_written_again_ends_training_and_no_image_is_replaced(data, folder):
    before = data[:][0]
    write(folder / "002.tar", [member for k in range(100, 112) for member in sample(k)])  # the members are where they were
    with pytest.raises(ShardError, match=r"002\.tar was written again after it was loaded; load it again, or continue a run by --resume"):
        data[:]
    assert not data.unreadable
    assert not torch.equal(load(f"wds:{folder}/{{000..003}}.tar", size=8, channels=1, window=2)[:][0], before)


@pytest.mark.parametrize("name", ["br{a,b}/x.tar", "x{0..1}.tar", "glob[1]/s[0]*.tar", "a b/数 据?.tar", "a:b.tar", "-x/#%20.tar"])
def test_the_own_name_of_a_file_or_folder_may_be_a_pattern(tmp_path, name):
    path = tmp_path / "own" / name
    path.parent.mkdir(parents=True)
    write(path, [member for k in range(10) for member in sample(k)])
    assert [len(load(f"wds:{one}", size=8, channels=1)) for one in (path, path.parent)] == [8, 8]


def test_what_is_no_file_is_refused_by_name(folder):
    (folder / "004.tar").symlink_to(folder / "none")
    with pytest.raises(DataError, match=r"the shard .*004\.tar cannot be read \(No such file or directory\); restore it, or remove what"):
        load(f"wds:{folder}", size=8, channels=1)
    (folder / "004.tar").unlink()
    (folder / "004.tar").symlink_to("004.tar")
    with pytest.raises(DataError, match=r"the shard .*004\.tar cannot be read \(Too many levels of symbolic links\)"):
        load(f"wds:{folder}", size=8, channels=1)
    (folder / "004.tar").unlink()
    (folder / "004.tar").mkdir()
    with pytest.raises(DataError, match=r"the shard .*004\.tar is a folder; give the files in it"):
        load(f"wds:{folder}", size=8, channels=1)
    with pytest.raises(DataError, match="there is no shard x"):
        load(f"wds:{'x' * 300}", size=8, channels=1)


def test_an_index_that_cannot_be_locked_is_read_without(folder, data, cache):
    for path in list((cache / "indices").iterdir()):
        path.unlink()
        if path.suffix == ".lock":
            path.mkdir()
    assert load(f"wds:{folder}", size=8, channels=1, window=2).fingerprint() == data.fingerprint()


def test_braces_count_and_list():
    assert expanded("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert expanded("{x,y}/{0..1}") == ["x/0", "x/1", "y/0", "y/1"]
    assert expanded("a{b}c") == ["a{b}c"]
    assert expanded("plain") == ["plain"]


def test_processes_with_different_shards_are_refused(folder, data):
    from pushforward.training.facts import _identified
    from pushforward.training.processes import Processes

    other = load(f"wds:{folder}/{{000..002}}.tar", size=8, channels=1)
    among = SimpleNamespace(size=2, gather=lambda facts: [facts, {"data": _identified(other)}])
    with pytest.raises(UserError, match="process 1 of 2 has data '.*', but process 0 has '.*'; start all processes with the same"):
        Processes.check_same(among, {"data": _identified(data)})


@pytest.mark.slow
def test_the_command_trains_on_shards_and_resumes(folder, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "pushforward", "train", *arguments, "--out", str(tmp_path / "run")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    options = ["--data-options", "size", "8", "channels", "1", "window", "2"]
    run(
        "rectified_flow",
        "--data",
        f"wds:{folder}/{{000..003}}.tar",
        *options,
        "--steps",
        "4",
        "--batch-size",
        "4",
        "--workers",
        "2",
        "net:mlp",
    )
    assert "4" in run("--resume")


def test_no_url_is_taken_for_a_path():
    assert all(map(shard_files.is_remote, ("s3://a/b", "simplecache::s3://a", "memory://a.tar")))
    assert not any(map(shard_files.is_remote, ("/a/b", "a.tar", "C:\\a.tar", "a:b/c.tar")))
