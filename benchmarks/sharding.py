"""Memory, speed and saves of a transformer of 50 million parameters in two processes, as copies (DDP) and in shards (FSDP).

    OMP_NUM_THREADS=1 python -m benchmarks.sharding

Each way has its own pair of processes. Bytes are those of the tensors that a process holds between two steps: weights, gradients, AdamW's
moments and the average. The stall of a save is the time until training continues; `background` also states by how much the steps that
follow are slower in total until it has been written.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import pushforward as pf
from pushforward.training.order import BlockGenerators
from pushforward.training.processes import processes
from pushforward.training.shards import local
from pushforward.training.telemetry import memory_mb

STEPS, SAVES, LARGER = 6, 3, 16
SIZES = {"heads": 8, "head_width": 64, "context_width": 64, "pooled_width": 64, "positions": 16, "base_size": 8, "null_tokens": 16}


def network() -> pf.nn.MMDiT:
    """Return an MMDiT of 50 million parameters on latents of 4 x 16 x 16, untrained."""
    return pf.nn.MMDiT.Config(patch=2, depth=6, **SIZES).build((4, 16, 16))


def transformer() -> pf.families.PathModel:
    """Return the rectified flow of that network."""
    torch.manual_seed(0)
    return pf.families.PathModel(network(), (4, 16, 16), path=pf.paths.Linear())


def held(tensors: Iterable[Tensor | None]) -> int:
    """Return the bytes of tensors in this process."""
    parts = [local(one) for one in tensors if one is not None]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def measured(kind: str, background: bool) -> dict[str, float]:
    """Return what one way costs in this process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(processes().gather(folder)[0]) / "run"
        trainer = pf.Trainer(
            transformer(), torch.randn(64, 4, 16, 16), out=out, steps=STEPS, batch_size=4, block=1, parallel=kind, checkpoint_every=0,
            validate_every=0, async_checkpoints=background,
        )  # fmt: skip
        step, number = trainer._step, sum(p.numel() for p in trainer.model.parameters())
        x = torch.randn(2, 4, 16, 16)
        for k in range(2):
            step(k, x, None)
        parameters = list(trainer.model.parameters())
        moments = [one for own in step.optimiser.state.values() for one in own.values() if isinstance(one, Tensor)]
        parts = {"weights": held(parameters), "gradients": held(p.grad for p in parameters), "moments": held(moments)}
        parts["average"] = held(trainer._step.averaged.parameters())
        seconds = []
        for k in range(2, STEPS):
            began = time.perf_counter()
            step(k, x, None)
            seconds.append(time.perf_counter() - began)
        usual, stalls, slowed = sorted(seconds)[len(seconds) // 2], [], []
        for k in range(SAVES):
            trainer.progress.step = k + 1
            began = time.perf_counter()
            trainer.save()
            stalls.append(time.perf_counter() - began)
            extra = 0.0
            while trainer._saving._parts:
                began = time.perf_counter()
                step(STEPS + k, x, None)
                extra += time.perf_counter() - began - usual
                trainer._saving.poll()
            slowed.append(extra)
        peak = memory_mb(torch.device("cpu"))
        x, began = torch.randn(LARGER, 4, 16, 16), time.perf_counter()
        step.generators = BlockGenerators(0, range(LARGER))
        step(0, x, None)
        larger = time.perf_counter() - began
        found = {"parameters": number, "step": usual, "larger step": larger, "peak_mb": peak}
        found |= {"stall": sorted(stalls)[SAVES // 2], "slowed": sorted(slowed)[SAVES // 2]}
        processes().gather(None)  # the first process removes the folder
    return found | {name: size / 1e6 for name, size in parts.items()}


def main() -> None:
    if sys.argv[1:]:
        found = measured(sys.argv[1], sys.argv[2] == "background")
        worst = {name: max(one[name] for one in processes().gather(found)) for name in found}
        if processes().main:
            print(json.dumps(worst))
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.sharding"]
    rows = {}
    for kind in ("ddp", "fsdp"):
        for when in ("synchronous", "background"):
            run = subprocess.run([*command, kind, when], capture_output=True, text=True, check=True)
            rows[kind, when] = json.loads(run.stdout.strip().splitlines()[-1])
            print(kind, when, {name: round(value, 3) for name, value in rows[kind, when].items()}, flush=True)
    ddp, fsdp = rows["ddp", "synchronous"], rows["fsdp", "synchronous"]
    copies, shards = (sum(one[name] for name in ("weights", "gradients", "moments")) for one in (ddp, fsdp))
    print(f"weights, gradients and moments: {copies:.0f} MB as copies, {shards:.0f} MB in shards, {shards / copies:.3f}")
    ratio, larger = fsdp["step"] / ddp["step"], fsdp["larger step"] / ddp["larger step"]
    print(f"a step in shards takes {ratio:.2f} times as long, with {LARGER} images a process {larger:.2f}")


if __name__ == "__main__":
    main()
