"""What only a GPU can show, in at most eight minutes: `make gpu-check`.

    python -m benchmarks.gpu_check [--device cuda] [--minutes 8] [--out gpu-check]

Every family and network gives on the GPU what it gives on the CPU; bf16, fp16, compiled networks and all attention kernels agree with
float32; a training is resumed bit by bit, the demo trains; MMDiT and U-Net are timed next to diffusers'. The result is a page with the
card's name, gpu-check/index.html, and the same as JSON. Parts for which no time is left are listed as such. Without a GPU it prints one
sentence and ends with 0; `--device cpu` runs its code there, which shows only that it works.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

import pushforward as pf
from pushforward import registry
from pushforward.errors import NotInvertibleError
from pushforward.functional.attention import attention as attended

NONE = "there is no GPU here, so nothing was checked; run `make gpu-check` where torch.cuda.is_available() is true"
TOLERANCE = 2e-3  # relative to the largest number: sums of float32 in another order, through networks and solvers
NARROW = {torch.bfloat16: 0.05, torch.float16: 0.01}  # of the loss, relative
PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ card }}</title>
<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;border-bottom:1px solid #8884;text-align:left}.no{color:#c33}</style>
<h1>{{ card }}</h1>
<p>pushforward {{ version }}, torch {{ torch }}, {{ date }}, {{ seconds }} s; {{ passed }} of {{ rows|length }} passed.</p>
<table><tr><th>part<th>what<th>found<th></tr>
{% for row in rows %}<tr><td>{{ row.part }}<td>{{ row.what }}<td>{{ row.found }}
<td class="{{ 'yes' if row.ok else 'no' }}">{{ 'ok' if row.ok else 'NO' }}</tr>
{% endfor %}</table>
"""


@dataclasses.dataclass(frozen=True)
class Found:
    """One line of the page."""

    part: str
    what: str
    found: str
    ok: bool


def moved(value: Any, device: torch.device | str) -> Any:
    """Return tensors, or records of them, on a device."""
    return value.to(device) if hasattr(value, "to") else tree_map(lambda one: one.to(device) if isinstance(one, Tensor) else one, value)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)) if expected.numel() else 0.0


def parity(device: torch.device) -> Iterator[Found]:
    """Losses with their gradients, samples, densities, latents of every family; outputs of every network."""
    for entry in [*registry.entries("families"), *registry.entries("models")]:
        if entry.example is None:
            continue
        torch.manual_seed(0)
        model, x, cond = entry.example()
        here, there = model.float().eval(), copy.deepcopy(model).float().eval().to(device)
        x = x.float()
        y, given = moved(x, device), moved(cond, device)
        worst: dict[str, float] = {}

        def seeded() -> torch.Generator:
            return torch.Generator().manual_seed(0)

        pair = [one.loss(data, c, generator=seeded()) for one, data, c in ((here, x, cond), (there, y, given))]
        worst["loss"] = error(pair[1], pair[0])
        for loss in pair:
            loss.backward()
        both = zip(here.parameters(), there.parameters(), strict=True)
        worst["gradient"] = max(error(q.grad, p.grad) for p, q in both if p.grad is not None and q.grad is not None)
        with torch.no_grad():
            worst["sample"] = error(*(one.sample(len(x), c, generator=seeded()) for one, c in ((there, given), (here, cond))))
            for verb in ("log_prob", "encode"):
                with contextlib.suppress(NotInvertibleError):  # jumps encode nothing
                    if verb in model.verbs:
                        worst[verb] = error(getattr(there, verb)(y, given), getattr(here, verb)(x, cond))
        name = max(worst, key=lambda one: worst[one])
        yield Found("parity", entry.name, f"{worst[name]:.1e} ({name})", worst[name] < TOLERANCE)
    for entry in registry.entries("nn"):
        if entry.example is None:
            continue
        torch.manual_seed(0)
        net, arguments = entry.example()
        if not isinstance(net, nn.Module):
            continue
        with torch.no_grad():
            out = net.float().eval()(*arguments)
            other = copy.deepcopy(net).to(device)(*(moved(one, device) for one in arguments))
        if isinstance(out, Tensor):
            found = error(other, out)
            yield Found("parity", entry.name, f"{found:.1e}", found < TOLERANCE)


