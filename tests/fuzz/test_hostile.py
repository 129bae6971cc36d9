"""Files made to do harm, by name: each is refused in one sentence, in a second and with little memory."""

import gzip
import io
import json
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from fuzz.guard import escapes
from fuzz.readers import _hub, _image_model, _images, _model, _run
from PIL import Image

import pushforward as pf
from pushforward._images import opened
from pushforward.cli import main
from pushforward.data.idx import read_idx
from pushforward.errors import CheckpointError, ConfigError, DataError, OutOfMemoryError, PushforwardError, UserError
from pushforward.formats.config import load_yaml
from pushforward.formats.files import check_folder
from pushforward.formats.model import build
from pushforward.formats.sd3_find import folder_part, read_json
from pushforward.training.progress import read_metrics

BILLIONS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}]}}\n" for k in range(1, 12))


def guarded(tmp_path, *calls):
    """Call in a process with bounded memory and time, where errors of the library pass."""
    assert escapes([(str(k), one) for k, one in enumerate(calls)], tmp_path / "log") == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BILLIONS + "shape: *a11\n", "aliases that stand for too much"),
        (MERGES, "aliases that stand for too much"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 60 + "]" * 60, "more than 50 levels"),
        ("{a: " * 5000, "levels"),
        ("shape: [" + "9" * 400 + "]", "integer of more than 64 bits"),
        ("seed: " + ":".join(["1"] * 200_000), "integer of more than 64 bits"),
        ("day: 2001-99-99", "cannot be read"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!int ''", "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
    ],
    ids=["aliases", "merges", "itself", "deep", "very deep", "digits", "sexagesimal", "date", "object", "no integer", "no date"],
)
def test_yaml(tmp_path, text, match):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    guarded(tmp_path, lambda: load_yaml(path))
    with pytest.raises(ConfigError, match=match):
        load_yaml(path)


def test_aliases_of_a_usual_size_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: [2, 3]}\nc: *a\n")
    assert load_yaml(tmp_path / "config.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": [2, 3]}, "c": {"x": 1}}


@pytest.mark.parametrize(
    "arguments",
    [
        {1: 2},
        {"shape": [2], "net": {"name": "n"}},
        {"shape": [10**12]},
        {"shape": [2], "bridge": 1e308},
        {"shape": [1, 8, 8], "net": {"name": "nn.UNet", "dropout": 3}},
    ],
)
def test_settings(arguments):
    with pytest.raises(PushforwardError) as raised:
        build({"preset": "rectified_flow", "model": arguments})
    assert len(str(raised.value)) <= 2000


# Sizes that cannot be had.


@pytest.mark.parametrize(
    "make",
    [
        lambda: pf.models.rectified_flow(pf.nn.MLP.Config((10**12,)), shape=(2,)),
        lambda: pf.models.rectified_flow(pf.nn.MLP.Config((10**12, 10**12)), shape=(2,)),
        lambda: pf.models.rectified_flow(shape=(10**12,)),
        lambda: pf.models.rectified_flow(shape=(10**19,)),
        lambda: pf.models.rectified_flow(shape=(2,), classes=10**12),
        lambda: pf.models.glow(shape=(3, 2**20, 2**20)),
        lambda: _model().sample(10**12),
        lambda: _model().sample(10**12, batch_size=1),
        lambda: _model().sample(2**62),
        lambda: pf.data.load("moons", n=10**12),
        lambda: pf.paths.Discrete(steps=10**12),
        lambda: pf.paths.Discrete("cosine", steps=2**80, zero_terminal_snr=True),
    ],
)
def test_sizes_beyond_the_memory(make):
    with pytest.raises(OutOfMemoryError, match="memory"):
        make()


def test_more_layers_than_there_can_be(tmp_path, monkeypatch):
    monkeypatch.setattr("pushforward._memory.MODULES", 1000)
    with pytest.raises(UserError, match="more than 1000 layers"):
        pf.models.realnvp(shape=(2,), layers=10**12)
    pf.models.realnvp(shape=(2,), layers=4)  # and the hooks are gone


