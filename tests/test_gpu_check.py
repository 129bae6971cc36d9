"""The check of GPUs where there is none: one sentence; its parts work on a CPU, and its page has every line."""

import sys

import pytest
import torch

import pushforward as pf
from benchmarks import gpu_check

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, which `make gpu-check` checks")
def test_without_a_gpu_there_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "page")])
    assert gpu_check.main() == 0
    assert capsys.readouterr().out == f"gpu-check: {gpu_check.NONE}.\n"
    assert not (tmp_path / "page").exists()


def test_a_device_with_other_numbers_is_found(monkeypatch):
    """A device that computes something else must not pass."""
    net, arguments = pf.registry.entry("nn.MLP").example()
    assert gpu_check.error(net(*arguments), net(*arguments)) == 0
    assert gpu_check.error(1.01 * net(*arguments), net(*arguments)) == pytest.approx(0.01)
    attended = gpu_check.attended
    monkeypatch.setattr(gpu_check, "attended", lambda q, k, v: attended(q, k, v) + (torch.rand(()) if q.is_contiguous() else 0))
    assert not all(row.ok for row in gpu_check.attention(CPU))


def test_the_page_has_every_line(monkeypatch, capsys, tmp_path):
    rows = [gpu_check.Found("parity", "a <model>", "1e-7", ok=True), gpu_check.Found("speed", "U-Net", "0.5x", ok=False)]
    monkeypatch.setattr(gpu_check, "checked", lambda device, seconds: rows)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--out", str(tmp_path)])
    assert gpu_check.main() == 1
    page = (tmp_path / "index.html").read_text()
    assert "a &lt;model&gt;" in page
    assert "1 of 2 passed" in page
    assert "1 of 2 passed" in capsys.readouterr().out


@pytest.mark.slow
def test_all_parts_work_on_a_cpu():
    for part in (gpu_check.parity, gpu_check.attention, gpu_check.precision):
        assert all(row.ok for row in part(CPU))