def networks(device: torch.device) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """Return networks of some size, with their arguments, on the device."""
    torch.manual_seed(0)
    text = pf.TextContext(torch.randn(2, 77, 256), torch.randn(2, 128)).to(device)
    transformer = pf.nn.MMDiT((16, 32, 32), depth=4, heads=4, context_width=256, pooled_width=128, positions=32)
    nets = {
        "MMDiT": transformer,
        "U-Net": pf.nn.UNet((3, 32, 32), channels=64),
        "DiT": pf.nn.DiT((3, 32, 32), patch=2, width=256, depth=4, heads=4),
    }
    for net in nets.values():
        for p in net.parameters():
            nn.init.normal_(p, std=0.02)
        net.to(device)
    images, latents, t = torch.randn(2, 3, 32, 32, device=device), torch.randn(2, 16, 32, 32, device=device), torch.rand(2, device=device)
    return {name: (net, (latents, t, text) if name == "MMDiT" else (images, t)) for name, net in nets.items()}


@torch.no_grad()
def precision(device: torch.device) -> Iterator[Found]:
    """Autocast and compiled networks against float32."""
    for name, (net, arguments) in networks(device).items():
        exact = net(*arguments)
        for dtype, bound in NARROW.items():
            if device.type == "cpu" and dtype == torch.float16:
                continue
            with torch.autocast(device.type, dtype):
                found = error(net(*arguments), exact)
            yield Found("precision", f"{name}, autocast {str(dtype)[6:]}", f"{found:.1e}", found < bound)
        found = error(torch.compile(net)(*arguments), exact)
        yield Found("compile", name, f"{found:.1e}", found < TOLERANCE)


@torch.no_grad()
def attention(device: torch.device) -> Iterator[Found]:
    """Each kernel of attention that the device has, against the plain one."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(2, 8, 512, 64, device=device, dtype=dtype) for _ in range(3))
    with sdpa_kernel(SDPBackend.MATH):
        exact = attended(q.float(), k.float(), v.float())
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                found = error(attended(q, k, v), exact)
        except RuntimeError as reason:
            yield Found("attention", backend.name.lower(), f"not here: {str(reason).splitlines()[0][:80]}", ok=True)
            continue
        yield Found("attention", backend.name.lower(), f"{found:.1e}", found < 0.02)


def training(device: torch.device) -> Iterator[Found]:
    """A run that is resumed ends with the bits of one that was not; the demo trains."""
    data = pf.data.load("digits")

    def trained(steps: int, folder: Path, **more: Any) -> pf.Trainer:
        torch.manual_seed(0)
        model = pf.models.rectified_flow(pf.nn.UNet.Config(channels=16), (1, 8, 8), classes=10, levels=17)
        trainer = pf.Trainer(model, data, steps=steps, batch_size=64, seed=0, device=device, out=folder, **more)
        trainer.fit()
        return trainer

    with tempfile.TemporaryDirectory() as folder:
        whole = trained(60, Path(folder) / "whole")
        trained(25, Path(folder) / "parts")
        rest = trained(60, Path(folder) / "parts", resume=True)
        pairs = zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True)
        same = all(torch.equal(one, other) for one, other in pairs)
        yield Found("training", "resumed after 25 of 60 steps", "the same bits" if same else "other bits", same)
        began, options = time.perf_counter(), ["--device", str(device), "--steps", "1000", "--out", f"{folder}/demo"]
        run = subprocess.run([sys.executable, "-m", "pushforward", "demo", *options], capture_output=True, text=True, check=False)
        took = f"{time.perf_counter() - began:.0f} s, exit {run.returncode}"
        yield Found("training", "pushforward demo --steps 1000", took, run.returncode == 0)


@torch.no_grad()
def speed(device: torch.device) -> Iterator[Found]:
    """MMDiT and U-Net next to diffusers' networks of the same layout, in bf16 on a GPU, and the memory of a call."""
    from benchmarks.image_networks import _unets
    from benchmarks.mmdit import CONTEXT, POOLED, TEXT
    from benchmarks.mmdit import networks as transformers
    from benchmarks.timing import race

    on_gpu = device.type == "cuda"
    side, batch, dtype = (64, 4, torch.bfloat16) if on_gpu else (16, 1, torch.float32)
    ours, peer = (one.to(device, dtype) for one in transformers(qk_norm=True))
    x, t = torch.randn(batch, 16, side, side, device=device, dtype=dtype), torch.rand(batch, device=device)
    cond = pf.TextContext(torch.randn(batch, TEXT, CONTEXT), torch.randn(batch, POOLED)).to(device, dtype)
    _, unet, other, velocity = _unets()
    image = torch.randn(8, 3, 32, 32, device=device)
    unet, other, time_of = unet.to(device), other.to(device), torch.rand(8, device=device)
    cases = {
        "MMDiT": (lambda: ours(x, t, cond), lambda: peer(x, cond.context, cond.pooled, 1000 * t).sample),
        "U-Net": (lambda: unet(image, time_of), lambda: velocity(other, image, time_of)),
    }
    for name, contenders in cases.items():
        times = race({who: _waited(call, device) for who, call in zip(("ours", "diffusers"), contenders, strict=True)}, 5 if on_gpu else 1)
        ratio = times.ratio("ours", ["diffusers"])[0]
        memory = ""
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            contenders[0]()
            memory = f", {torch.cuda.max_memory_allocated(device) / 1e6:.0f} MB at most"
        milliseconds = ", ".join(f"{who} {1000 * times.best(who):.1f} ms" for who in times.runs)
        yield Found("speed", name, f"{milliseconds}: {ratio:.2f}x{memory}", ratio >= 0.95)