def test_weights_are_counted_before_they_are_filled(monkeypatch):
    monkeypatch.setattr("pushforward._memory.free_memory", lambda: 10_000)
    with pytest.raises(OutOfMemoryError, match="more than the 1e[+]04 bytes"):
        pf.models.rectified_flow(pf.nn.MLP.Config((64, 64)), shape=(2,))
    with torch.device("meta"):
        pf.models.rectified_flow(pf.nn.MLP.Config((64, 64)), shape=(2,))


@pytest.mark.parametrize("arguments", [["moons", "net:mlp", "--net.hidden", str(10**12)], ["moons", "--data-options", "n", str(10**12)]])
def test_the_command_line_on_sizes(tmp_path, capsys, arguments):
    assert main(["train", "rectified_flow", "--out", str(tmp_path / "run"), "--data", *arguments]) == 1
    written = capsys.readouterr().err.strip().splitlines()
    assert "memory" in written[-1]
    assert "Traceback" not in "".join(written)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_command_line_on_many_samples(tmp_path, capsys):
    _run(tmp_path)
    assert main(["sample", str(tmp_path / "run"), "-n", str(10**12), "--out", str(tmp_path / "x.npy")]) == 1
    assert "memory" in capsys.readouterr().err


# Archives and compressed files.


def zeros_npz(path: Path, shape: tuple[int, ...], stated: int | None = None) -> None:
    """Write an archive of zeros without holding them; `stated` is the number of bytes that follow the header."""
    header = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    size = int(numpy.prod(shape)) if stated is None else stated
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


def test_an_array_that_unpacks_to_more_than_the_limit(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    zeros_npz(path, (80, 1 << 16))
    monkeypatch.setenv("PUSHFORWARD_MAX_BYTES", str(4 << 20))
    with pytest.raises(DataError, match="x unpacks to 5243.* at most 4194304 .*PUSHFORWARD_MAX_BYTES"):
        pf.data.load(path)
    monkeypatch.setenv("PUSHFORWARD_MAX_BYTES", str(6 << 20))
    monkeypatch.setattr("pushforward._memory.free_memory", lambda: 1.0)  # the variable replaces all of it
    assert pf.data.load(path, "test").x.shape == (8, 1 << 16)


def test_without_the_variable_the_ratio_and_the_free_memory_limit(monkeypatch):
    monkeypatch.delenv("PUSHFORWARD_MAX_BYTES", raising=False)
    monkeypatch.setattr("pushforward._memory.free_memory", lambda: 2.0**40)
    assert pf._memory.most_unpacked(1000) == 1 << 30
    assert pf._memory.most_unpacked(1 << 30) == 100 << 30
    assert pf._memory.most_unpacked(1 << 40) == 1 << 40
    monkeypatch.setenv("PUSHFORWARD_MAX_BYTES", "much")
    with pytest.raises(UserError, match="'much'"):
        pf._memory.most_unpacked(1)


def test_the_free_memory_of_a_container(tmp_path):
    assert pf._memory._of_group(tmp_path) == math.inf
    for name, text in (("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 500\ninactive_file 200\n")):
        (tmp_path / name).write_text(text)
    assert pf._memory._of_group(tmp_path) == 1000 - 700 + 200
    (tmp_path / "memory.max").write_text("max\n")
    assert pf._memory._of_group(tmp_path) == math.inf
    assert 0 < pf._memory.free_memory() < 2**60


@pytest.mark.parametrize("shape", [(10**12,), (2**40, 2**40), (10**30,), (-1, 3), (0, 10**18)])
@pytest.mark.parametrize("descr", ["<f4", "|S0", "|O"])
def test_headers_of_arrays(tmp_path, shape, descr):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    calls = [lambda name=name: pf.data.load(tmp_path / name) for name in ("x.npy", "x.npz")]
    calls.append(lambda: pf.data.load(tmp_path / "x.npy", mapped=True))
    guarded(tmp_path, *calls)
    for call in calls:
        with pytest.raises(DataError):
            call()


@pytest.mark.parametrize("header", ["(" * 300 + ")" * 300, "{[]: 1}", "{'descr': " + "[" * 150, "-" * 5000 + "1", "\x00"])
def test_headers_that_do_not_parse(tmp_path, header):
    text = header.encode() + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64))
    with pytest.raises(DataError, match="cannot be read as a numpy file"):
        pf.data.load(tmp_path / "x.npy")


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x", b"words")
    with pytest.raises(DataError, match="cannot be read"):
        pf.data.load(tmp_path / "x.npz")


