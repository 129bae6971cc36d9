"""Settings, texts and headers made to do harm: sizes that cannot be, numbers that are none, names elsewhere, and links."""

import contextlib
import json
import os
import struct
import time
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from fuzz.guard import escapes
from fuzz.more_readers import encoder, font
from fuzz.readers import _diffusers, _hub, _image_model, _images, _lora, _read_lora, _sd3
from safetensors.torch import save_file

import pushforward as pf
from pushforward._files import MOST_LEVELS, bytes_of, json_of, text_of
from pushforward.cli.prompts import prompts_of
from pushforward.data.colour_font import ColourFont
from pushforward.data.emoji_names import labelled_emoji
from pushforward.data.idx import read_idx
from pushforward.errors import CheckpointError, ConfigError, DataError, OutOfMemoryError, PushforwardError, UserError
from pushforward.formats import yaml_file
from pushforward.formats.config import load_yaml
from pushforward.formats.files import check_folder
from pushforward.formats.gguf_file import GGUFFile
from pushforward.formats.model import build, read_weights
from pushforward.formats.run import checkpoints, clear_run
from pushforward.formats.sd3_find import folder_part, read_json
from pushforward.formats.tensor_file import TensorFile
from pushforward.sd3.cache_files import read_json as read_cache
from pushforward.sd3.files import read_parts
from pushforward.sd3.text_encoders import text_encoder
from pushforward.sd3.transformers_text import Transformer
from pushforward.training.progress import read_metrics

TERABYTES = 1 << 42


def guarded(tmp_path, *calls):
    """Call in a process with bounded memory and time, where errors of the library pass."""
    assert escapes([(str(k), one) for k, one in enumerate(calls)], tmp_path / "log") == []


def sparse(path: Path, start: bytes = b"") -> Path:
    """Write a file of terabytes that takes no room on the disk."""
    path.write_bytes(start)
    os.truncate(path, TERABYTES)
    return path


# JSON.


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": NaN}', "NaN, which is no JSON"),
        ("[Infinity]", "Infinity"),
        ("[-Infinity]", "-Infinity"),
        ("[1e999]", "1e999, which is no finite number"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        ('{"b": [{"x": {}, "x": {}}]}', "'x' twice"),
        ("[" * 200 + "]" * 200, "levels"),
        ('{"a":' * 300 + "1" + "}" * 300, "levels"),
        ("[" * 200_000, "nested too deeply"),
        ("9" * 5000, "integer string conversion"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\uDfff": 1}', "surrogates not allowed"),
        ("\x00", "Expecting value"),
        ('"a\x00b"', "Invalid control character"),
        ("", "Expecting value"),
    ],
)
def test_json(text, match):
    with pytest.raises(ValueError, match=match):
        json_of(text)


def test_json_that_is_read():
    assert json_of('{"a": [1, 2.5, null, true, "\\ud83d\\ude00", {"a": -1e-3}]}') == {"a": [1, 2.5, None, True, "😀", {"a": -1e-3}]}
    deep = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    assert json_of(deep) == json.loads(deep)
    wide = str([[]] * 10 * MOST_LEVELS)
    assert json_of(wide) == json.loads(wide)
    assert json_of("[NaN, Infinity]", finite=False)[1] == float("inf")  # of rows of metrics


def test_many_keys_twice_take_no_quadratic_time():
    text = "{" + ",".join(f'"k{k % 30_000}": 1' for k in range(60_000)) + "}"
    start = time.monotonic()
    with pytest.raises(ValueError, match="twice"):
        json_of(text)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b'{"a": "\xe9"}', b"\x80\x81"])
def test_json_that_is_not_utf_8(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    calls = (check_folder, lambda folder: read_cache(folder / "manifest.json"), lambda folder: read_json(folder / "manifest.json"))
    for read in calls:
        with pytest.raises(PushforwardError):
            read(tmp_path)


# YAML.


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice"),
        ("x: {a: 1, a: 1}", "the key 'a' is there twice"),
        ("a: !!python/name:os.system ''", "could not determine a constructor"),
        ("a: !!python/object/new:os.system [ls]", "could not determine a constructor"),
        ("a: !!python/module:os", "could not determine a constructor"),
        ("!!python/object:pushforward.nn.MLP {}", "could not determine a constructor"),
        ("a: b\x00c", "not a plain YAML file"),
        ("? [a, b]\n: 1\n", "not a plain YAML file|unhashable"),
        ("%YAML 9.9\n---\na: 1", "not a plain YAML file|incompatible"),
        ("a: *nothing", "undefined alias"),
    ],
)
def test_yaml(tmp_path, text, match):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_yaml(tmp_path / "config.yaml")


