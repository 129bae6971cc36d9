"""safetensors files: the reader accepts what safetensors itself accepts, and returns the same tensors."""

import json
import threading

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from pushforward.errors import CheckpointError
from pushforward.formats.model import read_weights
from pushforward.formats.tensor_file import DTYPES, TensorFile, write_tensors

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
RAW = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]%s}}%s'


def written(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


FILES = {
    "one tensor": ({"a": A}, 8),
    "no tensor": ({}, 0),
    "metadata": ({"__metadata__": {"a": "b"}, "a": A}, 8),
    "empty tensor": ({"a": A, "b": {**A, "shape": [0], "data_offsets": [8, 8]}}, 8),
    "empty tensor with long sides": ({"a": {**A, "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}, 0),
    "scalar": ({"a": {**A, "shape": [], "data_offsets": [0, 4]}}, 4),
    "unknown key": ({"a": {**A, "more": 1}}, 8),
    "record as a sequence": ({"a": ["F32", [2], [0, 8]]}, 8),
    "spaces around": (b" " + RAW % (b"", b"  "), 8),
    "leftover byte": ({"a": A}, 9),
    "leftover byte, record as a sequence": ({"a": ["F32", [2], [0, 8]]}, 9),
    "leftover byte without tensors": ({}, 1),
    "too short": ({"a": A}, 7),
    "gap": ({"a": A, "b": {**A, "data_offsets": [12, 20]}}, 20),
    "gap in front": ({"a": {**A, "data_offsets": [4, 12]}}, 12),
    "overlap": ({"a": A, "b": {**A, "data_offsets": [4, 12]}}, 12),
    "same bytes": ({"a": A, "b": A}, 8),
    "empty tensor inside another": ({"a": A, "b": {**A, "shape": [0], "data_offsets": [4, 4]}}, 8),
    "size of another shape": ({"a": {**A, "shape": [3]}}, 8),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "a": A}, 8),
    "metadata as a list": ({"__metadata__": ["a"], "a": A}, 8),
    "shape of a float": ({"a": {**A, "shape": [2.0]}}, 8),
    "shape of a string": ({"a": {**A, "shape": ["2"]}}, 8),
    "shape of a bool": ({"a": {**A, "shape": [True, 2]}}, 8),
    "negative shape": ({"a": {**A, "shape": [-1, -2]}}, 8),
    "size beyond 64 bits": ({"a": {**A, "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}, 0),
    "side beyond 64 bits": ({"a": {**A, "shape": [2**70, 0], "data_offsets": [0, 0]}}, 0),
    "side beyond torch": ({"a": {**A, "shape": [2**63, 0], "data_offsets": [0, 0]}}, 0),
    "three offsets": ({"a": {**A, "data_offsets": [0, 8, 9]}}, 8),
    "offset of a float": (RAW.replace(b"8]", b"8e0]") % (b"", b""), 8),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4),
    "repeated field": (RAW.replace(b'{"dtype"', b'{"dtype":"F32","dtype"') % (b"", b""), 8),
    "not a number": (RAW % (b',"x":NaN', b""), 8),
    "nested deeply": (RAW % (b',"x":' + b"[" * 500 + b"]" * 500, b""), 8),
    "nested more deeply": (RAW % (b',"x":' + b"[" * 100_000, b""), 8),
    "long integer": (RAW.replace(b"8]", b"8" * 5000 + b"]") % (b"", b""), 8),
    "zeros behind the header": (RAW % (b"", b"\0\0"), 8),
    "not UTF-8": (RAW.replace(b'"a"', b'"\xff"') % (b"", b""), 8),
    "UTF-16": (RAW.decode().replace("%s", "").encode("utf-16"), 8),
    "byte order mark": (b"\xef\xbb\xbf" + RAW % (b"", b""), 8),
    "half of a pair": (RAW.replace(b'"a"', b'"\\ud800"') % (b"", b""), 8),
    "a list": (b"[]", 0),
    "no header": (b"", 0),
    "unknown dtype": ({"a": {**A, "dtype": "f32"}}, 8),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_or_refused_as_by_safetensors(tmp_path, name):
    header, size = FILES[name]
    path = written(tmp_path / "a.safetensors", header, bytes(range(size)))
    try:
        with safe_open(path, "pt") as file:
            expected = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError):
        with pytest.raises(CheckpointError, match=r"a.safetensors (is|has|holds) .*download it again"):
            TensorFile(path)
        with pytest.raises(CheckpointError):
            read_weights(path)
        return
    opened = TensorFile(path)
    assert opened.entries.keys() == expected.keys()
    for key, tensor in expected.items():
        copy = torch.empty(tensor.numel(), dtype=tensor.dtype)
        opened.read_into(key, copy)
        for one in (opened.mapped(key), copy.view(tensor.shape)):
            assert (one.dtype, one.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(one, tensor)


@pytest.mark.parametrize(("size", "message"), [(9, r"behind its last tensor \(\d+ instead of \d+ in all\)"), (7, "is truncated: it has")])
def test_a_file_of_another_size_is_refused_by_its_size(tmp_path, size, message):
    with pytest.raises(CheckpointError, match=message):
        TensorFile(written(tmp_path / "a.safetensors", {"a": A}, bytes(size)))


def test_every_dtype_of_torch_is_written_and_read(tmp_path):
    tensors = {code: torch.arange(8).to(dtype) for code, dtype in DTYPES.items()}
    safetensors.torch.save_file(tensors, tmp_path / "theirs.safetensors")
    write_tensors(tmp_path / "ours.safetensors", {code: lambda one=one: one for code, one in tensors.items()}, {})
    for name in ("theirs", "ours"):
        opened = TensorFile(tmp_path / f"{name}.safetensors")
        assert opened.entries.keys() == tensors.keys()
        for code, tensor in tensors.items():
            assert opened.mapped(code).dtype == tensor.dtype
            assert torch.equal(opened.mapped(code).view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize(("code", "bytes_"), [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("F8_E8M0", 8)])
def test_a_dtype_that_is_not_supported_is_named(tmp_path, code, bytes_):
    header = {"a": A, "b": {"dtype": code, "shape": [8], "data_offsets": [8, 8 + bytes_]}}
    with pytest.raises(CheckpointError, match=f"holds b as {code}, a dtype that is not supported"):
        TensorFile(written(tmp_path / "a.safetensors", header, bytes(8 + bytes_)))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        TensorFile(tmp_path)


def test_threads_may_read_and_convert_one_file(tmp_path):
    """Eight threads, each converts its own tensor, all of one number; a shared buffer would mix them."""
    tensors = {str(k): torch.full((300_000,), float(k), dtype=torch.float16) for k in range(8)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    opened, wrong = TensorFile(tmp_path / "a.safetensors"), []

    def read(k):
        for _ in range(10):
            out = torch.empty(300_000)
            opened.read_into(str(k), out)
            wrong.extend(out[out != k].tolist())

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