def test_idx(tmp_path, monkeypatch):
    def packed(shape, megabytes):
        squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
        parts = [squeeze.compress(struct.pack(">4B3I", 0, 0, 8, 3, *shape))]
        parts += [squeeze.compress(bytes(1 << 20)) for _ in range(megabytes)]
        (tmp_path / "x.gz").write_bytes(b"".join([*parts, squeeze.flush()]))

    monkeypatch.setenv("PUSHFORWARD_MAX_BYTES", str(64 << 20))
    for shape, megabytes, match in (
        ((2**32 - 1, 2**32 - 1, 2**32 - 1), 1, "unpacks to"),
        ((80, 1024, 1024), 80, "unpacks to 83886080"),
        ((1, 1, 1), 300, "more than 1 bytes"),  # only the byte after the array is unpacked
        ((2, 1024, 1024), 1, "has 1048576 bytes of data"),
    ):
        packed(shape, megabytes)
        guarded(tmp_path, lambda: read_idx(tmp_path / "x.gz", 3))
        with pytest.raises(DataError, match=match):
            read_idx(tmp_path / "x.gz", 3)
    (tmp_path / "plain").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(DataError, match="0 bytes of data"):
        read_idx(tmp_path / "plain", 3)
    (tmp_path / "good.gz").write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 1, 1, 2) + b"\x01\x02"))
    assert read_idx(tmp_path / "good.gz", 3).tolist() == [[[1, 2]]]


def test_a_parquet_file_of_one_value_in_very_many_rows(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    pandas.DataFrame({"a": numpy.zeros(3_000_000), "b": numpy.zeros(3_000_000)}).to_parquet(path, compression="zstd")
    assert path.stat().st_size < 100_000
    monkeypatch.setenv("PUSHFORWARD_MAX_BYTES", str(40 << 20))
    with pytest.raises(DataError, match="unpacks to 48000000"):
        pf.data.load(path)


# Images.


def test_pixel_bombs(tmp_path):
    _images(tmp_path)
    data = pf.data.load(tmp_path, size=8)
    bomb = data.source.open(int(data.rows[0]))
    Image.new("1", (10_000, 10_000)).save(bomb, format="PNG")
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match="10000 x 10000 pixels.*MAX_IMAGE_PIXELS"), opened(bomb):
        pass
    with pytest.warns(UserWarning, match="10000 x 10000 pixels"):
        assert len(data[:][0]) == len(data)  # the next image takes its place


