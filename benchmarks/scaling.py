"""What `training.plan` states about a step in several processes, next to what one does here.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling [--write]

The network is the transformer of `benchmarks.sharding`, 54.6 million parameters. Bytes in each process are those of its tensors between two
steps, bytes sent follow from the collectives that a step starts, and activations are the slope of a process's peak memory over the number
of images. Seconds of several processes are compared with computation / cores + bytes / bandwidth, of which the bandwidth is that of an
all-reduce of the gradients' size in the same processes. `--write` puts all of it into docs/assets/results/scaling.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pushforward as pf
from benchmarks.sharding import held, network, transformer
from pushforward.training.processes import processes
from pushforward.training.telemetry import memory_mb

RESULT = Path(__file__).parents[1] / "docs" / "assets" / "results" / "scaling.json"
KINDS = {"ddp": {}, "fsdp": {}, "hybrid": {"shard_size": 2}}
IMAGES, REPEATS, FEW, MANY = 4, 5, 24, 72
SHAPE = (4, 16, 16)


class Sent(TorchDispatchMode):
    """Counts the bytes that this process sends by collectives, as rings send them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        if name.startswith("c10d::"):
            group = dist.ProcessGroup.unbox(next(one for one in args if isinstance(one, torch.ScriptObject)))
            share = (group.size() - 1) / group.size()
            if name.startswith("c10d::allreduce_"):
                self.bytes += 2 * share * _bytes(args[0])
            elif "allgather" in name:
                self.bytes += share * _bytes([args[0]] if isinstance(args[0], Tensor) else args[0])
            elif "reduce_scatter" in name:
                self.bytes += share * _bytes([args[1]] if isinstance(args[1], Tensor) else args[1])
        return func(*args, **(kwargs or {}))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def measured(kind: str) -> dict[str, float]:
    """Return bytes and seconds of a step in this process."""
    among = processes()
    x = torch.randn(IMAGES * among.size, *SHAPE, generator=torch.Generator().manual_seed(0))
    trainer = pf.Trainer(
        transformer(), x, steps=REPEATS + 2, batch_size=len(x), block=IMAGES,
        parallel=kind if among.size > 1 else "auto", checkpoint_every=0,
        validate_every=0, **(KINDS[kind] if among.size > 1 else {}),
    )  # fmt: skip
    step, mine = trainer._step, x[:IMAGES]
    step(0, mine, None)
    with Sent() as sent:
        step(1, mine, None)
    parameters = list(trainer.model.parameters())
    moments = [one for own in step.optimiser.state.values() for one in own.values() if isinstance(one, Tensor)]
    kept = [held(some) for some in (parameters, [p.grad for p in parameters], moments, step.averaged.parameters())]
    seconds, reduced = [], []
    gradients = torch.zeros(sum(p.numel() for p in transformer().parameters()))
    for k in range(REPEATS):
        began = time.perf_counter()
        step(2 + k, mine, None)
        seconds.append(time.perf_counter() - began)
        if among.size > 1:
            began = time.perf_counter()
            dist.all_reduce(gradients)
            reduced.append(time.perf_counter() - began)
    found = {"bytes": float(sum(kept)), "sent": sent.bytes, "seconds": min(seconds)}
    if reduced:
        found["bandwidth"] = 2 * (among.size - 1) / among.size * _bytes([gradients]) / min(reduced)
    return found


def peak(images: int, recomputed: bool) -> float:
    """Return the peak memory of this process in MB after the gradients of a loss of so many images."""
    model = transformer().train()
    model.net.activation_checkpointing = recomputed
    with pf.fast.disabled():  # the plan counts what the plain blocks store, which run on GPUs
        model.loss(torch.randn(images, *SHAPE)).backward()
    return memory_mb(torch.device("cpu"))


def _inputs(n: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(n, *SHAPE), torch.zeros(n)


def compared() -> dict[str, Any]:
    """Return all rows, measured in processes of their own."""
    costs = {flag: pf.training.costs_of(network, _inputs, precision=None, activation_checkpointing=flag) for flag in (False, True)}
    rows: dict[str, Any] = {"parameters": costs[False].parameters, "steps": [], "activations": []}
    for recomputed, cost in costs.items():
        few, many = (_in_process("peak", images, int(recomputed))["peak"] for images in (FEW, MANY))
        stated = (cost.per_image + cost.again) / 1e6
        rows["activations"].append({"recomputed": recomputed, "plan_mb": stated, "measured_mb": (many - few) / (MANY - FEW)})
        print(rows["activations"][-1], flush=True)
    alone = _in_process("measured", 1, "ddp")["seconds"]
    for count in (1, 2, 4):
        for kind in KINDS if count == 4 else ("ddp", "fsdp") if count == 2 else ("ddp",):
            found = _in_process("measured", count, kind)
            plan = pf.training.plan(costs[False], IMAGES, count, kind, shard_size=2 if kind == "hybrid" else None)
            kept = sum(plan.memory[name] for name in ("weights", "gradients", "moments", "average"))
            stated = alone * max(1, count / (os.cpu_count() or 1)) + (plan.sent / found["bandwidth"] if count > 1 else 0)
            rows["steps"].append(
                {
                    "processes": count, "parallel": kind, "plan_mb": kept / 1e6, "measured_mb": found["bytes"] / 1e6,
                    "plan_sent_mb": plan.sent / 1e6, "sent_mb": found["sent"] / 1e6, "plan_seconds": stated, "seconds": found["seconds"],
                    "bandwidth_mb": found.get("bandwidth", 0.0) / 1e6,
                }
            )  # fmt: skip
            print({name: round(one, 3) if isinstance(one, float) else one for name, one in rows["steps"][-1].items()}, flush=True)
    return rows


def _in_process(what: str, count: int, more: Any) -> dict[str, float]:
    """Return what processes of this file print: `count` of them under torchrun for "measured", and one for "peak" of so many images."""
    command = [sys.executable, "-m", "benchmarks.scaling", what, str(count), str(more)]
    if what == "measured":
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *torchrun, "-m", "benchmarks.scaling", what, str(more)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help="used by the processes that it starts")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    if options.part[:1] == ["measured"]:
        found = measured(options.part[1])
        worst = {name: max(one[name] for one in processes().gather(found)) for name in found}
        if processes().main:
            print(json.dumps(worst))
    elif options.part[:1] == ["peak"]:
        print(json.dumps({"peak": peak(int(options.part[1]), options.part[2] == "1")}))
    else:
        rows = compared()
        if options.write:
            RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