@pytest.mark.slow
def test_yaml_with_and_without_libyaml_is_equally_bounded(tmp_path, monkeypatch):
    import importlib

    import yaml

    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    try:
        slow = importlib.reload(yaml_file)
        assert slow._Parser is yaml.SafeLoader
        (tmp_path / "x.yaml").write_text("a: &a [1, {b: 2}]\nc: *a\n")
        assert slow.read_yaml(tmp_path / "x.yaml") == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
        for text in ("a: 1\na: 2", "[" * 5000, "a: &a [*a]", "a: !!python/name:os.system ''"):
            (tmp_path / "x.yaml").write_text(text)
            with pytest.raises(ConfigError):
                slow.read_yaml(tmp_path / "x.yaml")
    finally:
        monkeypatch.undo()
        importlib.reload(yaml_file)


def test_configurations_that_are_not_text(tmp_path):
    for content in (b"\xff\xfe\x00", b"a: \xe9\n", bytes(100)):
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(ConfigError):
            load_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "net",
    [
        {"name": "nn.MLP", "hidden": [10**9] * 3},
        {"name": "nn.DiT", "width": 10**9, "heads": 1},
        pytest.param({"name": "nn.MLP", "hidden": [8] * 100_000}, marks=pytest.mark.slow),  # 20,000 parts are built before it is refused
        pytest.param({"name": "nn.DiT", "depth": 10**9}, marks=pytest.mark.slow),
    ],
)
def test_networks_that_cannot_be(tmp_path, net):
    def made():
        build({"preset": "rectified_flow", "model": {"shape": [1, 8, 8] if net["name"] == "nn.DiT" else [2], "net": net}})

    guarded(tmp_path, made)
    with pytest.raises(PushforwardError):
        made()


# Files of terabytes.


def test_a_file_of_terabytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pushforward._memory.free_memory", lambda: 2.0**33)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 1), }" % (TERABYTES - 128)
    header = header.ljust(117) + b"\n"
    numpy_file = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    idx = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**5, 2**5)
    (tmp_path / "images").mkdir()
    _images(tmp_path / "images")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    calls = {
        "text": lambda: text_of(sparse(tmp_path / "text"), DataError),
        "bytes": lambda: bytes_of(sparse(tmp_path / "bytes"), DataError),
        "yaml": lambda: load_yaml(sparse(tmp_path / "x.yaml")),
        "json": lambda: read_json(sparse(tmp_path / "x.json")),
        "cache": lambda: read_cache(sparse(tmp_path / "index.json")),
        "manifest": lambda: check_folder(sparse(tmp_path / "manifest.json").parent),
        "prompts": lambda: prompts_of("", sparse(tmp_path / "prompts.txt"), 1),
        "metrics": lambda: read_metrics(sparse(tmp_path / "metrics.jsonl")),
        "pointer": lambda: checkpoints(sparse(tmp_path / "run" / "checkpoints" / "best").parents[1]).pointed("best"),
        "csv": lambda: pf.data.load(sparse(tmp_path / "x.csv", b"a,b\n1,2\n")),
        "npy": lambda: pf.data.load(sparse(tmp_path / "x.npy", numpy_file)),
        "idx": lambda: read_idx(sparse(tmp_path / "idx", idx), 3),
        "font": lambda: ColourFont(sparse(tmp_path / "font.ttf")),
        "emoji": lambda: labelled_emoji(sparse(tmp_path / "data.json"), "en", True, True),
        "caption table": lambda: pf.data.load(sparse(tmp_path / "images" / "metadata.jsonl").parent, size=8),
        "safetensors": lambda: TensorFile(sparse(tmp_path / "x.safetensors", (1 << 41).to_bytes(8, "little"))),
        "gguf": lambda: GGUFFile(sparse(tmp_path / "x.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))),
    }
    guarded(tmp_path, *calls.values())
    for name, call in calls.items():
        with pytest.raises(PushforwardError) as raised:
            call()
        assert isinstance(raised.value, DataError | CheckpointError | ConfigError | UserError | OutOfMemoryError), name


def test_an_image_of_terabytes_is_replaced(tmp_path):
    _images(tmp_path)
    sparse(tmp_path / "03.bmp", (tmp_path / "03.bmp").read_bytes()[:40])
    guarded(tmp_path, lambda: pf.data.load(tmp_path, size=8)[:], lambda: pf.data.load(tmp_path, size=8).fingerprint())


# Headers that state what cannot be.


def safetensors(path: Path, header: object, data: int = 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**64 - 1]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "NONE", "shape": [2], "data_offsets": [0, 8]}},
        {"w": [1]},
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} x',
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"",
    ],
)
def test_headers_of_safetensors(tmp_path, header):
    path = safetensors(tmp_path / "x.safetensors", header)
    guarded(tmp_path, lambda: TensorFile(path), lambda: read_weights(path))
    for read in (TensorFile, read_weights):
        with pytest.raises(CheckpointError):
            read(path)


