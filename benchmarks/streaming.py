"""How many images a second are read from shards, and how many a training step takes.

    python -m benchmarks.streaming --write      # docs/assets/results/streaming.json

Pictures in JPEG, as smooth and large as photographs of 256 pixels, are written to shards first. Reading is measured as a run does it: in
the order of training, decoded and resized; from an image folder, from tar shards in local files and in fsspec's memory:// (which are copied
to the cache first), and from parquet files; in this process, and in worker processes. The steps are those of a U-Net on the images and of
an MMDiT on latents that are cached in shards.
"""

import argparse
import io
import json
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy
import torch
from PIL import Image

import pushforward as pf
from pushforward import sd3
from pushforward.data.images import decoded
from pushforward.sd3.text_layout import TextLayout, parts_of
from pushforward.training.buckets import order_of
from pushforward.training.order import batches

RESULT = Path(__file__).parents[1] / "docs/assets/results/streaming.json"
SHARDS, PER_SHARD, SIDE, SIZE, BATCH = 16, 125, 256, 64, 32
TOKENS, CHANNELS = 32, 256  # of the cached text
SECONDS = 4.0  # at least, of each measurement


def photographs() -> Iterator[tuple[str, bytes]]:
    """Yield smooth pictures with grain as JPEG, of about 20 kB each, with their names."""
    rng = numpy.random.default_rng(0)
    for k in range(SHARDS * PER_SHARD):
        coarse = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=numpy.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (SIDE, SIDE, 3))
        file = io.BytesIO()
        Image.fromarray((numpy.asarray(coarse) + grain).clip(0, 255).astype(numpy.uint8)).save(file, "JPEG", quality=90)
        yield f"{k:05d}", file.getvalue()


def write_all(folder: Path) -> int:
    """Write the pictures to a folder, to tar shards and to parquet shards; return the bytes of one picture on average."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for name in ("photos/a", "photos/b", "tar", "parquet"):
        (folder / name).mkdir(parents=True)
    held, total = list(photographs()), 0
    for number in range(SHARDS):
        part = held[number * PER_SHARD : (number + 1) * PER_SHARD]
        with tarfile.open(folder / "tar" / f"{number:03d}.tar", "w") as archive:
            for k, (name, content) in enumerate(part):
                total += len(content)
                (folder / "photos" / "ab"[k % 2] / f"{name}.jpg").write_bytes(content)
                for member, value in ((f"{name}.jpg", content), (f"{name}.cls", b"01"[k % 2 : k % 2 + 1])):
                    entry = tarfile.TarInfo(member)
                    entry.size = len(value)
                    archive.addfile(entry, io.BytesIO(value))
        columns = {
            "image": [{"bytes": content, "path": f"{name}.jpg"} for name, content in part],
            "label": [k % 2 for k in range(len(part))],
        }
        path = folder / "parquet" / f"train-{number:05d}-of-{SHARDS:05d}.parquet"
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path), batch_size=PER_SHARD)
    return total // len(held)


def rate(data: Any, workers: int) -> float:
    """Return the examples a second of a run's batches, after the first ones, which start the workers."""
    steps = 10**6
    loader = iter(batches(data, order_of(data, BATCH, 0, 0, steps), workers))
    for _ in range(2 + 2 * workers):
        next(loader)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        count += len(next(loader)[0])
    return count / (time.perf_counter() - start)