def test_the_limit_of_pixels_is_that_of_pil(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "x.png")
    for limit, fits in ((9_999, False), (10_000, True), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if fits:
            with opened(tmp_path / "x.png") as image:
                assert image.size == (100, 100)
        else:
            with pytest.raises(UserError), opened(tmp_path / "x.png"):
                pass


def test_a_postscript_program_is_not_run(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="PostScript"), opened(tmp_path / "x.png"):
        pass


# Pipes and devices in the place of files.


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in the file system")
class TestPipes:
    def test_files_of_data(self, tmp_path):
        for name in ("x.npy", "x.npz", "x.csv", "x.parquet", "x"):
            os.mkfifo(tmp_path / name)
        calls = [lambda name=name: pf.data.load(tmp_path / name) for name in ("x.npy", "x.npz", "x.csv", "x.parquet")]
        calls += [lambda: pf.data.load(tmp_path / "x.npy", mapped=True), lambda: read_idx(tmp_path / "x", 3)]
        guarded(tmp_path, *calls)
        for call in calls:
            with pytest.raises(DataError, match="is a pipe"):
                call()

    def test_images_and_captions(self, tmp_path):
        _images(tmp_path)
        (tmp_path / "metadata.jsonl").unlink()
        (tmp_path / "00.png").unlink()
        os.mkfifo(tmp_path / "00.png")
        guarded(tmp_path, lambda: pf.data.load(tmp_path, size=8)[:], lambda: pf.data.load(tmp_path, size=8).fingerprint())
        for one in list(tmp_path.glob("[0-9]*")):
            os.mkfifo(one.with_suffix(".txt"))
        guarded(tmp_path, lambda: pf.data.load(tmp_path, size=8))
        with pytest.raises(DataError, match="is a pipe"):
            pf.data.load(tmp_path, size=8)

    def test_a_saved_data_set(self, tmp_path):
        pytest.importorskip("datasets")
        _hub(tmp_path)
        (tmp_path / "saved" / "state.json").unlink()
        os.mkfifo(tmp_path / "saved" / "state.json")
        with pytest.raises(DataError, match="is a pipe"):
            pf.data.load(tmp_path / "saved", columns="a")

    def test_runs(self, tmp_path):
        _image_model(tmp_path)
        _run(tmp_path)
        checkpoint = next((tmp_path / "run" / "checkpoints").glob("step-*"))
        for path in (tmp_path / "saved" / "config.yaml", tmp_path / "run" / "evaluation.json", checkpoint / "manifest.json"):
            path.unlink()
            os.mkfifo(path)
        guarded(
            tmp_path,
            lambda: load_yaml(tmp_path / "saved" / "config.yaml"),
            lambda: check_folder(checkpoint),
            lambda: pf.load(tmp_path / "run"),
            lambda: main(["compare", "--reported", str(tmp_path / "run")]),
            lambda: read_json(tmp_path / "saved" / "config.yaml"),
        )
        with pytest.raises(ConfigError, match="is a pipe"):
            load_yaml(tmp_path / "saved" / "config.yaml")
        with pytest.raises(CheckpointError, match="is a pipe"):
            check_folder(checkpoint)

    def test_devices(self, tmp_path):
        (tmp_path / "x.csv").symlink_to("/dev/zero")
        with pytest.raises(DataError, match="is a device"):
            pf.data.load(tmp_path / "x.csv")


# Numbers, words and names in files of text.


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "x" * 300, "a\0b", "a/b", ""])
def test_names_of_files(tmp_path, name):
    (tmp_path / "manifest.json").write_text(json.dumps({name: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(CheckpointError, match="has no readable manifest"):
        check_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        folder_part(tmp_path)


def test_rows_of_metrics(tmp_path):
    good = {"step": 1, "loss": 0.5, "seconds": 1.0}
    bad = [good | {"loss": 10**400}, good | {"phases": {"a": "b"}}, good | {"step": 10**400}, good | {"loss_by_t": ["x"]}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (good, *bad)) + "[" * 100_000 + "\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [good]


def test_messages_are_short_and_do_not_control_the_terminal(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n" + f"{'z' * 100_000}\x1b[2J,1\n1,2\n" * 6)
    with pytest.raises(DataError) as raised:
        pf.data.load(tmp_path / "x.csv")
    assert len(str(raised.value)) < 2000
    assert str(raised.value).isprintable()
    assert str(UserError("a\x1b[2Jb")) == r"a\x1b[2Jb"