def test_a_header_of_gigabytes(tmp_path):
    for size in (2**63, 2**40, 10**9):
        (tmp_path / "x.safetensors").write_bytes(size.to_bytes(8, "little") + b"{" * 100)
        guarded(tmp_path, lambda: TensorFile(tmp_path / "x.safetensors"), lambda: read_weights(tmp_path / "x.safetensors"))
        with pytest.raises(CheckpointError):
            TensorFile(tmp_path / "x.safetensors")


def gguf_bytes(tensors: int = 1, keys: int = 0, shape: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0, more: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + more
    name = struct.pack("<Q", 1) + b"w"
    return head + name + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset) + bytes(64)


def listed(levels: int) -> bytes:
    """Return a value that is a list of a list of a list ..."""
    return struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * levels


@pytest.mark.parametrize(
    "content",
    [
        gguf_bytes(shape=(10**12,)),
        gguf_bytes(shape=(2**62, 4)),
        gguf_bytes(shape=(2**32, 2**32)),
        gguf_bytes(shape=(2,) * 200),
        gguf_bytes(kind=10**6),
        gguf_bytes(offset=2**62),
        gguf_bytes(tensors=2**60),
        gguf_bytes(keys=2**60),
        gguf_bytes(keys=1, more=listed(3_000)),
        gguf_bytes(keys=1, more=struct.pack("<Q", 2**60)),
        b"GGUF",
        b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + bytes(64),
    ],
    ids=["long", "wraps", "square", "axes", "kind", "offset", "tensors", "keys", "lists of lists", "long key", "short", "big endian"],
)
def test_headers_of_gguf(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    guarded(tmp_path, lambda: GGUFFile(tmp_path / "x.gguf"))
    with pytest.raises(CheckpointError):
        GGUFFile(tmp_path / "x.gguf")


# Names and links that leave a folder.


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x.safetensors", "..", "", "a\0", 3, None, ["x"]])
def test_the_index_of_shards(tmp_path, name):
    (tmp_path / "inside").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "x.safetensors")
    (tmp_path / "inside" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        folder_part(tmp_path / "inside")


def test_members_of_archives_are_never_written(tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    array = tmp_path / "a.npy"
    numpy.save(array, numpy.zeros((20, 2)))
    with zipfile.ZipFile(place / "x.npz", "w") as archive:
        for name in ("../out.npy", "/tmp/pushforward-out.npy", "x.npy"):
            archive.writestr(name, array.read_bytes())
    with contextlib.suppress(DataError):
        pf.data.load(place / "x.npz")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.npy", "in"]
    assert not Path("/tmp/pushforward-out.npy").exists()


def test_overwriting_a_run_removes_links_and_not_what_they_point_to(tmp_path):
    other, run = tmp_path / "other", tmp_path / "run"
    (other / "step-000001").mkdir(parents=True)
    (other / "step-000001" / "model.safetensors").write_text("precious")
    run.mkdir()
    (run / "config.yaml").write_text("model: {}\ntraining: {}\n")
    (run / "checkpoints").symlink_to(other)
    clear_run(run)
    assert (other / "step-000001" / "model.safetensors").read_text() == "precious"
    assert not any(run.iterdir())
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-000001").symlink_to(other / "step-000001")
    clear_run(run)
    assert (other / "step-000001" / "model.safetensors").read_text() == "precious"
    assert not any(run.iterdir())


@pytest.mark.slow  # importing datasets takes seconds
@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", 3])
def test_a_saved_set_names_its_own_files(tmp_path, name):
    _hub(tmp_path)
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"][0]["filename"] = name
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="which is not in this folder"):
        pf.data.load(tmp_path / "saved", columns=["a"])


@pytest.mark.slow
def test_images_that_a_saved_set_names_elsewhere_are_not_read(tmp_path):
    import datasets
    from PIL import Image

    place = tmp_path / "saved"
    Image.new("RGB", (8, 8), (250, 0, 0)).save(tmp_path / "secret.png")
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 20}
    kinds = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": kinds})).save_to_disk(place)
    facts = json.loads((place / "dataset_info.json").read_text())
    facts["features"] = {"image": {"_type": "Image"}}
    (place / "dataset_info.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="which is not in it"):
        pf.data.load(place, size=8)[:]


# Text encoders of transformers.


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    encoder(folder)
    return folder / "encoder"


@pytest.fixture
def changed(text):
    """A function that changes the config.json of a text encoder, for one test."""
    intact = (text / "config.json").read_text()

    def change(**entries):
        (text / "config.json").write_text(json.dumps(json.loads(intact) | entries))
        return text

    yield change
    (text / "config.json").write_text(intact)


@pytest.mark.slow  # importing transformers takes seconds
@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"num_hidden_layers": 10**9}, "more than 20000 layers"),
        ({"hidden_size": 10**9}, "cannot be read as a text encoder"),
        ({"vocab_size": 10**12}, "cannot be read as a text encoder"),
        ({"attn_implementation": "someone/kernel"}, "code of a repository, which is never run"),
        ({"text_config": [{"_attn_implementation": {"": "someone/kernel"}}]}, "code of a repository, which is never run"),
        ({"model_type": "new", "auto_map": {"AutoConfig": "harm.C", "AutoModel": "harm.M"}}, "custom code|cannot be read"),
        ({"model_type": "new"}, "cannot be read as a text encoder"),
    ],
)
def test_configurations_of_text_encoders(text, changed, entries, match, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (text / "harm.py").write_text("open('harm', 'w').close()")
    monkeypatch.setattr("builtins.input", lambda *args: "y")  # transformers asks on the terminal where nothing is stated
    with pytest.raises(CheckpointError, match=match):
        Transformer(changed(**entries), 8)
    assert not (tmp_path / "harm").exists()


def test_a_kernel_in_the_configuration_of_stable_diffusion_is_refused():
    for config in ({"_attn_implementation": "someone/kernel"}, {"sub": {"experts_implementation": "a/b"}}):
        with pytest.raises(CheckpointError, match="code of a repository, which is never run"):
            text_encoder("t5", {"shared.weight": torch.ones(2, 2)}, config)


# Fonts, captions, LoRAs.


@pytest.mark.slow
def test_fonts(tmp_path):
    font(tmp_path)
    intact = (tmp_path / "font.ttf").read_bytes()
    tables = struct.unpack(">H", intact[4:6])[0]
    bad = [b"", b"\0\1\0\0" + b"\xff" * 200, b"wOFF" + bytes(200), b"wOF2" + bytes(200), b"ttcf" + b"\xff" * 100, intact[:200]]
    for k in range(tables):  # the offset and the length of each table
        for field in (8, 12):
            place = 12 + 16 * k + field
            bad.append(intact[:place] + b"\xff\xff\xff\xf0" + intact[place + 4 :])

    def read():
        found = ColourFont(tmp_path / "font.ttf")
        found.picture(chr(0x2600), (255, 255, 255))

    refused = 0
    for content in bad:
        (tmp_path / "font.ttf").write_bytes(content)
        guarded(tmp_path, read)
        try:
            read()
        except DataError:
            refused += 1
    assert refused >= 6


@pytest.mark.parametrize(
    "row", ['{"file_name": "00.png", "text": "\\ud800"}', '{"file_name": NaN}', '{"file_name": "00.png", "text": "a", "text": "b"}']
)
def test_captions(tmp_path, row):
    _images(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match="metadata.jsonl cannot be read"):
        pf.data.load(tmp_path, size=8)


def test_a_caption_may_hold_any_separator(tmp_path):
    _images(tmp_path)
    rows = [json.dumps({"file_name": one.name, "text": "a\u2028b"}, ensure_ascii=False) for one in sorted(tmp_path.glob("[0-9]*"))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert set(pf.data.load(tmp_path, size=8).captions) == {"a\u2028b"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 1000, b"\r" * 10_000, b"x" * 3_000_000])
def test_prompts(tmp_path, content):
    (tmp_path / "prompts.txt").write_bytes(content)
    guarded(tmp_path, lambda: prompts_of("", tmp_path / "prompts.txt", 1))


@pytest.mark.parametrize(
    "content",
    [
        '{"lora_alpha": 1e999}',
        '{"lora_alpha": NaN}',
        '{"r": 1, "r": 2}',
        "[" * 200_000,
        '{"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}}',
    ],
)
def test_settings_of_loras(tmp_path, content):
    _lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError):
        _read_lora(tmp_path)