def seconds_of(make: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = make()
    return time.perf_counter() - start, made


class Words:
    """A text encoder that costs nothing: random channels of each caption."""

    def __init__(self) -> None:
        none = pf.TextContext(torch.zeros(1, TOKENS, CHANNELS), torch.zeros(1, CHANNELS))
        self.layout = TextLayout(parts_of(["words"], [TOKENS], [CHANNELS], [CHANNELS]), none, "zeros")

    def __call__(self, prompts: Any) -> pf.TextContext:
        return pf.TextContext(torch.randn(len(prompts), TOKENS, CHANNELS), torch.randn(len(prompts), CHANNELS))

    def fingerprint(self) -> str:
        return "words"


def step_rate(model: Any, data: Any, device: torch.device, precision: str) -> float:
    """Return the examples a second of training steps alone, on one batch that is already there."""
    trainer = pf.Trainer(model, data, steps=1, batch_size=BATCH, block=BATCH, validate_every=0, device=device, precision=precision)
    x, cond, noise = trainer._feed.placed((*data.batch(range(BATCH)), None))
    step, done = trainer._step, 0

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for k in range(3):
        step(k, x, cond, noise)
    settle()
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        step(3 + done, x, cond, noise)
        settle()
        done += 1
    return done * BATCH / (time.perf_counter() - start)


def measured(folder: Path, workers: tuple[int, ...], device: torch.device, precision: str) -> dict[str, Any]:
    size = write_all(folder)
    memory = fsspec.filesystem("memory")
    for path in (folder / "tar").iterdir():
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
    names = {
        "image folder": (str(folder / "photos"), {}),
        "tar shards": (f"wds:{folder}/tar", {}),
        "tar shards, memory://": ("wds:memory://shards/*.tar", {}),
        "parquet shards": (f"hf:{folder}/parquet", {"streaming": True}),
    }
    reading, found = [], {}
    for name, (source, options) in names.items():
        first, data = seconds_of(lambda source=source, options=options: pf.data.load(source, size=SIZE, **options))
        again, data = seconds_of(lambda source=source, options=options: pf.data.load(source, size=SIZE, **options))
        found[name] = data
        rates = {str(number): round(rate(data, number), 1) for number in workers}
        reading.append({"source": name, "load_seconds": round(first, 3), "again_seconds": round(again, 3), "samples_per_second": rates})
        print(json.dumps(reading[-1]), flush=True)
    torch.manual_seed(0)
    images = found["tar shards"]
    opening, files = seconds_of(lambda: [images.source.open(row) for row in range(len(images))])
    decoding, _ = seconds_of(lambda: [decoded(file, (SIZE, SIZE), 3) for file in files])
    vae = pf.nn.AutoencoderKL(3, 4, (16, 32), groups=8).to(device)
    captions = [f"picture {k}" for k in range(len(images))]
    encoding, pairs = seconds_of(
        lambda: sd3.cache_latents(images, folder / "latents", vae, Words(), captions=captions, per_shard=PER_SHARD)
    )
    by_shard = sd3.LatentPairs(folder / "latents", window=4)
    for name, data in (("cached latents", pairs), ("cached latents, window of 4", by_shard)):
        rates = {str(number): round(rate(data, number), 1) for number in workers}
        reading.append({"source": name, "samples_per_second": rates})
        print(json.dumps(reading[-1]), flush=True)
    unet = pf.models.rectified_flow(
        pf.nn.UNet.Config(channels=32, multipliers=(1, 2, 2), depth=1), (3, SIZE, SIZE), classes=2, levels=256, preprocess="standardise"
    )
    net = pf.nn.MMDiT.Config(patch=2, depth=6, heads=6, head_width=64, context_width=CHANNELS, pooled_width=CHANNELS, positions=16)
    mmdit = pf.families.PathModel(net.build(pairs.shape), pairs.shape, path=pf.paths.Linear())
    steps = []
    for name, model, data in (("U-Net on images", unet, images), ("MMDiT on cached latents", mmdit, pairs)):
        number = sum(p.numel() for p in model.parameters())
        each = step_rate(model, data, device, precision)
        steps.append({"step": name, "parameters": number, "shape": list(data.shape), "samples_per_second": round(each, 1)})
        print(json.dumps(steps[-1]), flush=True)
    return {
        "images": {"count": SHARDS * PER_SHARD, "side": SIDE, "bytes": size, "resized": SIZE, "shards": SHARDS, "batch": BATCH},
        "reading": reading,
        "milliseconds": {"shard": round(1e3 * opening / len(files), 3), "decoding": round(1e3 * decoding / len(files), 3)},
        "encoding_per_second": round(len(images) / encoding, 1),
        "steps": steps,
    }


def machine(device: torch.device, precision: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": name, "precision": precision, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}, next to what other devices measured")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PUSHFORWARD_CACHE"] = str(Path(folder) / "cache")
        facts = {**machine(device, options.precision), **measured(Path(folder), tuple(options.workers), device, options.precision)}
    if options.write:
        held = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
        options.out.write_text(json.dumps({**held, device.type: facts}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