def _waited(call: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def checked(device: torch.device, seconds: float) -> list[Found]:
    """Return what all parts found, in turn, until the time is over."""
    began, rows = time.perf_counter(), []
    parts: dict[str, Iterator[Found]] = {
        "parity": parity(device), "attention": attention(device), "speed": speed(device), "training": training(device),
        "precision": precision(device),
    }  # fmt: skip
    for name, part in parts.items():
        with contextlib.closing(part):  # type: ignore[type-var]
            while time.perf_counter() - began < seconds:
                try:
                    rows.append(next(part))
                except StopIteration:
                    break
                except Exception as reason:  # the other parts are still of interest
                    rows.append(Found(name, "failed", f"{type(reason).__name__}: {str(reason).splitlines()[0][:200]}", ok=False))
                    break
                print(f"{rows[-1].part:<10} {rows[-1].what:<36} {rows[-1].found}  {'ok' if rows[-1].ok else 'NO'}", flush=True)
            else:
                rows.append(Found(name, "rest of this part", "no time was left", ok=False))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description="What only a GPU can show.")
    parser.add_argument("--device", default="cuda", help="the device")
    parser.add_argument("--minutes", type=float, default=8.0, help="time after which no further part is begun")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the page")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"gpu-check: {NONE}.")
        return 0
    device, began = torch.device(options.device), time.perf_counter()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options.out.mkdir(parents=True, exist_ok=True)
    rows = checked(device, 60 * options.minutes)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    facts = {
        "card": card, "version": pf.__version__, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - began), "passed": sum(row.ok for row in rows),
    }  # fmt: skip
    plain = [dataclasses.asdict(row) for row in rows]
    (options.out / "index.html").write_text(jinja2.Template(PAGE, autoescape=True).render(rows=plain, **facts), encoding="utf-8")
    (options.out / "result.json").write_text(json.dumps({**facts, "rows": plain}, indent=1), encoding="utf-8")
    print(f"gpu-check on {card}: {facts['passed']} of {len(rows)} passed in {facts['seconds']} s: {options.out / 'index.html'}.")
    return 0 if facts["passed"] == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
