"""Load and run a transformer with two billion parameters: time and memory. `python -m benchmarks.full_size`.

The sizes are those of Stable Diffusion 3 medium, the weights random numbers in bfloat16 in one .safetensors of 4 GB, which is written to a
temporary folder and removed. Each measurement runs in a separate process, so that memory left by one does not affect the
next; the file is in the page cache for all of them. The output is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pushforward.conditions import TextContext
from pushforward.formats.sd3 import SD3Files, read_sd3
from pushforward.formats.sd3_write import write_sd3
from pushforward.nn.mmdit import MMDiT

BLOCK = 1 << 24


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description="Load and run two billion parameters.")
    parser.add_argument("--side", type=int, default=64, help="side of the latents of the step; 64 are images of 512 pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--measure", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "full_size.safetensors"
        parameters = _write(file)
        found = {"parameters": parameters, "bytes": file.stat().st_size, "threads": options.threads, "latent_side": options.side}
        for name in MEASURES:
            command = [sys.executable, "-m", "benchmarks.full_size", "--measure", name, "--file", str(file)]
            command += ["--side", str(options.side), "--threads", str(options.threads)]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found["load_over_read"] = found["load_and_touch"]["seconds"] / found["read_bytes"]["seconds"]
    found["load_peak_over_weights"] = found["load_and_touch"]["peak_bytes"] / found["bytes"]
    print(json.dumps(found, indent=2))
    return 0


def _write(file: Path) -> int:
    """Write the checkpoint and return its number of parameters."""
    with torch.device("meta"):
        net = MMDiT((16, 128, 128), qk_norm=False).bfloat16()
    generator = torch.Generator().manual_seed(0)
    filled = {}
    for name, tensor in net.state_dict().items():
        filled[name] = torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
    net.load_state_dict(filled, assign=True)
    write_sd3(file, SD3Files(net))
    return sum(p.numel() for p in net.parameters())


def _measured(do: Callable[[], object]) -> dict[str, float]:
    """Return the run time in seconds and the peak increase of the process's memory in bytes, including mapped file pages."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    before, start = _memory("VmRSS"), time.perf_counter()
    do()
    return {"seconds": time.perf_counter() - start, "peak_bytes": _memory("VmHWM") - before}


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def read_bytes(options: argparse.Namespace) -> dict[str, float]:
    """Read the file's bytes into memory: the reference for loading."""

    def do() -> None:
        held = torch.empty(options.file.stat().st_size, dtype=torch.uint8)
        place = memoryview(held.numpy())
        with options.file.open("rb", buffering=0) as file:
            while place:
                place = place[file.readinto(place[:BLOCK]) :]

    do()  # the file enters the page cache, for this and the following processes
    return _measured(do)


def load(options: argparse.Namespace) -> dict[str, float]:
    """Load the transformer: its weights are memory-mapped and not yet touched."""
    return _measured(lambda: read_sd3(options.file))


def load_and_touch(options: argparse.Namespace) -> dict[str, float]:
    """Load the transformer and touch every page of its weights."""

    def do() -> None:
        net = read_sd3(options.file).transformer
        assert net is not None
        for tensor in net.state_dict().values():
            tensor.view(-1).view(torch.uint8)[:: os.sysconf("SC_PAGE_SIZE")].max()

    return _measured(do)


def step(options: argparse.Namespace) -> dict[str, float]:
    """Load the transformer and evaluate it for one image, as in one Euler step; then again, with the weights in memory."""
    x = torch.randn(1, 16, options.side, options.side)
    cond = TextContext(torch.randn(1, 333, 4096), torch.randn(1, 2048))
    held: list[MMDiT] = []

    def do() -> None:
        net = held[0] if held else read_sd3(options.file).transformer
        assert net is not None
        held[:] = [net]
        with torch.no_grad():
            velocity = net(x, torch.ones(1), cond)
        assert bool(velocity.isfinite().all())

    first = _measured(do)
    again = _measured(do)
    return {**first, "seconds_again": again["seconds"]}


MEASURES = {one.__name__: one for one in (read_bytes, load, load_and_touch, step)}

if __name__ == "__main__":
    raise SystemExit(main())
