"""Pickles made to do harm, in every place where torch or numpy keep one: nothing of them is run, and each is refused in one sentence."""

import io
import os
import pickle
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from fuzz.guard import escapes
from fuzz.readers import SHARDS, _model, _read_shards, _resumed, _run

import pushforward as pf
from pushforward.errors import CheckpointError, DataError, NoCheckpointError
from pushforward.formats import saved_file
from pushforward.formats.diffusers_tensors import BIN, Tensors
from pushforward.formats.saved_file import ALLOWED, check_pickle, load_saved
from pushforward.formats.sd3_find import PICKLES, open_tensors
from pushforward.formats.shards import METADATA, stored_shards, write_shards

HARM = "harm"  # the folder that a pickle would make


class Harmful:
    def __reduce__(self):
        return os.mkdir, (HARM,)


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(HARM).exists(), "the pickle was run"


def nested(levels: int = 60) -> bytes:
    """Return a pickle of a mapping whose key is tuples of tuples: 2^levels values, to be hashed."""
    pairs = b"".join(b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(levels))
    return b"\x80\x02U\x01xq\x00" + pairs + b"}h" + bytes([levels]) + b"K\x01s."


def archive(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None) -> None:
    """Write what torch.save writes, around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, one in {
            "data.pkl": content,
            "byteorder": b"little",
            "version": b"3\n",
            ".data/serialization_id": b"0",
            **(more or {}),
        }.items():
            file.writestr(f"x/{name}", one)


def bad_archives() -> dict[str, tuple[bytes, str]]:
    """Return files by name, each with what its error states."""
    found = {}
    for name, (content, match) in {
        "a call": (pickle.dumps({"w": Harmful()}, protocol=2), "names (posix|nt) mkdir"),
        "a call by the stack": (pickle.dumps({"w": Harmful()}, protocol=4), "which is no tensor"),
        "a call in protocol 0": (b"cposix\nmkdir\n(S'harm'\ntR.", "names posix mkdir"),
        "nested tuples": (nested(), "stands for more than"),
        "itself": (b"}q\x00U\x01ah\x00s.", "contains itself"),
        "a bytearray": (b"cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R.", "names builtins bytearray"),
        "a storage of its own size": (b"\x80\x02ctorch\nTensor\nJ\x00\x00\x00\x70\x85R.", "names torch Tensor"),
        "no pickle": (b"words", "."),
        "nothing": (b"", "."),
    }.items():
        archive(Path(f"{name}.pt"), content)
        found[name] = Path(f"{name}.pt").read_bytes(), match
    archive(Path("bomb.pt"), pickle.dumps({}, protocol=2), zipfile.ZIP_DEFLATED, {"data/0": bytes(50 << 20)})
    found["a compressed entry"] = Path("bomb.pt").read_bytes(), "is compressed"
    archive(Path("twice.pt"), pickle.dumps({}, protocol=2))
    with zipfile.ZipFile("twice.pt", "a") as file, warnings.catch_warnings(action="ignore"):
        file.writestr("x/data.pkl", pickle.dumps(Harmful(), protocol=2))
    found["two pickles"] = Path("twice.pt").read_bytes(), "two entries of one name"
    found["a bare pickle"] = pickle.dumps(Harmful()), "not a zip file"
    torch.save(torch.zeros(1).expand(10**9), "wide.pt")
    found["a view of a terabyte"] = Path("wide.pt").read_bytes(), "is stored as 4 bytes|something other"
    return found


def test_an_archive_of_torch(tmp_path):
    for name, (content, match) in bad_archives().items():
        (tmp_path / "x.pt").write_bytes(content)
        start = time.monotonic()
        with pytest.raises(Exception, match=match):
            load_saved(tmp_path / "x.pt")
        assert time.monotonic() - start < 10, name


def test_weights_of_diffusers(tmp_path):
    for content, _ in bad_archives().values():
        (tmp_path / BIN).write_bytes(content)
        with pytest.raises(CheckpointError, match="convert it to .safetensors"):
            Tensors(tmp_path)
    assert escapes([("again", lambda: Tensors(tmp_path))], tmp_path / "log") == []


def test_the_state_of_a_run(tmp_path):
    _run(tmp_path)
    file = next((tmp_path / "run" / "checkpoints").glob("step-*")) / "training.pt"
    _resumed(tmp_path)
    for content, match in bad_archives().values():
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"cannot be resumed from: .*({match})"):
            _resumed(tmp_path)


def test_the_parts_of_shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shards(folder, SHARDS, None)
    file = next(folder.glob("*.distcp"))
    whole = pickle.loads((folder / METADATA).read_bytes())
    for name, (content, _) in bad_archives().items():
        if name == "a view of a terabyte":
            continue
        file.write_bytes(content)
        whole.storage_data = {key: type(one)(one.relative_path, 0, len(content)) for key, one in whole.storage_data.items()}
        (folder / METADATA).write_bytes(pickle.dumps(whole))
        with pytest.raises(CheckpointError, match="cannot be read"):
            _read_shards(folder)


@pytest.mark.parametrize("content", [pickle.dumps(Harmful()), nested(), b"}q\x00U\x01ah\x00s.", b"", b"words"])
def test_the_metadata_of_shards(tmp_path, content):
    (tmp_path / METADATA).write_bytes(content)
    with pytest.raises(CheckpointError, match="is refused|is damaged"):
        stored_shards(tmp_path)


@pytest.mark.parametrize("suffix", PICKLES)
def test_checkpoints_of_other_programs(tmp_path, suffix):
    torch.save({"w": Harmful()}, tmp_path / f"x{suffix}")
    with pytest.raises(NoCheckpointError, match="never opened"):
        open_tensors(tmp_path / f"x{suffix}")
    (tmp_path / f"x{suffix}").rename(tmp_path / "x.safetensors")  # the name of another format opens no pickle either
    with pytest.raises(CheckpointError):
        open_tensors(tmp_path / "x.safetensors")


def test_arrays_of_objects(tmp_path):
    objects = numpy.array([Harmful()], dtype=object)
    numpy.save(tmp_path / "x.npy", objects, allow_pickle=True)
    numpy.savez(tmp_path / "x.npz", x=objects)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Harmful()))
    for name in ("x.npy", "x.npz", "bare.npy"):
        with pytest.raises(DataError, match="pickles are never loaded"):
            pf.data.load(tmp_path / name)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle.dumps(Harmful()))
    with pytest.raises(DataError):
        pf.data.load(tmp_path / "x.npy", mapped=True)


def test_a_model_of_this_library_is_read_as_before(tmp_path):
    model = _model()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    read = load_saved(tmp_path / "x.pt")
    assert all(torch.equal(one, read[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, dtype=torch.float8_e4m3fn),
        torch.ones(2, 3, dtype=torch.bfloat16).t(),
        torch.nn.Parameter(torch.ones(2)),
        {"a": [1, 2.5, None, True, "x" * 300, (1, (2, 3))], 2: torch.Size([3]), "u": torch.ones(2, dtype=torch.uint16)},
        torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
        torch.ones(4)[1:3],
        torch.zeros(0, 5),
    ],
)
def test_plain_data_is_allowed(tmp_path, value):
    torch.save(value, tmp_path / "x.pt")
    assert str(load_saved(tmp_path / "x.pt")) == str(value)


def test_what_is_shared_is_counted_as_often_as_it_is_there(monkeypatch):
    monkeypatch.setattr(saved_file, "MOST_VALUES", 1000)
    inner = list(range(100))
    check_pickle(pickle.dumps([inner] * 8, protocol=2), ALLOWED)
    with pytest.raises(ValueError, match="more than 1000 values"):
        check_pickle(pickle.dumps([inner] * 10, protocol=2), ALLOWED)


def test_a_pickle_is_not_larger_than_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_file, "MOST_BYTES", 1000)
    file = io.BytesIO()
    torch.save({"x" * 2000: 1}, file)
    (tmp_path / "x.pt").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="at most 1000 are read"):
        load_saved(tmp_path / "x.pt")