def test_the_sizes_of_a_pipeline(tmp_path):
    _diffusers(tmp_path)
    file = tmp_path / "pipeline" / "unet" / "config.json"
    intact = json.loads(file.read_text())
    for entries in ({"layers_per_block": 10**9}, {"block_out_channels": [10**9, 10**9]}):
        file.write_text(json.dumps(intact | entries))
        guarded(tmp_path, lambda: pf.load(tmp_path / "pipeline"))
        with pytest.raises(PushforwardError):
            pf.load(tmp_path / "pipeline")


@pytest.mark.slow
def test_the_sizes_of_stable_diffusion(tmp_path):
    _sd3(tmp_path)
    for part, entries in (
        ("transformer", {"sample_size": 10**9}),
        ("text_encoder", {"num_hidden_layers": 10**9}),
    ):
        file = tmp_path / "folder" / part / "config.json"
        intact = file.read_text()
        file.write_text(json.dumps(json.loads(intact) | entries))
        guarded(tmp_path, lambda: read_parts(tmp_path / "folder", None, "cpu", None, True))
        with pytest.raises(PushforwardError):
            read_parts(tmp_path / "folder", None, "cpu", None, True)
        file.write_text(intact)


def test_weights_and_configuration_that_do_not_belong_together(tmp_path):
    _image_model(tmp_path)
    save_file({"w": torch.ones(2)}, tmp_path / "saved" / "model.safetensors")
    with pytest.raises(CheckpointError):
        pf.load(tmp_path / "saved")


# Networks that are counted before they are filled.


@pytest.mark.parametrize("preset", ["rectified_flow", "nsf", "maf", "realnvp", "ffjord", "ddpm"])
def test_a_large_model_is_the_same_as_a_small_one(preset, monkeypatch):
    shape = (1, 8, 8) if preset == "ddpm" else (3,)
    models = []
    for always in (1 << 30, 100):  # with 100 bytes it is made without values first
        monkeypatch.setattr("pushforward._memory.ALWAYS", always)
        torch.manual_seed(3)
        models.append((getattr(pf.models, preset)(shape=shape).state_dict(), torch.rand(2)))
    (small, after), (large, after_too) = models
    assert small.keys() == large.keys()
    assert all(torch.equal(one, large[name]) and not one.is_meta for name, one in small.items())
    assert torch.equal(after, after_too)


def test_the_sum_of_all_layers_is_counted_before_the_first_gigabytes_are_filled(monkeypatch):
    monkeypatch.setattr("pushforward._memory.free_memory", lambda: 2.0**31)
    start = time.monotonic()
    with pytest.raises(OutOfMemoryError, match="more than the 2.15e[+]09 bytes"):
        pf.models.rectified_flow(pf.nn.MLP.Config((17_000,) * 4), shape=(2,))  # 3.5 GB in all, of which one layer has 1.2 GB
    assert time.monotonic() - start < 5
